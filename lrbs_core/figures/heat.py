"""A heat map over two searched axes, such as momentum and growth factor, or stepsize and highest lr."""

from __future__ import annotations

import altair as alt
import pandas as pd

from lrbs_core.figures.drawing import TITLES
from lrbs_core.statistics import mean_interval

__all__ = ["heat_chart", "heat_numbers"]

# Pixels of a cell, which holds two lines of text; and values an axis, past which it cannot be read.
CELL_WIDTH, CELL_HEIGHT, MOST = 58, 40, 24


def heat_numbers(table: pd.DataFrame, x: str, y: str, value: str) -> pd.DataFrame:
    """Mean, 95 % interval and n of a column `value` over each pair (x, y) of two other columns that occurs.

    A value that is missing makes its cell's mean missing. Raises ValueError where a column is not there or not of
    numbers, or where x or y takes more than 24 values.

    >>> heat_numbers(pd.DataFrame({"m": [0.9, 0.9, 0.8], "B": [64, 64, 64], "acc": [1.0, 3.0, 5.0]}), "m", "B", "acc")[
    ...     ["x", "y", "mean", "n"]
    ... ].values.tolist()
    [[0.8, 64.0, 5.0, 1.0], [0.9, 64.0, 2.0, 2.0]]
    """
    for name in (x, y, value):
        if name not in table or not pd.api.types.is_numeric_dtype(table[name]):
            numeric = ", ".join(map(str, table.select_dtypes("number").columns))
            raise ValueError(f"a heat map needs columns of numbers, but got {name}: choose from {numeric}")
    for name in (x, y):
        if (count := table[name].nunique()) > MOST:
            raise ValueError(f"a heat map shows at most {MOST} values an axis, but got {count} of {name}: round them")
    # Given other names at once: in a chart a dot or bracket in a column's name would mean a part of its value.
    cells = pd.DataFrame({"x": table[x], "y": table[y], "value": table[value].astype(float)}).groupby(["x", "y"])[
        "value"
    ]
    lines = [{"x": at, "y": up, **mean_interval(group.tolist())._asdict()} for (at, up), group in cells]
    return pd.DataFrame(lines, columns=["x", "y", "mean", "low", "high", "n"])


def heat_chart(numbers: pd.DataFrame, x: str, y: str, value: str) -> alt.LayerChart:
    """A cell a pair, darker for a higher mean and labelled with mean and n; x, y and value are its titles."""
    across, up = ([f"{at:.12g}" for at in sorted(numbers[name].unique())] for name in ("x", "y"))
    middle = (numbers["mean"].min() + numbers["mean"].max()) / 2
    drawn = numbers.assign(
        x=[f"{at:.12g}" for at in numbers["x"]],
        y=[f"{at:.12g}" for at in numbers["y"]],
        text=["–" if pd.isna(mean) else f"{mean:.4g}" for mean in numbers["mean"]],
        count=[f"n = {n}" for n in numbers["n"]],
        dark=[bool(mean > middle) for mean in numbers["mean"]],
    )
    base = alt.Chart(drawn).encode(
        x=alt.X("x:N", title=TITLES.get(x, x), sort=across, axis=alt.Axis(labelAngle=0)),
        y=alt.Y("y:N", title=TITLES.get(y, y), sort=up[::-1]),
    )
    # One hue from light to dark is read in grey too.
    scale = alt.Scale(scheme="blues", zero=False)
    cells = base.mark_rect(stroke="white", invalid="filter").encode(
        color=alt.Color("mean:Q", title=TITLES.get(value, value), scale=scale, legend=alt.Legend(titleLimit=0))
    )
    ink = alt.condition("datum.dark", alt.value("white"), alt.value("black"))
    means = base.mark_text(dy=-6, fontWeight="bold").encode(text="text:N", color=ink)
    counts = base.mark_text(dy=8, fontSize=9).encode(text="count:N", color=ink)
    layers: alt.LayerChart = (cells + means + counts).properties(
        width=CELL_WIDTH * len(across), height=CELL_HEIGHT * len(up)
    )
    return layers
