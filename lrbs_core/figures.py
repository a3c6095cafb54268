"""Figures: each is two functions, the numbers (a frame) and the drawing (an Altair chart)."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from lrbs_core.range_test import smoothed
from lrbs_core.results import RunRecord, curves
from lrbs_core.specs import RunSpec
from lrbs_core.statistics import mean_interval

__all__ = [
    "accuracy_chart", "accuracy_numbers", "range_chart", "range_numbers", "save", "settings_chart", "settings_numbers",
    "svg",
]  # fmt: skip

# Okabe and Ito's colours, told apart by colour-blind readers and, with the dashes, in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 4], [1, 3], [10, 4], [3, 1])
WIDTH, HEIGHT = 320, 220
LOG = alt.Scale(type="log", nice=False)
FEW_TICKS = alt.Axis(tickCount=5)
# Lines, also where bands share the legend.
LEGEND = alt.Legend(
    title=None, orient="bottom", columns=2, labelLimit=300, symbolType="stroke", symbolSize=400, symbolOpacity=1,
    symbolStrokeWidth=2, symbolFillColor="transparent",
)  # fmt: skip


def settings_numbers(specs: Iterable[RunSpec], points: int = 400) -> pd.DataFrame:
    """lr and batch size of each policy by epoch, both sides of every jump included."""
    lines = []
    for spec in {spec.label: spec for spec in specs}.values():
        edges = spec.policy.edges(spec.epochs)
        grid = {spec.epochs * i / points for i in range(points)}
        sides = {side for edge in edges for side in (edge, edge * (1 - 1e-9)) if side < spec.epochs}
        for epoch in sorted(grid | sides):
            setting = spec.policy(epoch)
            lines.append({"policy": spec.label, "epoch": epoch, "lr": setting.lr, "batch_size": setting.batch_size})
    return pd.DataFrame(lines)


def settings_chart(numbers: pd.DataFrame) -> alt.HConcatChart:
    """lr and batch size against epochs on log axes (Smith et al. 2018, Figure 1)."""

    def panel(name: str, title: str) -> alt.Chart:
        line = _line(numbers).encode(x=_x("epoch"), y=alt.Y(f"{name}:Q", title=title, scale=LOG, axis=FEW_TICKS))
        chart: alt.Chart = line.properties(width=WIDTH, height=HEIGHT)
        return chart

    return _side_by_side(panel("lr", "learning rate"), panel("batch_size", "batch size"))


def accuracy_numbers(pairs: Sequence[tuple[RunSpec, RunRecord]]) -> pd.DataFrame:
    """Test accuracy by policy and row: mean over seeds and 95 % interval, with the epoch and updates of the row."""
    table = curves(pairs)
    lines = []
    for (policy, row), group in table.groupby(["policy", "row"], sort=False):
        mean, low, high, n = mean_interval(group["test_accuracy"].astype(float).tolist())
        first = group.iloc[0]
        lines.append({
            "policy": policy, "row": row, "epoch": first["epoch"], "updates": first["updates"],
            "mean": mean, "low": low, "high": high, "n": n,
        })  # fmt: skip
    return pd.DataFrame(lines)


def accuracy_chart(numbers: pd.DataFrame) -> alt.HConcatChart:
    """Test accuracy against epochs and against updates (log axis), mean with 95 % band over seeds."""

    def panel(name: str) -> alt.LayerChart:
        accuracy = alt.Scale(zero=False, nice=False)
        line = _line(numbers).encode(x=_x(name), y=alt.Y("mean:Q", title="test accuracy (%)", scale=accuracy))
        band = alt.Chart(numbers).mark_area(opacity=0.12).encode(
            x=_x(name), y=alt.Y("low:Q", scale=accuracy), y2="high:Q", color=_colour(numbers)
        )  # fmt: skip
        layers: alt.LayerChart = (band + line).properties(width=WIDTH, height=HEIGHT)
        return layers

    return _side_by_side(panel("epoch"), panel("updates"))


def range_numbers(pairs: Sequence[tuple[RunSpec, RunRecord]]) -> pd.DataFrame:
    """Test accuracy of each seed's ramp by lr, as measured and smoothed."""
    table = curves(pairs)[["seed", "lr", "test_accuracy"]]
    smooth = table.groupby("seed")["test_accuracy"].transform(smoothed)
    return table.assign(smoothed=smooth)


def range_chart(numbers: pd.DataFrame, document: dict[str, Any]) -> alt.LayerChart:
    """Accuracy against lr of a range test (L. N. Smith 2017, Figure 3), rules at the bounds, bands their intervals."""
    axis = alt.X("lr:Q", title="learning rate", scale=LOG if document["ramp"]["geometric"] else alt.Scale(nice=False))
    curve = alt.Chart(numbers).encode(x=axis, detail="seed:N")
    points = curve.mark_circle(size=14, opacity=0.35, color=COLOURS[0]).encode(y="test_accuracy:Q")
    lines = curve.mark_line(strokeWidth=1.5, color=COLOURS[0]).encode(y=alt.Y("smoothed:Q", title="test accuracy (%)"))
    bounds = pd.DataFrame([
        {"bound": f"{name}{'' if document[f'{name}_found'] else sign} {document[name]['mean']:.2g}"} | document[name]
        for name, sign in (("low", " <"), ("high", " >"))
    ])  # fmt: skip
    colour = alt.Color("bound:N", scale=alt.Scale(range=COLOURS[2:0:-1]), sort=None, legend=None)
    bands = alt.Chart(bounds.dropna()).mark_rect(opacity=0.15).encode(x="low:Q", x2="high:Q", color=colour)
    rules = alt.Chart(bounds).mark_rule(strokeWidth=2).encode(x="mean:Q", color=colour)
    names = rules.mark_text(y=-8, fontWeight="bold").encode(text="bound:N")
    layers: alt.LayerChart = (bands + points + lines + rules + names).properties(width=2 * WIDTH, height=HEIGHT)
    chart: alt.LayerChart = layers.configure_axis(gridColor="#eeeeee")
    return chart


def _x(name: str) -> alt.X:
    return alt.X(f"{name}:Q", title=name, scale=LOG, axis=FEW_TICKS) if name == "updates" else alt.X(f"{name}:Q")


def _line(numbers: pd.DataFrame) -> alt.Chart:
    """A line a policy, with a colour and a dash of its own."""
    labels = list(dict.fromkeys(numbers["policy"]))
    dashes = alt.Scale(domain=labels, range=_styles(DASHES, labels))
    chart: alt.Chart = (
        alt.Chart(numbers)
        .mark_line(strokeWidth=2)
        .encode(color=_colour(numbers), strokeDash=alt.StrokeDash("policy:N", scale=dashes, legend=LEGEND))
    )
    return chart


def _colour(numbers: pd.DataFrame) -> alt.Color:
    labels = list(dict.fromkeys(numbers["policy"]))
    return alt.Color("policy:N", scale=alt.Scale(domain=labels, range=_styles(COLOURS, labels)), legend=LEGEND)


def _styles(styles: Sequence[Any], labels: Sequence[str]) -> list[Any]:
    return [styles[number % len(styles)] for number in range(len(labels))]


def _side_by_side(left: alt.Chart | alt.LayerChart, right: alt.Chart | alt.LayerChart) -> alt.HConcatChart:
    both: alt.HConcatChart = alt.hconcat(left, right).configure_axis(gridColor="#eeeeee")
    return both


def svg(chart: alt.TopLevelMixin) -> str:
    """The chart as SVG."""
    text = io.StringIO()
    chart.save(text, format="svg")
    return text.getvalue()


def save(chart: alt.TopLevelMixin, path: Path) -> None:
    """Writes SVG or PNG, as the file's suffix says. Raises ValueError for another suffix."""
    if path.suffix not in (".svg", ".png"):
        raise ValueError(f"a figure must be .svg or .png, but got {path}")
    chart.save(str(path), scale_factor=2 if path.suffix == ".png" else 1)
