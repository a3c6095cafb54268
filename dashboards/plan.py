"""Plan: a policy built with sliders, its twin by trades, and what both cost, before anything is run."""

import dataclasses
from typing import Any, get_args

import streamlit as st

from dashboards.showing import plain, show_chart, show_plans
from lrbs_core import Policy, RunSpec, figures
from lrbs_core.planning import Partial
from lrbs_core.schedules import KINDS, Schedule
from lrbs_core.specs import EXAMPLES

CURVES = (
    "Steps", "Constant", "Cosine", "Linear", "Polynomial", "Exponential", "Triangular", "Triangular2", "ExpRange",
    "Welch", "Hann",
)  # fmt: skip
LEVELS = [float(f"{digit}e{power}") for power in range(-5, 2) for digit in (1, 2, 5)]
BATCHES = [2**power for power in range(3, 15)]
# Where a slider stands at first, by the field's name.
FIRST = {"value": 0.1, "start": 0.1, "end": 0.001, "low": 0.001, "high": 0.05}


def slide(field: dataclasses.Field[Any], epochs: float) -> Any:
    """A widget for a field of a schedule."""
    name, kind = field.name, field.metadata.get("kind")
    if name == "at":
        thirds = ", ".join(f"{epochs * share:g}" for share in (0.3, 0.6, 0.8))
        return tuple(float(text) for text in st.text_input("at (epochs)", thirds).split(",") if text.strip())
    if name == "shrink":
        return st.selectbox("shrink", ("both", "amplitude"))
    if kind == "level":
        return st.select_slider(name, LEVELS, FIRST[name], format_func="{:g}".format)
    if kind == "epochs":
        return st.slider(f"{name} (epochs)", 0.0, epochs, epochs if name == "epochs" else epochs / 8)
    if kind == "rate":
        return st.slider(f"{name} (a factor an epoch)", 0.5, 1.0, 0.97)
    return st.slider(name, 0.0, 4.0, 0.2 if name == "factor" else 1.0, step=0.05)


def schedule(epochs: float) -> Schedule:
    """The learning rate, as its sliders stand."""
    kind = KINDS[st.selectbox("Learning rate", CURVES)]
    values = {field.name: slide(field, epochs) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**values)


def trades(policy: Policy, examples: int) -> tuple[Policy, str]:
    """The twin of a policy, and the trades that make it as Python."""
    twin, code = policy, ""
    exactly = st.toggle("Keep lr (N/B - 1) / (1 - m) itself, not lr / (B (1 - m))")
    exact, also = (examples, f", exact={examples}") if exactly else (None, "")
    factor = st.slider("Scale lr and batch size by", 1, 32, 1)
    if factor > 1:
        twin, code = twin.scale(factor, exact), f"{code}.scale({factor}{also})"
    momentum = policy(0.0).momentum
    raised = st.slider("Raise momentum to", momentum, 0.99, momentum, step=0.005, format="%.3f")
    if raised > momentum:
        twin, code = twin.raise_momentum(raised, exact), f"{code}.raise_momentum({raised}{also})"
    if st.toggle("Grow the batch where lr falls", value=True):
        most = st.select_slider("Largest batch", BATCHES, 4096)
        twin = twin.grow_batch(max_batch_size=most, exact=exact)
        code = f"{code}.grow_batch(max_batch_size={most}{also})"
    return twin, code


st.title("Plan")
left, right = st.columns([1, 2])
try:
    with left:
        dataset = st.selectbox(
            "Training examples", EXAMPLES, 1, format_func=lambda name: f"{EXAMPLES[name]:,} ({name})"
        )
        epochs = float(st.slider("Epochs", 1, 300, 200))
        lr = schedule(epochs)
        batch_size = st.select_slider("Batch size", BATCHES, 128)
        momentum = st.slider("Momentum", 0.0, 0.98, 0.9, step=0.01)
        partial = st.selectbox("An epoch's last partial batch", get_args(Partial))
        policy = Policy(lr, batch_size, momentum)
        st.subheader("Twin")
        twin, code = trades(policy, EXAMPLES[dataset])
    specs = [
        RunSpec(
            label=label, policy=each, dataset=f"imagefolder:{dataset}", examples=EXAMPLES[dataset], model="any",
            optimizer="sgd", weight_decay=0.0, ghost_size=None, augmentation="none", normalization="channel",
            epochs=epochs, partial=partial, seed=0,
        )
        for label, each in (("policy", policy), ("twin", twin))
    ]  # fmt: skip
    with right:
        show_plans(specs)
        show_chart(figures.settings_chart(figures.settings_numbers(specs)))
except ValueError as error:
    st.error(plain(error))
    st.stop()

st.subheader("As Python")
st.code(
    f"from lrbs_core import Policy, {type(lr).__name__}, make_plan\n\n"
    f"policy = Policy(\n    lr={lr!r},\n    batch_size={batch_size},\n    momentum={momentum},\n)\n"
    f"twin = policy{code}\n"
    f"for each in (policy, twin):\n"
    f"    print(make_plan(each, examples={EXAMPLES[dataset]}, epochs={epochs:g}, partial={partial!r}).updates)\n"
)
