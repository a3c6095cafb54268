"""The noise scale that a policy implies above the gradient noise scale that was measured."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from lrbs_core.figures.curves import level
from lrbs_core.figures.drawing import Look, axes, beside, positive
from lrbs_core.results import RunRecord
from lrbs_core.specs import RunSpec

__all__ = ["noise_chart", "noise_numbers"]


def noise_numbers(pairs: Sequence[tuple[RunSpec, RunRecord]]) -> pd.DataFrame:
    """The two noise scales by policy and row (`level`); of the measured one the mean over n seeds that could tell it.

    `low` and `high` are the mean -+ its standard error, sqrt(sum e^2)/n of the seeds' own errors e; NaN where n = 0.
    Raises ValueError where no row tells a gradient noise scale.
    """
    table = level(pairs)
    if not table["gradient_noise_scale"].notna().any():
        raise ValueError(
            "a figure of noise needs a measured gradient noise scale, but got none: run with --measure-noise"
        )
    lines = []
    for (policy, row), group in table.groupby(["policy", "row"], sort=False):
        told = group[["gradient_noise_scale", "gradient_noise_scale_error"]].astype(float).dropna()
        scales, errors = told.to_numpy().T
        mean, error = (scales.mean(), np.sqrt((errors**2).sum()) / len(told)) if len(told) else (np.nan, np.nan)
        lines.append({
            "policy": policy, "row": row, "epoch": group["epoch"].iloc[0], "noise_scale": group["noise_scale"].iloc[0],
            "gradient_noise_scale": mean, "low": mean - error, "high": mean + error, "n": len(told),
        })  # fmt: skip
    return pd.DataFrame(lines)


def noise_chart(numbers: pd.DataFrame, policies: Sequence[str] | None = None) -> alt.ConcatChart:
    """Predicted above measured against the same epochs, both on log axes; bars are a standard error each way.

    They differ in unit, and so do not share an axis. A bar that reaches to 0 or below ends at the panel's edge.
    """
    look, drawn = Look(numbers, policies), positive(numbers, "noise_scale", "gradient_noise_scale")
    x = alt.X("epoch:Q", **axes("epoch", [], log=False))
    y = axes("gradient_noise_scale", drawn[["gradient_noise_scale", "high"]].to_numpy(float).ravel(), log=True)
    drawn = drawn.assign(low=drawn["low"].clip(lower=y["scale"].domain[0]))
    predicted = alt.Y("noise_scale:Q", **axes("noise_scale", drawn["noise_scale"], log=True))
    measured = alt.Y("gradient_noise_scale:Q", **y)
    bars = alt.Chart(drawn).mark_rule(opacity=0.6).encode(x=x, y=alt.Y("low:Q", **y), y2="high:Q", color=look.colour)
    points = alt.Chart(drawn).mark_circle(size=25, opacity=1).encode(x=x, y=measured, color=look.colour)
    line = look.line(drawn).encode(x=x)
    panels = [look.panel(line.encode(y=predicted)), look.panel(bars + line.encode(y=measured) + points)]
    # Optimizers other than SGD have no predicted one.
    return beside(panels if drawn["noise_scale"].notna().any() else panels[1:], columns=1)
