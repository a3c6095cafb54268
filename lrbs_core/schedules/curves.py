"""Curves that go one way between their breakpoints: tables, steps, lines, polynomials, cosine, exponential."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

from lrbs_core.schedules.base import EPOCHS, LEVEL, RATE, Schedule, require, up_to


def _ascending(at: tuple[float, ...]) -> bool:
    return all(a < b for a, b in itertools.pairwise(at))


@dataclass(frozen=True)
class Piecewise(Schedule):
    """values[i] from at[i-1] up to at[i]: a table, as papers print it.

    >>> Piecewise((128, 640, 3200), at=(60, 120))(60)
    640.0
    """

    values: tuple[float, ...] = field(metadata=LEVEL)
    at: tuple[float, ...] = field(metadata=EPOCHS)

    def _check(self) -> None:
        require(len(self.values) == len(self.at) + 1, "one value more than breakpoints", values=self.values, at=self.at)
        require(_ascending(self.at), "ascending breakpoints", at=self.at)

    def __call__(self, epoch: float) -> float:
        return self.values[sum(edge <= epoch for edge in self.at)]

    def edges(self, end: float) -> tuple[float, ...]:
        return up_to(self.at, end)

    @property
    def flat(self) -> bool:
        return True


@dataclass(frozen=True)
class Steps(Schedule):
    """value * factor^k after k of the breakpoints `at` (torch's MultiStepLR on the epoch axis).

    >>> [round(Steps(0.1, at=(60, 120), factor=1/5)(epoch), 4) for epoch in (0, 59.9, 60, 120)]
    [0.1, 0.1, 0.02, 0.004]
    """

    value: float = field(metadata=LEVEL)
    at: tuple[float, ...] = field(metadata=EPOCHS)
    factor: float

    def _check(self) -> None:
        require(_ascending(self.at), "ascending breakpoints", at=self.at)
        require(self.factor > 0, "factor > 0", factor=self.factor)

    def __call__(self, epoch: float) -> float:
        return float(self.value * self.factor ** sum(edge <= epoch for edge in self.at))

    def edges(self, end: float) -> tuple[float, ...]:
        return up_to(self.at, end)

    @property
    def flat(self) -> bool:
        return True


@dataclass(frozen=True)
class Polynomial(Schedule):
    """end + (start - end) (1 - epoch/epochs)^power, then `end` (LARS, arXiv 1708.03888, takes power 2).

    >>> Polynomial(1.0, 0.0, epochs=10, power=2)(5)
    0.25
    """

    start: float = field(metadata=LEVEL)
    end: float = field(metadata=LEVEL)
    epochs: float = field(metadata=EPOCHS)
    power: float

    def _check(self) -> None:
        require(self.power > 0, "power > 0", power=self.power)

    def __call__(self, epoch: float) -> float:
        left = max(0.0, 1 - epoch / self.epochs)
        return float(self.end + (self.start - self.end) * left**self.power)

    def edges(self, end: float) -> tuple[float, ...]:
        return up_to((self.epochs,), end)


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from `start` to `end` over `epochs`, then `end` (torch's LinearLR on the epoch axis).

    >>> Linear(0.1, 0.5, epochs=4)(1)
    0.2
    """

    start: float = field(metadata=LEVEL)
    end: float = field(metadata=LEVEL)
    epochs: float = field(metadata=EPOCHS)

    def __call__(self, epoch: float) -> float:
        done = min(1.0, epoch / self.epochs)
        return self.start + (self.end - self.start) * done

    def edges(self, end: float) -> tuple[float, ...]:
        return up_to((self.epochs,), end)


@dataclass(frozen=True)
class Cosine(Schedule):
    """end + (start - end) (1 + cos(pi epoch/epochs))/2, then `end` (Loshchilov and Hutter, arXiv 1608.03983, eq. 5).

    >>> round(Cosine(1.0, 0.0, epochs=10)(5), 12)
    0.5
    """

    start: float = field(metadata=LEVEL)
    end: float = field(metadata=LEVEL)
    epochs: float = field(metadata=EPOCHS)

    def __call__(self, epoch: float) -> float:
        done = min(1.0, epoch / self.epochs)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * done)) / 2

    def edges(self, end: float) -> tuple[float, ...]:
        return up_to((self.epochs,), end)


@dataclass(frozen=True)
class Exponential(Schedule):
    """value * gamma^epoch, gamma a factor an epoch (torch's ExponentialLR).

    >>> Exponential(0.1, gamma=0.5)(2)
    0.025
    """

    value: float = field(metadata=LEVEL)
    gamma: float = field(metadata=RATE)

    def __call__(self, epoch: float) -> float:
        return float(self.value * self.gamma**epoch)
