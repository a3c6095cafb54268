"""Schedules made of schedules: a warm-up before one, several end to end, products and powers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lrbs_core.schedules.base import EPOCHS, LEVEL, Constant, Schedule, as_schedule, decimal, exactly, require, up_to
from lrbs_core.schedules.curves import Linear, Polynomial
from lrbs_core.schedules.turning import Turning


@dataclass(frozen=True)
class Warmup(Schedule):
    """A line from `start` to then(epochs), reached at `epochs`; from there on, `then` on the same epoch axis.

    Gradual warm-up (Goyal et al., arXiv 1706.02677, section 2.2): breakpoints of `then` count from epoch 0. Its peak is
    then(epochs), which is below what `then` starts from if that falls from epoch 0 on: Warmup(0, 12, Polynomial(40, 0,
    90, 2)) peaks at 30. To warm up to 40 take `warmup_polynomial`, or `Stages`, whose parts count from their own start.

    >>> from lrbs_core.schedules import Steps
    >>> warm = Warmup(0.1, epochs=5, then=Steps(3.2, at=(30,), factor=0.1))
    >>> [round(warm(epoch), 3) for epoch in (0, 2.5, 5, 30)]
    [0.1, 1.65, 3.2, 0.32]
    """

    start: float = field(metadata=LEVEL)
    epochs: float = field(metadata=EPOCHS)
    then: Schedule

    def __call__(self, epoch: float) -> float:
        if epoch >= self.epochs:
            return self.then(epoch)
        return self.start + (self.then(self.epochs) - self.start) * epoch / self.epochs

    def edges(self, end: float) -> tuple[float, ...]:
        return up_to((self.epochs, *(edge for edge in self.then.edges(end) if edge > self.epochs)), end)


@dataclass(frozen=True)
class Stages(Schedule):
    """Schedules one after another, each on its own axis from 0: ((epochs, schedule), ...); the last goes on.

    >>> Stages(((10, 0.1), (5, Linear(0.1, 0.0, epochs=5))))(12.5)
    0.05
    """

    parts: tuple[tuple[float, Schedule], ...]

    def _check(self) -> None:
        require(isinstance(self.parts, tuple) and len(self.parts) > 0, "at least one stage", parts=self.parts)
        for part in self.parts:
            timed = isinstance(part, tuple) and len(part) == 2 and isinstance(part[0], float)
            require(timed and 0 < part[0] < math.inf, "stages of (epochs > 0, schedule)", stage=part)
        object.__setattr__(self, "parts", tuple((epochs, as_schedule(then)) for epochs, then in self.parts))

    def _starts(self) -> list[float]:
        starts = [0.0]
        for epochs, _ in self.parts[:-1]:
            starts.append(float(decimal(starts[-1]) + decimal(epochs)))
        return starts

    def __call__(self, epoch: float) -> float:
        start, (_, schedule) = next(
            (start, part)
            for start, part in reversed(list(zip(self._starts(), self.parts, strict=True)))
            if start <= epoch
        )
        return schedule(_since(start, epoch))

    def edges(self, end: float) -> tuple[float, ...]:
        starts = self._starts()
        found = set(starts[1:])
        for start, stop, (_, schedule) in zip(starts, [*starts[1:], math.inf], self.parts, strict=True):
            inner = (_reached(start, edge) for edge in schedule.edges(max(0.0, _since(start, min(stop, end)))))
            found.update(edge for edge in inner if edge < stop)
        return up_to(sorted(found), end)

    @property
    def flat(self) -> bool:
        return all(schedule.flat for _, schedule in self.parts)

    def stretched(self, factor: float) -> Schedule:
        return Stages(tuple((exactly(epochs, factor), schedule.stretched(factor)) for epochs, schedule in self.parts))


def _since(start: float, epoch: float) -> float:
    """epoch - start in decimal arithmetic, rounded down, so that a stage's breakpoint is met where one would write it.

    In floats 1.2 - 0.9 < 0.3, which comes an update late, and the last float before 4.4 less 0.3 is 4.1, too early.
    """
    exact = decimal(epoch) - decimal(start)
    near = float(exact)
    return near if decimal(near) <= exact else math.nextafter(near, -math.inf)


def _reached(start: float, edge: float) -> float:
    """The first epoch at which `edge` is reached on the axis of a stage that starts at `start`."""
    epoch = float(decimal(start) + decimal(edge))
    while _since(start, epoch) < edge:
        epoch = math.nextafter(epoch, math.inf)
    return epoch


@dataclass(frozen=True)
class Product(Turning):
    """The product of two schedules: what a trade between lr and batch size makes of a curve that is not flat.

    Where one rises while the other falls it may turn, which is an edge of it.

    >>> Product(Constant(128), Constant(5))(0)
    640.0
    >>> [round(edge, 6) for edge in Product(Linear(0, 1, 10), Linear(1, 0, 10)).edges(10)]
    [5.0, 10.0]
    """

    left: Schedule
    right: Schedule

    def __call__(self, epoch: float) -> float:
        return self.left(epoch) * self.right(epoch)

    def corners(self, end: float) -> tuple[float, ...]:
        return tuple(sorted({*self.left.edges(end), *self.right.edges(end)}))

    def one_way(self, start: float, last: float) -> bool:
        if self.left.flat or self.right.flat:
            return True
        (left, left_last), (right, right_last) = ((part(start), part(last)) for part in (self.left, self.right))
        return min(left, left_last, right, right_last) >= 0 and (left_last - left) * (right_last - right) >= 0

    @property
    def flat(self) -> bool:
        return self.left.flat and self.right.flat

    def scaled(self, factor: float) -> Schedule:
        return Product(self.left.scaled(factor), self.right)


@dataclass(frozen=True)
class Power(Schedule):
    """A schedule of positive values to a power: the square root of a growing batch, for instance.

    >>> Power(Constant(256), exponent=0.5)(0)
    16.0
    """

    of: Schedule
    exponent: float

    def __call__(self, epoch: float) -> float:
        return float(self.of(epoch) ** self.exponent)

    def edges(self, end: float) -> tuple[float, ...]:
        return self.of.edges(end)

    @property
    def flat(self) -> bool:
        return self.of.flat

    def scaled(self, factor: float) -> Schedule:
        return Product(self, Constant(factor))


def warmup_linear(base: float, epochs: float) -> Schedule:
    """base/5 (epoch/5) up to epoch 5, then base (1 - epoch/epochs): it jumps at epoch 5.

    As a popular summary of LARS (You et al., arXiv 1708.03888) states its schedule, with base 0.1 and 90 epochs; the
    paper itself has `warmup_polynomial`. Raises ValueError unless epochs > 5.

    >>> schedule = warmup_linear(0.1, epochs=90)
    >>> [round(schedule(epoch), 5) for epoch in (0, 4.999999, 5, 90)]
    [0.0, 0.02, 0.09444, 0.0]
    """
    require(epochs > 5, "epochs > 5", epochs=epochs)
    rest = epochs - 5
    return Stages(((5, Linear(0.0, base / 5, epochs=5)), (rest, Linear(base * rest / epochs, 0.0, epochs=rest))))


def warmup_polynomial(base: float, warmup: float, epochs: float, power: float) -> Schedule:
    """A line from 0 to base over `warmup` epochs, then base (1 - epoch/epochs)^power, counted from epoch 0.

    The schedule of LARS (You et al., arXiv 1708.03888), power 2, as its authors' code has it (NVIDIA's Caffe,
    sgd_solver.cpp: `rampup_interval` goes up to `base_lr`, and "poly" counts all iterations): it peaks at base, and
    drops by (1 - warmup/epochs)^power where the warm-up ends. Raises ValueError unless 0 <= warmup < epochs.

    >>> schedule = warmup_polynomial(40, warmup=12, epochs=90, power=2)
    >>> [round(schedule(epoch), 2) for epoch in (0, 6, 11.9999, 12, 90)]
    [0.0, 20.0, 40.0, 30.04, 0.0]
    """
    require(0 <= warmup < epochs, "0 <= warmup < epochs", warmup=warmup, epochs=epochs)
    if warmup == 0:
        return Polynomial(base, 0.0, epochs, power)
    rest = epochs - warmup
    falling = Polynomial(base * (rest / epochs) ** power, 0.0, rest, power)
    return Stages(((warmup, Linear(0.0, base, warmup)), (rest, falling)))
