"""How far a batch grows where the learning rate would fall, and back: the factors behind a policy's trades."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from lrbs_core.schedules.base import Constant, Schedule, exactly, require, tidy
from lrbs_core.schedules.combined import Product
from lrbs_core.schedules.curves import Piecewise
from lrbs_core.schedules.turning import Turning


@dataclass(frozen=True)
class Growth(Turning):
    """Highest lr so far / lr now: by how much the batch must grow for the lr to stay at its highest.

    growth(epoch) = min(sup of lr over [0, epoch] / lr(epoch), max_batch_size / batch_size(epoch)). From `until` on it
    stays what it was just before, still under the maximum. Multiplying lr and batch size by it leaves lr/B where it was
    (Smith et al., arXiv 1711.00489, section 3); with `Odds` for the batch size, lr (N/B - 1). Raises ValueError where
    lr falls to 0 and no maximum is given.

    >>> from lrbs_core.schedules import Steps
    >>> [round(Growth(Steps(0.1, at=(60, 120), factor=1/5), Constant(128))(epoch)) for epoch in (0, 60, 120)]
    [1, 5, 25]
    """

    lr: Schedule
    batch_size: Schedule
    until: float | None = None
    max_batch_size: float | None = None

    def _check(self) -> None:
        for name in ("until", "max_batch_size"):
            value = getattr(self, name)
            positive = value is None or (isinstance(value, float) and 0 < value < math.inf)
            require(positive, f"{name} > 0", **{name: value})

    def __call__(self, epoch: float) -> float:
        at = epoch if self.until is None or epoch < self.until else math.nextafter(self.until, 0)
        now = self.lr(at)
        highest = _extreme(self.lr, at, now, highest=True)
        growth = highest / now if now else math.inf if highest else 1.0
        if self.max_batch_size is not None:
            return min(growth, *(self.max_batch_size / self.batch_size(moment) for moment in {at, epoch}))
        if growth == math.inf:
            raise ValueError(
                f"lr > 0 must hold where the batch grows in its stead, but got lr=0 at epoch {at:g}: "
                "give max_batch_size"
            )
        return growth

    def corners(self, end: float) -> tuple[float, ...]:
        last = end if self.until is None else min(end, self.until)
        edges = {*self.lr.edges(last), *(self.batch_size.edges(end) if self.max_batch_size is not None else ())}
        return tuple(sorted(edges | ({self.until} if self.until is not None and self.until <= end else set())))

    def one_way(self, start: float, last: float) -> bool:
        # Between corners the lr's part goes one way, and so does the maximum over the batch: their least may turn.
        return self.max_batch_size is None or self.lr.flat or self.batch_size.flat

    @property
    def flat(self) -> bool:
        return self.lr.flat and (self.max_batch_size is None or self.batch_size.flat)

    def scaled(self, factor: float) -> Schedule:
        return Product(self, Constant(factor))

    def stretched(self, factor: float) -> Schedule:
        until = None if self.until is None else exactly(self.until, factor)
        return Growth(self.lr.stretched(factor), self.batch_size.stretched(factor), until, self.max_batch_size)


@dataclass(frozen=True)
class Shrinkage(Schedule):
    """Lowest batch size so far / batch size now: the inverse of `Growth`, at most 1.

    >>> Shrinkage(Piecewise((128, 640), at=(60,)))(60)
    0.2
    """

    batch_size: Schedule

    def __call__(self, epoch: float) -> float:
        now = self.batch_size(epoch)
        return _extreme(self.batch_size, epoch, now, highest=False) / now

    def edges(self, end: float) -> tuple[float, ...]:
        return self.batch_size.edges(end)

    @property
    def flat(self) -> bool:
        return self.batch_size.flat

    def scaled(self, factor: float) -> Schedule:
        return Product(self, Constant(factor))


@dataclass(frozen=True)
class Odds(Schedule):
    """B/(N - B) of a batch of B out of N examples: 1/(N/B - 1), to which SGD's noise scale is inversely proportional.

    A trade that keeps lr over the odds keeps g = lr (N/B - 1)/(1 - m) itself, not only lr/(B (1 - m)). Raises
    ValueError where the batch is not below N.

    >>> Odds(Constant(100), examples=500)(0)
    0.25
    """

    batch_size: Schedule
    examples: float

    def _check(self) -> None:
        require(self.examples > 0, "examples > 0", examples=self.examples)

    def __call__(self, epoch: float) -> float:
        batch_size = self.batch_size(epoch)
        if not batch_size < self.examples:
            raise ValueError(
                f"batch_size < {self.examples:g} (the training examples) must hold where a trade is exact, "
                f"but got batch_size={batch_size:g} at epoch {epoch:g}"
            )
        return batch_size / (self.examples - batch_size)

    def edges(self, end: float) -> tuple[float, ...]:
        return self.batch_size.edges(end)

    @property
    def flat(self) -> bool:
        return self.batch_size.flat

    def scaled(self, factor: float) -> Schedule:
        return Product(self, Constant(factor))


@dataclass(frozen=True)
class FromOdds(Schedule):
    """The inverse of `Odds`: B = N/(1 + 1/odds).

    >>> FromOdds(Constant(0.25), examples=500)(0)
    100.0
    """

    odds: Schedule
    examples: float

    def _check(self) -> None:
        require(self.examples > 0, "examples > 0", examples=self.examples)

    def __call__(self, epoch: float) -> float:
        odds = self.odds(epoch)
        return self.examples / (1 + 1 / odds) if odds else 0.0

    def edges(self, end: float) -> tuple[float, ...]:
        return self.odds.edges(end)

    @property
    def flat(self) -> bool:
        return self.odds.flat

    def scaled(self, factor: float) -> Schedule:
        return Product(self, Constant(factor))


def extreme(schedule: Schedule, epoch: float, highest: bool) -> float:
    """sup (or inf) of the schedule over [0, epoch]: it is monotone between edges, so both sides of each suffice.

    >>> extreme(Piecewise((1, 5, 2), at=(1, 2)), epoch=3, highest=True)
    5.0
    """
    return _extreme(schedule, epoch, schedule(epoch), highest)


def _extreme(schedule: Schedule, epoch: float, now: float, highest: bool) -> float:
    """`extreme`, the value `now` at the epoch being known: growths of growths ask for it at every level."""
    pick = max if highest else min
    return pick(_extreme_of_sides(schedule, schedule.edges(epoch), highest), now)


@lru_cache(maxsize=4096)
def _extreme_of_sides(schedule: Schedule, edges: tuple[float, ...], highest: bool) -> float:
    pick = max if highest else min
    sides = (side for edge in edges for side in (math.nextafter(edge, 0), edge))
    return pick(map(schedule, (0.0, *sides)))


def concrete(schedule: Schedule) -> Schedule:
    """The schedule as a table of its values where it is flat, else itself.

    >>> from lrbs_core.schedules import Steps
    >>> concrete(Product(Constant(128), Growth(Steps(0.1, at=(60, 120), factor=1/5), Constant(128))))
    Piecewise(values=(128.0, 640.0, 3200.0), at=(60.0, 120.0))
    """
    if not schedule.flat:
        return schedule
    values, at = [tidy(schedule(0.0))], []
    for edge in schedule.edges(math.inf):
        if (value := tidy(schedule(edge))) != values[-1]:
            values.append(value)
            at.append(edge)
    return Piecewise(tuple(values), tuple(at)) if at else Constant(values[0])
