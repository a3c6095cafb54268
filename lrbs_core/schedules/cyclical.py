"""Cyclical learning rates: L. N. Smith 2017 (arXiv 1506.01186), section 3."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Literal

from lrbs_core.schedules.base import EPOCHS, LEVEL, RATE, Schedule, decimal, require, tidy, up_to

# Every one is an edge of the curve that is looked at.
MOST_RISES = 100_000


@dataclass(frozen=True)
class Triangular(Schedule):
    """low + (high - low) max(0, 1 - x), x = |epoch/stepsize - 2 cycle + 1|, cycle = floor(1 + epoch/(2 stepsize)).

    L. N. Smith, Cyclical learning rates (arXiv 1506.01186), section 3. `stepsize` is half a cycle, in epochs.

    >>> [round(Triangular(0.001, 0.006, stepsize=4)(epoch), 4) for epoch in (0, 2, 4, 6, 8)]
    [0.001, 0.0035, 0.006, 0.0035, 0.001]
    """

    low: float = field(metadata=LEVEL)
    high: float = field(metadata=LEVEL)
    stepsize: float = field(metadata=EPOCHS)

    def _check(self) -> None:
        require(self.low <= self.high, "low <= high", low=self.low, high=self.high)

    def _cycle(self, epoch: float) -> int:
        return math.floor(1 + epoch / (2 * self.stepsize))

    def _rise(self, epoch: float) -> float:
        return max(0.0, 1 - abs(epoch / self.stepsize - 2 * self._cycle(epoch) + 1))

    def __call__(self, epoch: float) -> float:
        return self.low + (self.high - self.low) * self._rise(epoch)

    def edges(self, end: float) -> tuple[float, ...]:
        rule = f"at most {MOST_RISES:,} stepsizes"
        require(end / self.stepsize < MOST_RISES + 1, rule, stepsize=self.stepsize, epochs=end)
        # In decimals: in floats 3 * 0.1 > 0.3.
        stepsize = decimal(self.stepsize)
        return up_to((float(k * stepsize) for k in range(1, math.floor(end / self.stepsize) + 2)), end)


@dataclass(frozen=True)
class Triangular2(Triangular):
    """`Triangular` whose amplitude halves after each cycle (same source).

    >>> [round(Triangular2(0.001, 0.005, stepsize=1)(epoch), 4) for epoch in (1, 3, 5)]
    [0.005, 0.003, 0.002]
    """

    def __call__(self, epoch: float) -> float:
        return self.low + (self.high - self.low) * self._rise(epoch) * 0.5 ** (self._cycle(epoch) - 1)


@dataclass(frozen=True)
class Welch(Triangular):
    """`Triangular` with a parabola for the triangle: low + (high - low) (1 - x^2) (same source: no better, no worse).

    >>> [Welch(0.0, 1.0, stepsize=2)(epoch) for epoch in (0, 1, 2, 3, 4)]
    [0.0, 0.75, 1.0, 0.75, 0.0]
    """

    def _rise(self, epoch: float) -> float:
        return 1 - (1 - super()._rise(epoch)) ** 2


@dataclass(frozen=True)
class Hann(Triangular):
    """`Triangular` with a sinusoid for the triangle: low + (high - low) (1 + cos(pi x))/2 (same source).

    >>> [round(Hann(0.0, 1.0, stepsize=2)(epoch), 12) for epoch in (0, 1, 2, 3, 4)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    def _rise(self, epoch: float) -> float:
        return (1 - math.cos(math.pi * super()._rise(epoch))) / 2


@dataclass(frozen=True)
class ExpRange(Triangular):
    """`Triangular` that shrinks by gamma^epoch; gamma is a factor an epoch (same source).

    shrink="both": both bounds shrink, as the paper's text says: gamma^epoch (low + (high - low) rise).
    shrink="amplitude": low stays, as the common code does: low + gamma^epoch (high - low) rise.

    >>> ExpRange(0.25, 1.0, stepsize=1, gamma=0.5, shrink="both")(2)
    0.0625
    >>> ExpRange(0.25, 1.0, stepsize=1, gamma=0.5, shrink="amplitude")(2)
    0.25
    """

    gamma: float = field(metadata=RATE)
    shrink: Literal["both", "amplitude"]

    def _check(self) -> None:
        super()._check()
        require(self.shrink in ("both", "amplitude"), "shrink 'both' or 'amplitude'", shrink=self.shrink)

    def __call__(self, epoch: float) -> float:
        fading = self.gamma**epoch
        if self.shrink == "both":
            return float(super().__call__(epoch) * fading)
        return float(self.low + (self.high - self.low) * self._rise(epoch) * fading)

    def edges(self, end: float) -> tuple[float, ...]:
        """Half cycles, and the points within a rise where the fading overtakes it."""
        corners = super().edges(end)
        if self.gamma == 1 or self.high == self.low:
            return corners
        lift = self.low * self.stepsize / (self.high - self.low) if self.shrink == "both" else 0.0
        turn = -1 / math.log(self.gamma) - lift
        if not 0 < turn < self.stepsize:
            return corners
        turns = (start + turn for start in (0.0, *corners[1::2]))
        return tuple(sorted({*corners, *up_to(turns, end)}))


def cycle_ends(lr: Schedule, epochs: float) -> list[float]:
    """The edges in (0, epochs] where lr turns from falling to rising, whatever the schedule; none of one that does not.

    Between its edges a schedule is monotone, so that its values on both sides of each edge tell all turns. Past a flat
    valley the turn is where the rise begins; a drop within a rise, as of a decay, is none. At the end, what the
    schedule would do next counts, if it can tell.

    >>> from lrbs_core.schedules import Steps
    >>> cycle_ends(Triangular(0.001, 0.006, stepsize=2), epochs=8), cycle_ends(Steps(0.1, at=(3, 6), factor=0.1), 8)
    ([4.0, 8.0], [])
    """
    # An edge may be a rounding error past the end that it stands for.
    edges = (0.0, *lr.edges(epochs * (1 + 1e-9)))
    if len(edges) == 1:
        return []
    beyond = max(epochs, edges[-1] + (edges[-1] - edges[-2]) / 1000)
    ends, falling, rising, before = [], False, False, tidy(lr(0.0))
    for start, stop in itertools.pairwise((*edges, beyond)):
        try:
            first, last = tidy(lr(start)), tidy(lr(math.nextafter(stop, 0.0)))
        except ValueError:
            break  # past the end of the run a policy need not go on
        falling |= first < before and not rising
        if falling and (first > before or last > first):
            ends.append(tidy(start))
            falling = False
        rising = last > first
        falling, before = last < first or (falling and not rising), last
    return ends
