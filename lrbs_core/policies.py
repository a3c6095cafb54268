"""Policies: epoch -> (lr, batch size, momentum), and the trades between the three at equal noise scale.

SGD's noise scale is g = lr (N/B - 1)/(1 - m), about lr N/(B (1 - m)) (Smith et al. 2018, arXiv 1711.00489, section 2).
Each trade keeps lr/(B (1 - m)) where it was at every epoch, up to whole batch sizes.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
from dataclasses import dataclass
from typing import Any, NamedTuple

from lrbs_core.schedules import (
    Constant,
    Growth,
    Linear,
    Power,
    Product,
    Schedule,
    Shrinkage,
    Stages,
    as_schedule,
    concrete,
    schedule_from_dict,
)

__all__ = ["Policy", "Setting", "one_cycle", "whole"]


class Setting(NamedTuple):
    """What one update uses: `lr` for the mean loss, `batch_size` in examples, `momentum` (Adam: its beta1)."""

    lr: float
    batch_size: int
    momentum: float


def whole(batch_size: float) -> int:
    """The nearest whole batch size, halves up: the one place where batch sizes are rounded.

    >>> whole(2.5), whole(640.0000000001)
    (3, 640)
    """
    return math.floor(batch_size + 0.5)


@dataclass(frozen=True)
class Policy:
    """lr, batch size and momentum, each a schedule or a plain number.

    >>> baseline = Policy(lr=0.1, batch_size=128, momentum=0.9)
    >>> baseline(epoch=3)
    Setting(lr=0.1, batch_size=128, momentum=0.9)
    """

    lr: Schedule
    batch_size: Schedule
    momentum: Schedule

    def __init__(self, lr: Schedule | float, batch_size: Schedule | float, momentum: Schedule | float) -> None:
        for name, value in (("lr", lr), ("batch_size", batch_size), ("momentum", momentum)):
            object.__setattr__(self, name, as_schedule(value))
        setting = self(0.0)
        if not setting.lr >= 0:
            raise ValueError(f"lr >= 0 must hold, but got lr={setting.lr} at epoch 0")
        if not setting.batch_size >= 1:
            raise ValueError(f"batch_size >= 1 must hold, but got batch_size={self.batch_size(0.0):g} at epoch 0")
        if not 0 <= setting.momentum < 1:
            raise ValueError(f"0 <= momentum < 1 must hold, but got momentum={setting.momentum} at epoch 0")

    def __call__(self, epoch: float) -> Setting:
        """The setting at an epoch (a float >= 0)."""
        return Setting(self.lr(epoch), whole(self.batch_size(epoch)), self.momentum(epoch))

    def grow_batch(self, max_batch_size: int | None = None, until: float | None = None) -> Policy:
        """Every decay of the lr before epoch `until` becomes growth of the batch (section 3 of the paper).

        Where lr falls by a factor a below its highest value so far, lr stays and the batch is a times larger; up to
        `max_batch_size`, past which lr takes the rest. Rises of the lr to a new height stay rises. The twin of a
        triangular rate is thus a cycling batch size. Raises ValueError when the batch is above the maximum already.

        >>> from lrbs_core.schedules import Steps
        >>> baseline = Policy(lr=Steps(0.1, at=(60, 120, 160), factor=1/5), batch_size=128, momentum=0.9)
        >>> baseline.grow_batch().batch_size
        Piecewise(values=(128.0, 640.0, 3200.0, 16000.0), at=(60.0, 120.0, 160.0))
        >>> baseline.grow_batch(until=100).lr
        Piecewise(values=(0.1, 0.02, 0.004), at=(120.0, 160.0))
        """
        if max_batch_size is not None and max_batch_size < self.batch_size(0.0):
            raise ValueError(
                f"max_batch_size >= batch_size must hold, but got max_batch_size={max_batch_size}, "
                f"batch_size={self.batch_size(0.0):g} at epoch 0"
            )
        return self._traded(Growth(self.lr, self.batch_size, until, max_batch_size))

    def decay_lr(self) -> Policy:
        """The inverse of `grow_batch`: the batch stays at its smallest so far, and lr falls where the batch would grow.

        >>> from lrbs_core.schedules import Piecewise
        >>> Policy(lr=0.1, batch_size=Piecewise((128, 640), at=(60,)), momentum=0.9).decay_lr().lr
        Piecewise(values=(0.1, 0.02), at=(60.0,))
        """
        return self._traded(Shrinkage(self.batch_size))

    def scale(self, factor: float) -> Policy:
        """lr and batch size times `factor`; `scale(1 / factor)` is the inverse.

        >>> Policy(lr=0.1, batch_size=128, momentum=0.9).scale(5)(0)
        Setting(lr=0.5, batch_size=640, momentum=0.9)
        """
        if not (factor > 0 and math.isfinite(factor)):
            raise ValueError(f"factor > 0 must hold, but got factor={factor}")
        return Policy(self.lr.scaled(factor), self.batch_size.scaled(factor), self.momentum)

    def linear_scaling(self, reference_batch: int) -> Policy:
        """lr times B/reference_batch, the lr being tuned for that batch (Goyal et al. 2017, arXiv 1706.02677, 2.1).

        >>> Policy(lr=0.1, batch_size=8192, momentum=0.9).linear_scaling(256)(0)
        Setting(lr=3.2, batch_size=8192, momentum=0.9)
        """
        return self._lr_by_batch(reference_batch, exponent=1.0)

    def sqrt_scaling(self, reference_batch: int) -> Policy:
        """lr times sqrt(B/reference_batch) (Hoffer et al. 2017, arXiv 1705.08741, section 4.1).

        >>> Policy(lr=0.1, batch_size=4096, momentum=0.9).sqrt_scaling(256)(0)
        Setting(lr=0.4, batch_size=4096, momentum=0.9)
        """
        return self._lr_by_batch(reference_batch, exponent=0.5)

    def raise_momentum(self, momentum: float) -> Policy:
        """A higher constant momentum m', and the batch times (1 - m)/(1 - m') (section 4); inverse: `lower_momentum`.

        Raises ValueError unless the policy's momentum is a constant below the new one.

        >>> Policy(lr=0.5, batch_size=640, momentum=0.9).raise_momentum(0.98)(0)
        Setting(lr=0.5, batch_size=3200, momentum=0.98)
        """
        return self._with_momentum(momentum, rises=True)

    def lower_momentum(self, momentum: float) -> Policy:
        """A lower constant momentum m', and the batch times (1 - m)/(1 - m'): the inverse of `raise_momentum`.

        >>> Policy(lr=0.5, batch_size=3200, momentum=0.98).lower_momentum(0.9)(0)
        Setting(lr=0.5, batch_size=640, momentum=0.9)
        """
        return self._with_momentum(momentum, rises=False)

    def stretched(self, factor: float) -> Policy:
        """The same policy in `factor` times the epochs, all breakpoints included."""
        return Policy(self.lr.stretched(factor), self.batch_size.stretched(factor), self.momentum.stretched(factor))

    def edges(self, end: float) -> tuple[float, ...]:
        """The epochs in (0, end] at which lr, batch size or momentum jumps, bends or turns."""
        return tuple(sorted({edge for schedule in self._schedules() for edge in schedule.edges(end)}))

    def to_dict(self) -> dict[str, Any]:
        """JSON, the inverse of `from_dict`."""
        return {f.name: getattr(self, f.name).to_dict() for f in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Policy:
        """The policy of `to_dict`. Raises ValueError on an unknown field or schedule."""
        names = [f.name for f in dataclasses.fields(cls)]
        if not isinstance(value, dict) or set(value) != set(names):
            raise ValueError(f"a policy must have the fields {', '.join(names)}, but got {reprlib.repr(value)}")
        try:
            return cls(**{name: schedule_from_dict(part) for name, part in value.items()})
        except (ArithmeticError, TypeError) as error:
            raise ValueError(f"a policy must have a finite setting at epoch 0, but got none: {error}") from None

    def _schedules(self) -> tuple[Schedule, Schedule, Schedule]:
        return self.lr, self.batch_size, self.momentum

    def _traded(self, factor: Schedule) -> Policy:
        lr, batch_size = (concrete(Product(schedule, factor)) for schedule in (self.lr, self.batch_size))
        return Policy(lr, batch_size, self.momentum)

    def _lr_by_batch(self, reference_batch: int, exponent: float) -> Policy:
        if not reference_batch >= 1:
            raise ValueError(f"reference_batch >= 1 must hold, but got reference_batch={reference_batch}")
        factor = Power(self.batch_size.scaled(1 / reference_batch), exponent)
        return Policy(concrete(Product(self.lr, factor)), self.batch_size, self.momentum)

    def _with_momentum(self, momentum: float, rises: bool) -> Policy:
        verb, sign = ("raise", ">") if rises else ("lower", "<")
        if not isinstance(self.momentum, Constant):
            raise ValueError(
                f"{verb}_momentum needs a constant momentum, but got {self.momentum}: trade before scheduling it"
            )
        now = self.momentum.value
        if not 0 <= momentum < 1 or not (momentum > now if rises else momentum < now):
            raise ValueError(f"0 <= momentum < 1 and momentum {sign} {now:g} must hold, but got momentum={momentum}")
        return Policy(self.lr, self.batch_size.scaled((1 - now) / (1 - momentum)), momentum)


def one_cycle(
    low: float,
    high: float,
    stepsize: float,
    epochs: float,
    final: float,
    batch_size: int,
    momentum: tuple[float, float],
) -> Policy:
    """lr from low to high and back in 2 stepsizes, then down to `final`; momentum the mirror, between its two values.

    L. N. Smith and Topin 2017 (arXiv 1708.07120); momentum falls while lr rises (L. N. Smith 2018, arXiv 1803.09820,
    section 4.3). Durations in epochs, lines throughout. Raises ValueError unless 2 stepsize < epochs and the momentum
    falls, or stays.

    >>> policy = one_cycle(0.1, 3.0, stepsize=45, epochs=100, final=0.001, batch_size=1000, momentum=(0.95, 0.85))
    >>> policy(epoch=45)
    Setting(lr=3.0, batch_size=1000, momentum=0.85)
    """
    if not 0 < 2 * stepsize < epochs:
        raise ValueError(f"0 < 2 stepsize < epochs must hold, but got stepsize={stepsize}, epochs={epochs}")
    start, bottom = momentum
    if not start >= bottom:
        raise ValueError(
            f"momentum[0] >= momentum[1] must hold, as it falls while lr rises, but got momentum={momentum}"
        )
    tail = epochs - 2 * stepsize

    def up_and_back(first: float, second: float, last: float) -> Schedule:
        there, back = Linear(first, second, epochs=stepsize), Linear(second, first, epochs=stepsize)
        return Stages(((stepsize, there), (stepsize, back), (tail, Linear(first, last, epochs=tail))))

    return Policy(up_and_back(low, high, final), batch_size, up_and_back(start, bottom, start))
