"""Several objectives at once: each trial of a search, and the Pareto front, of which none is better in all of them."""

from __future__ import annotations

from collections.abc import Collection

import altair as alt
import pandas as pd

from lrbs_core.figures.drawing import COLOURS, HEIGHT, WIDTH, axes

__all__ = ["front_chart", "front_numbers"]


def front_numbers(table: pd.DataFrame, x: str, y: str, front: Collection[int]) -> pd.DataFrame:
    """The trials of a table that have both columns, and whether each is of the `front`, in order of x.

    >>> table = pd.DataFrame({"trial": [0, 1], "updates": [900, 500], "accuracy": [80.0, 90.0]})
    >>> front_numbers(table, "updates", "accuracy", {1}).values.tolist()
    [[1, 500.0, 90.0, True], [0, 900.0, 80.0, False]]
    """
    known = table.dropna(subset=[x, y])
    numbers = pd.DataFrame({"trial": known["trial"], "x": known[x].astype(float), "y": known[y].astype(float)})
    return numbers.assign(front=numbers["trial"].isin(front)).sort_values(["x", "trial"], ignore_index=True)


def front_chart(numbers: pd.DataFrame, x: str, y: str) -> alt.LayerChart:
    """A point a trial; those of the front are joined and bear the trial's number. x and y are the titles."""
    base = alt.Chart(numbers).encode(
        x=alt.X("x:Q", **axes(x, numbers["x"], log=x == "updates")), y=alt.Y("y:Q", **axes(y, numbers["y"], log=False))
    )
    others = base.transform_filter("!datum.front").mark_circle(size=50, color="#999999", opacity=1)
    front = base.transform_filter("datum.front")
    line = front.mark_line(color=COLOURS[0], strokeWidth=1.5)
    points = front.mark_circle(size=80, color=COLOURS[0], opacity=1)
    labels = front.mark_text(dy=-10).encode(text="trial:N")
    layers: alt.LayerChart = (others + line + points + labels).properties(width=WIDTH, height=HEIGHT)
    figure: alt.LayerChart = layers.configure_axis(gridColor="#eeeeee")
    return figure
