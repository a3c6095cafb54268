"""Where the cycles of a cyclical learning rate end (L. N. Smith 2017): the moments to stop at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import altair as alt
import pandas as pd

from lrbs_core.figures.drawing import COLOURS, HEIGHT, WIDTH, Look, axes, beside
from lrbs_core.schedules import cycle_ends
from lrbs_core.specs import RunSpec

__all__ = ["cycles_chart", "cycles_numbers"]


def cycles_numbers(specs: Iterable[RunSpec]) -> pd.DataFrame:
    """The epoch at which each cycle ends, from 1, of the policies whose lr is cyclical."""
    lines = [
        {"policy": spec.label, "cycle": number, "epoch": epoch}
        for spec in {spec.label: spec for spec in specs}.values()
        for number, epoch in enumerate(cycle_ends(spec.policy.lr, spec.epochs), start=1)
    ]
    return pd.DataFrame(lines, columns=["policy", "cycle", "epoch"])


def cycles_chart(
    accuracy: pd.DataFrame, cycles: pd.DataFrame, policies: Sequence[str] | None = None
) -> alt.ConcatChart:
    """A panel a cyclical policy: its accuracy (`accuracy_numbers`) against epochs, rules where its cycles end.

    The curves of all policies are behind it in grey. Raises ValueError where no policy with rows is cyclical.
    """
    cycles = cycles[cycles["policy"].isin(accuracy["policy"])]
    if cycles.empty:
        raise ValueError("a figure of cycles needs rows of a policy whose lr falls and rises again, but got none")
    look, y = Look(accuracy, policies), axes("test_accuracy", [], log=False)
    x, mean = alt.X("epoch:Q", **axes("epoch", [], log=False)), alt.Y("mean:Q", **y)
    behind = alt.Chart(accuracy).mark_line(strokeWidth=1, color="#cccccc").encode(x=x, y=mean, detail="policy:N")
    panels = []
    for policy, ends in cycles.groupby("policy", sort=False):
        own = alt.Chart(accuracy[accuracy["policy"] == policy]).encode(x=x)
        colour = COLOURS[look.places[str(policy)]]
        rules = alt.Chart(ends).mark_rule(strokeDash=[2, 2], color="#555555").encode(x=x)
        band = own.mark_area(opacity=0.15, color=colour).encode(y=alt.Y("low:Q", **y), y2="high:Q")
        line = own.mark_line(strokeWidth=2, color=colour).encode(y=mean)
        layers = (behind + rules + band + line).properties(title=str(policy), width=WIDTH, height=HEIGHT)
        panels.append(layers)
    return beside(panels, columns=2)
