"""The learning-rate range test (L. N. Smith 2017, Figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from lrbs_core.figures.drawing import COLOURS, HEIGHT, TITLES, WIDTH, axes
from lrbs_core.range_test import smoothed
from lrbs_core.results import RunRecord, curves
from lrbs_core.specs import RunSpec

__all__ = ["range_chart", "range_numbers"]


def range_numbers(pairs: Sequence[tuple[RunSpec, RunRecord]]) -> pd.DataFrame:
    """The accuracy that each seed's ramp is judged by (`RunSpec.judged_by`) by lr, as measured and smoothed."""
    metric = pairs[0][0].judged_by
    table = curves(pairs)[["seed", "lr", metric]]
    smooth = table.groupby("seed")[metric].transform(smoothed)
    return table.assign(smoothed=smooth)


def range_chart(numbers: pd.DataFrame, document: dict[str, Any]) -> alt.LayerChart:
    """Accuracy against lr of a range test (L. N. Smith 2017, Figure 3), rules at the bounds, bands their intervals."""
    axis = alt.X("lr:Q", **axes("lr", numbers["lr"], log=document["ramp"]["geometric"]))
    curve = alt.Chart(numbers).encode(x=axis, detail="seed:N")
    metric = next(name for name in map(str, numbers) if name.endswith("_accuracy"))
    points = curve.mark_circle(size=14, opacity=0.35, color=COLOURS[0]).encode(y=f"{metric}:Q")
    lines = curve.mark_line(strokeWidth=1.5, color=COLOURS[0]).encode(y=alt.Y("smoothed:Q", title=TITLES[metric]))
    bounds = pd.DataFrame([
        {"bound": f"{name}{'' if document[f'{name}_found'] else sign} {document[name]['mean']:.2g}"} | document[name]
        for name, sign in (("low", " <"), ("high", " >"))
    ])  # fmt: skip
    # A bound without an interval has no band, but the colours of both stay.
    scale = alt.Scale(domain=bounds["bound"].tolist(), range=COLOURS[2:0:-1])
    colour = alt.Color("bound:N", scale=scale, legend=None)
    bands = alt.Chart(bounds.dropna()).mark_rect(opacity=0.15, clip=True).encode(x="low:Q", x2="high:Q", color=colour)
    rules = alt.Chart(bounds).mark_rule(strokeWidth=2).encode(x="mean:Q", color=colour)
    names = rules.mark_text(y=-8, fontWeight="bold").encode(text="bound:N")
    layers: alt.LayerChart = (bands + points + lines + rules + names).properties(width=2 * WIDTH, height=HEIGHT)
    chart: alt.LayerChart = layers.configure_axis(gridColor="#eeeeee")
    return chart
