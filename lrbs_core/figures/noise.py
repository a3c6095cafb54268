"""The noise scale that a policy implies above the gradient noise scale that was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt
import pandas as pd

from lrbs_core.figures.curves import level
from lrbs_core.figures.drawing import Look, axes, beside, positive
from lrbs_core.journal import NOISE_SUMS
from lrbs_core.results import RunRecord, measured_noise
from lrbs_core.specs import RunSpec

__all__ = ["noise_chart", "noise_numbers"]


def noise_numbers(pairs: Sequence[tuple[RunSpec, RunRecord]]) -> pd.DataFrame:
    """The two noise scales by policy and row (`level`); the measured one over all n seeds that measured it.

    From `low` to `high` is its 95 % interval (`results.measured_noise`). Raises ValueError where no row tells of it.
    """
    table = level(pairs)
    lines = []
    for (policy, row), group in table.groupby(["policy", "row"], sort=False):
        measured = group[group["noise_n"].notna()]
        rows: list[dict[str, float]] = measured[list(NOISE_SUMS)].to_dict("records")  # type: ignore[assignment]
        scale, low, high = measured_noise(rows)
        lines.append({
            "policy": policy, "row": row, "epoch": group["epoch"].iloc[0], "noise_scale": group["noise_scale"].iloc[0],
            "gradient_noise_scale": scale, "low": low, "high": high, "n": len(measured),
        })  # fmt: skip
    if all(math.isnan(line["low"]) for line in lines):
        raise ValueError(
            "a figure of noise needs a measured gradient noise scale, but got none: run with --measure-noise"
        )
    return pd.DataFrame(lines)


def noise_chart(numbers: pd.DataFrame, policies: Sequence[str] | None = None) -> alt.ConcatChart:
    """Planned above measured against the same epochs, both on log axes; bars are the intervals.

    They differ in unit, and so do not share an axis. Where an interval has no upper end, an arrow points up from the
    lower one. A bar that reaches to 0 ends at the panel's edge.
    """
    look, drawn = Look(numbers, policies), positive(numbers, "noise_scale", "gradient_noise_scale", "low")
    x = alt.X("epoch:Q", **axes("epoch", [], log=False))
    y = axes("gradient_noise_scale", drawn[["gradient_noise_scale", "low", "high"]].to_numpy(float).ravel(), log=True)
    # What a log axis cannot show begins at its edge. All layers share one frame, as small multiples ask for.
    drawn["low"] = drawn["low"].fillna(drawn["high"].where(drawn["high"].isna(), y["scale"].domain[0]))
    planned = alt.Y("noise_scale:Q", **axes("noise_scale", drawn["noise_scale"], log=True))
    measured, low = alt.Y("gradient_noise_scale:Q", **y), alt.Y("low:Q", **y)
    line = look.line(drawn).encode(x=x)
    bars = alt.Chart(drawn).mark_rule(opacity=0.6).transform_filter("isValid(datum.high)")
    points = alt.Chart(drawn).mark_circle(size=25, opacity=1).transform_filter("isValid(datum.high)")
    arrows = alt.Chart(drawn).mark_point(shape="triangle-up", size=50, opacity=1, filled=True)
    arrows = arrows.transform_filter("isValid(datum.low) && !isValid(datum.high)")
    below = (
        bars.encode(x=x, y=low, y2="high:Q", color=look.colour)
        + line.encode(y=measured)
        + points.encode(x=x, y=measured, color=look.colour)
        + arrows.encode(x=x, y=low, color=look.colour)
    )
    panels = [look.panel(line.encode(y=planned)), look.panel(below)]
    # Optimizers other than SGD have no planned one.
    return beside(panels if drawn["noise_scale"].notna().any() else panels[1:], columns=1)
