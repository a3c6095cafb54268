"""A discovery's population: lr and momentum of all that was tried, and of what it came to (Jaderberg et al. 2017)."""

from __future__ import annotations

import altair as alt
import pandas as pd

from lrbs_core.figures.drawing import COLOURS, HEIGHT, WIDTH, Panel, axes, beside, positive

__all__ = ["lineage_chart"]


def lineage_chart(numbers: pd.DataFrame, best: str) -> alt.ConcatChart:
    """lr (log axis) and momentum against epochs: a thin grey line a member, a thick one for the best and its ancestors.

    `numbers`: of `settings_numbers`, with every member of every generation as a policy; `best`: the label of one.
    """
    drawn = positive(numbers, "lr")

    def panel(name: str) -> Panel:
        base = alt.Chart(drawn).encode(
            x=alt.X("epoch:Q", **axes("epoch", [], log=False)),
            y=alt.Y(f"{name}:Q", **axes(name, numbers[name], log=name == "lr")),
            detail="policy:N",
        )
        others = base.mark_line(color="#999999", strokeWidth=1, opacity=0.6)
        line = base.transform_filter(alt.datum.policy == best).mark_line(color=COLOURS[0], strokeWidth=2.5)
        layers: Panel = (others + line).properties(width=WIDTH, height=HEIGHT)
        return layers

    return beside([panel(name) for name in ("lr", "momentum")], columns=2)
