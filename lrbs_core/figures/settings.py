"""The settings of each policy by epoch (Smith et al. 2018, Figure 1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import altair as alt
import pandas as pd

from lrbs_core.figures.drawing import Look, Panel, axes, positive
from lrbs_core.specs import RunSpec

__all__ = ["settings_chart", "settings_numbers"]

LOG = ("lr", "batch_size", "noise_scale")
# Of a run's epochs: in the rest, about a pixel, a polynomial would fall to 0 by more decades than in all before.
SHOWN = 0.9975


def settings_numbers(specs: Iterable[RunSpec], points: int = 400) -> pd.DataFrame:
    """lr, batch size, momentum and noise scale of each policy by epoch, both sides of every jump included.

    The noise scale is NaN for an optimizer that has none (`RunSpec.noise_scale`).
    They end 1/400 before the run does: what a schedule falls to at the very end, no update has.
    """
    lines = []
    for spec in {spec.label: spec for spec in specs}.values():
        grid = (spec.epochs * i / points for i in range(points))
        edges = [edge for edge in spec.policy.edges(spec.epochs) if edge < spec.epochs * (1 - 1e-9)]
        for epoch in sorted({*grid, *edges, *(edge * (1 - 1e-9) for edge in edges), spec.epochs * SHOWN}):
            setting = spec.policy(epoch)
            scale = spec.noise_scale(setting)
            lines.append({"policy": spec.label, "epoch": epoch, **setting._asdict(), "noise_scale": scale})
    return pd.DataFrame(lines)


def settings_chart(numbers: pd.DataFrame, policies: Sequence[str] | None = None) -> alt.ConcatChart:
    """Panels against epochs: lr, batch size and noise scale (if any has one) on log axes, without a 0; momentum."""
    look, drawn = Look(numbers, policies), positive(numbers, *LOG)

    def panel(name: str) -> Panel:
        y = alt.Y(f"{name}:Q", **axes(name, numbers[name], log=name in LOG))
        return look.panel(look.line(drawn).encode(x=alt.X("epoch:Q", **axes("epoch", [], log=False)), y=y))

    shown = ("lr", "batch_size", "momentum", *(["noise_scale"] if numbers["noise_scale"].notna().any() else []))
    return look.beside([panel(name) for name in shown], columns=2)
