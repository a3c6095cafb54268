"""What a policy's updates buy: the final test accuracy against the number of updates (Smith et al. 2018, Figure 5)."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from lrbs_core.figures.drawing import COLOURS, HEIGHT, WIDTH, Look, axes
from lrbs_core.results import RunRecord, accuracy_resolution, run_table
from lrbs_core.specs import RunSpec
from lrbs_core.statistics import mean_interval

__all__ = ["trade_chart", "trade_numbers"]

# Pixels from one label to the next.
GAP = 14


def trade_numbers(pairs: Sequence[tuple[RunSpec, RunRecord]]) -> pd.DataFrame:
    """Updates and final test accuracy (mean and 95 % interval) of each policy over its n finished runs.

    Raises ValueError where none has finished.
    """
    table = run_table(pairs)
    finished = table[table["status"] == "finished"]
    if finished.empty:
        raise ValueError("a figure of final accuracies needs a finished run, but got none: run the sweep to its end")
    lines, resolution = [], accuracy_resolution(pairs)
    for policy, group in finished.groupby("policy", sort=False):
        measured = mean_interval(group["test_accuracy"].astype(float).tolist(), resolution=resolution)
        lines.append({"policy": policy, "updates": int(group["updates"].iloc[0]), **measured._asdict()})
    return pd.DataFrame(lines)


def trade_chart(numbers: pd.DataFrame, policies: Sequence[str] | None = None, width: int = WIDTH) -> alt.LayerChart:
    """A point a policy with its interval, and a thin line to its label at the right, where no two labels meet."""
    look, height = Look(numbers, policies), max(HEIGHT, GAP * len(numbers))
    y = axes("test_accuracy", numbers[["mean", "low", "high"]].to_numpy(float).ravel(), log=False)
    low, high = y["scale"].domain
    unit = (high - low) / height
    drawn = numbers.dropna(subset="mean").sort_values("mean", ascending=False)
    places = spread([(high - mean) / unit for mean in drawn["mean"]], height)
    drawn = drawn.assign(place=[high - place * unit for place in places])

    x = alt.X("updates:Q", **axes("updates", numbers["updates"], log=True))
    colour = alt.Color("policy:N", scale=look.scale(COLOURS), legend=None)
    base = alt.Chart(drawn)
    leaders = base.mark_rule(color="#bbbbbb", strokeWidth=0.75).encode(
        x=x, y=alt.Y("mean:Q", **y), x2=alt.value(width + 8), y2="place:Q"
    )
    bars = base.mark_rule(strokeWidth=2).encode(x=x, y=alt.Y("low:Q", **y), y2="high:Q", color=colour)
    points = base.mark_circle(size=70, opacity=1).encode(x=x, y=alt.Y("mean:Q", **y), color=colour)
    labels = base.mark_text(align="left", baseline="middle", dx=4, limit=0).encode(
        x=alt.value(width + 8), y=alt.Y("place:Q", **y), text="policy:N"
    )
    layers: alt.LayerChart = (leaders + bars + points + labels).properties(width=width, height=height)
    figure: alt.LayerChart = layers.configure_axis(gridColor="#eeeeee")
    return figure


def spread(wanted: Sequence[float], height: float) -> list[float]:
    """Places in order, GAP apart at least and within the height, none further down than it must be.

    >>> spread([10, 12, 100], height=100)
    [10.0, 24.0, 93.0]
    """
    places: list[float] = []
    for place in wanted:
        places.append(max(float(place), places[-1] + GAP if places else GAP / 2))
    below = height + GAP / 2
    for number in reversed(range(len(places))):
        below = places[number] = min(places[number], below - GAP)
    return places
