"""What all figures share: how policies look, axes, panels, and the file that a chart is written to."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

__all__ = [
    "COLOURS", "DASHES", "HEIGHT", "TITLES", "WIDTH", "Look", "Panel", "axes", "beside", "log_scale", "log_ticks",
    "positive", "save", "svg",
]  # fmt: skip

# Okabe and Ito's colours, told apart by colour-blind readers and, with the dashes, in grey; then four of Tol's muted.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999",
    "#882255", "#999933", "#332288", "#117733",
)  # fmt: skip
DASHES = (
    [1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 4], [1, 3], [10, 4], [3, 1],
    [12, 3, 2, 3, 2, 3], [6, 6], [5, 2, 1, 2, 1, 2], [2, 5],
)  # fmt: skip
WIDTH, HEIGHT, MOST_TICKS = 320, 220, 6
TITLES: dict[str, str | list[str]] = {
    "epoch": "epochs",
    "updates": "updates",
    "train_seconds": "training time (s)",
    "lr": "learning rate",
    "batch_size": "batch size (examples)",
    "momentum": "momentum",
    "noise_scale": ["noise scale", "(learning rate × examples)"],
    "gradient_noise_scale": ["gradient noise scale", "(examples)"],
    "train_loss": "train loss (nats)",
    "train_accuracy": "train accuracy (%)",
    "test_loss": "test loss (nats)",
    "test_accuracy": "test accuracy (%)",
    "validation_loss": "validation loss (nats)",
    "validation_accuracy": "validation accuracy (%)",
}

Panel = alt.Chart | alt.LayerChart | alt.FacetChart


class Look:
    """The colour and dash of each policy of `numbers`: those of its place among the sweep's `policies`.

    A sweep of more policies than there are colours is drawn as small multiples, a panel a policy, all in one colour.
    """

    def __init__(self, numbers: pd.DataFrame, policies: Sequence[str] | None) -> None:
        self.drawn = list(dict.fromkeys(numbers["policy"]))
        order = list(dict.fromkeys([*(policies or ()), *self.drawn]))
        self.apart = len(order) > len(COLOURS)
        self.places = {policy: 0 if self.apart else place for place, policy in enumerate(order)}
        self.longest = max(map(len, self.drawn), default=0)

    @property
    def colour(self) -> alt.Color:
        """Of lines, bands and points."""
        return alt.Color("policy:N", scale=self.scale(COLOURS), legend=self._legend)

    @property
    def dash(self) -> alt.StrokeDash:
        """Of lines."""
        return alt.StrokeDash("policy:N", scale=self.scale(DASHES), legend=self._legend)

    def line(self, numbers: pd.DataFrame) -> alt.Chart:
        """A line a policy. Points too where one has but one row, which makes no line."""
        alone = len(numbers) > 0 and numbers.groupby("policy").size().min() == 1
        mark = alt.Chart(numbers).mark_line(strokeWidth=2, point={"size": 25} if alone else False)
        line: alt.Chart = mark.encode(color=self.colour, strokeDash=self.dash)
        return line

    def panel(self, layers: alt.Chart | alt.LayerChart) -> Panel:
        """The layers, of one frame, as a panel, or as small multiples whose titles are the policies."""
        if not self.apart:
            whole: alt.Chart | alt.LayerChart = layers.properties(width=WIDTH, height=HEIGHT)
            return whole
        width = max(140, 6 * self.longest)
        most = max(1, 900 // width)
        # As few empty places in the last row as can be: their axes are drawn all the same.
        columns = min(range(most, most // 2, -1), key=lambda columns: -len(self.drawn) % columns)
        multiples: alt.FacetChart = layers.properties(width=width, height=140).facet(
            facet=alt.Facet("policy:N", title=None, sort=self.drawn, header=alt.Header(labelLimit=0)),
            columns=columns,
        )
        return multiples

    def beside(self, panels: Sequence[Panel], columns: int) -> alt.ConcatChart:
        """Panels in so many columns; of small multiples, one below the other."""
        return beside(panels, 1 if self.apart else columns)

    def scale(self, styles: Sequence[Any]) -> alt.Scale:
        """Of a channel that takes one of these styles for each policy."""
        return alt.Scale(domain=self.drawn, range=[styles[self.places[policy]] for policy in self.drawn])

    @property
    def _legend(self) -> alt.Legend | None:
        """Lines, also where bands share the legend."""
        return None if self.apart else alt.Legend(
            title=None, orient="bottom", columns=1 if self.longest > 40 else 3 if self.longest < 24 else 2,
            labelLimit=0, symbolType="stroke", symbolSize=900, symbolOpacity=1, symbolStrokeWidth=2,
            symbolFillColor="transparent",
        )  # fmt: skip


def axes(name: str, values: Iterable[float], log: bool) -> dict[str, Any]:
    """Title, scale and axis of a channel: about these values, on a log axis if any is positive; none: as they come."""
    present = [float(value) for value in values if math.isfinite(value)]
    title = TITLES.get(name, name)
    if log and any(value > 0 for value in present):
        scale, ticks = log_scale(present)
        # "~s" writes 20000 as 20k, but 0.001 as 1m.
        labels = "format(datum.value, datum.value >= 1000 ? '~s' : '~g')"
        return {"title": title, "scale": scale, "axis": alt.Axis(values=ticks, labelExpr=labels)}
    low, high = min(present, default=0.0), max(present, default=0.0)
    margin = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
    domain = [low - margin, high + margin] if present else alt.Undefined
    scale = alt.Scale(domain=domain, zero=False, nice=False)
    return {"title": title, "scale": scale, "axis": alt.Axis(tickCount=5)}


def log_scale(values: Iterable[float]) -> tuple[alt.Scale, list[float]]:
    """A log scale about the positive values, of which there must be one, and its ticks."""
    shown = [value for value in values if value > 0]
    low, high = min(shown), max(shown)
    margin = (high / low) ** 0.04 if high > low else 2.0
    low, high = low / margin, high * margin
    return alt.Scale(type="log", domain=[low, high], nice=False), log_ticks(low, high)


def log_ticks(low: float, high: float) -> list[float]:
    """2 to 6 round numbers in [low, high]: of the same digits in every decade; apart by one step where high < 3 low.

    >>> log_ticks(1e-5, 0.1), log_ticks(1e-9, 0.1)
    ([1e-05, 0.0001, 0.001, 0.01, 0.1], [1e-09, 1e-07, 1e-05, 0.001, 0.1])
    >>> log_ticks(128, 3200), log_ticks(4900, 14300)
    ([200.0, 500.0, 1000.0, 2000.0], [6000.0, 8000.0, 10000.0, 12000.0, 14000.0])
    """
    if high < 3 * low:
        power = math.floor(math.log10((high - low) / MOST_TICKS))
        step = next(step for step in (2, 5, 10, 20) if (high - low) / (step * 10.0**power) < MOST_TICKS - 1)
        size = step * 10.0**power
        return [float(f"{number * size:.12g}") for number in range(math.ceil(low / size), math.floor(high / size) + 1)]
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for digits in ("12357", "125", "13", "1"):
        ticks = [float(f"{digit}e{power}") for power in range(first, last + 1) for digit in digits]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= MOST_TICKS:
            break
    return inside[:: math.ceil(len(inside) / MOST_TICKS)]


def positive(numbers: pd.DataFrame, *names: str) -> pd.DataFrame:
    """The frame for log axes, which know no 0: what is not positive is missing."""
    return numbers.assign(**{name: numbers[name].where(numbers[name] > 0) for name in names})


def beside(panels: Sequence[Panel], columns: int) -> alt.ConcatChart:
    """One figure of these panels."""
    figure: alt.ConcatChart = alt.concat(*panels, columns=columns).configure_axis(gridColor="#eeeeee")
    return figure


def svg(chart: alt.TopLevelMixin) -> str:
    """The chart as SVG."""
    text = io.StringIO()
    chart.save(text, format="svg")
    return text.getvalue()


def require_format(path: Path) -> None:
    """Raises ValueError for what is neither SVG nor PNG, by the file's suffix."""
    if path.suffix not in (".svg", ".png"):
        raise ValueError(f"a figure must be .svg or .png, but got {path}")


def save(chart: alt.TopLevelMixin, path: Path) -> None:
    """Writes SVG or PNG, as the file's suffix says. Raises ValueError for another suffix."""
    require_format(path)
    chart.save(str(path), scale_factor=2 if path.suffix == ".png" else 1)
