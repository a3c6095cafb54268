"""Compare: policies of one sweep or several, with the statistics beside the chart."""

from dataclasses import replace

import streamlit as st

from dashboards.reading import choose_group, groups, sweep_names
from dashboards.showing import plain, show_chart, show_comparisons, show_policies, show_targets
from lrbs_core import figures
from lrbs_core.figures.drawing import TITLES
from lrbs_core.report import advice, overview
from lrbs_core.specs import RunSpec
from lrbs_core.store import Record
from lrbs_core.sweeping import Sweep

X_AXES = ("epoch", "updates", "train_seconds")
# Pixels, so that its labels have room on a telephone.
TRADE_WIDTH = 200
METRICS = ("test_accuracy", "train_accuracy", "test_loss", "train_loss")
# Of runs that all set training examples aside.
VALIDATED = ("validation_accuracy", "validation_loss")


def named(name: str) -> str:
    return str(TITLES[name])


st.title("Compare")
names = sweep_names()
sweeps = st.multiselect("Sweeps", names, default=names[:1])
runs: dict[str, tuple[RunSpec, Record]] = {}
for sweep in sweeps:
    for spec, record in choose_group(sweep, groups(sweep)).pairs:
        # A run that is of two sweeps counts once.
        runs.setdefault(spec.key, (replace(spec, label=f"{sweep}: {spec.label}") if len(sweeps) > 1 else spec, record))
pairs = list(runs.values())
labels = list(dict.fromkeys(spec.label for spec, _ in pairs))
chosen = st.multiselect("Policies", labels, default=labels)
pairs = [pair for pair in pairs if pair[0].label in chosen]
if not pairs:
    st.info("Choose at least one policy.")
    st.stop()

left, middle, right = st.columns(3)
x = left.selectbox("x-axis", X_AXES, format_func=named)
judged = all(spec.validation for spec, _ in pairs)
metric = middle.selectbox("y-axis", METRICS + VALIDATED * judged, format_func=named)
baseline = right.selectbox("Baseline", chosen)
left, right = st.columns(2)
margin = left.number_input(
    "Margin: the difference in test accuracy (%) that does not matter", 0.0, 100.0, 0.0, step=0.1
)
target = right.number_input("Target: updates to this test accuracy (%)", 0.01, 100.0, None, step=1.0)

document = overview(
    Sweep(" and ".join(sweeps), "", (), tuple(spec for spec, _ in pairs)), pairs, baseline, margin, target
)
begun = [pair for pair in pairs if pair[1].rows]
if begun:
    numbers = figures.seconds_numbers(begun, metric) if x == "train_seconds" else figures.metric_numbers(begun, metric)
    others = {"epoch", "updates"} - {x}
    left, right = st.columns([3, 2])
    with left:
        show_chart(figures.metric_chart(numbers.drop(columns=list(others), errors="ignore"), metric, labels))
        st.caption("Mean and 95 % band over the seeds that got there." + plain(figures.left_out(begun, numbers)))
    with right:
        show_policies(document)
        st.caption("Mean ± half of the 95 % interval (Student's t) over n finished runs.")
left, right = st.columns([3, 2])
if len(chosen) > 1:
    with left:
        st.subheader("Differences in test accuracy")
        show_comparisons(document)
        st.caption(
            "Less that of the baseline, over pairs of runs with the same seed; p of the paired t-test, corrected for "
            "the number of policies. Equivalent: the difference is surely within the margin (two one-sided tests). "
            + plain(advice(document))
        )
if any(record.status == "finished" for _, record in pairs):
    with right:
        st.subheader("What the updates buy")
        trade = figures.trade_chart(figures.trade_numbers(pairs), labels, TRADE_WIDTH)
        st.altair_chart(trade, theme=None, width="content")
if target is not None:
    st.subheader("Updates to the target")
    show_targets(document)
    st.caption("Median over seeds (Kaplan and Meier: a run that does not get there counts as taking longer).")
