"""Policies: epoch -> (lr, batch size, momentum), and the trades between the three.

SGD's noise scale is g = lr (N/B - 1)/(1 - m), about lr N/(B (1 - m)) while B << N (Smith et al. 2018, arXiv 1711.00489,
section 2). Each trade keeps lr/(B (1 - m)) where it was at every epoch, up to whole batch sizes, and so g as long as B
is small: at B = N/10 it is 10 % lower. Made with `exact=N`, N the training examples, a trade keeps g itself. Both are
of SGD, with Nesterov's momentum or without: other optimizers have other rules.
"""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lrbs_core.schedules import (
    Constant,
    FromOdds,
    Growth,
    Linear,
    Odds,
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

    `traded_momentum` is the momentum that it had before `raise_momentum` or `lower_momentum`, else None. It is no part
    of what the policy does: policies that differ in it alone are equal.

    >>> baseline = Policy(lr=0.1, batch_size=128, momentum=0.9)
    >>> baseline(epoch=3)
    Setting(lr=0.1, batch_size=128, momentum=0.9)
    """

    lr: Schedule
    batch_size: Schedule
    momentum: Schedule
    traded_momentum: float | None = field(default=None, init=False, repr=False, compare=False)

    def __init__(self, lr: Schedule | float, batch_size: Schedule | float, momentum: Schedule | float) -> None:
        for name, value in (("lr", lr), ("batch_size", batch_size), ("momentum", momentum)):
            object.__setattr__(self, name, as_schedule(value))
        object.__setattr__(self, "traded_momentum", None)
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

    def grow_batch(
        self, max_batch_size: int | None = None, until: float | None = None, exact: int | None = None
    ) -> Policy:
        """Every decay of the lr before epoch `until` becomes growth of the batch (section 3 of the paper).

        Where lr falls by a factor a below its highest value so far, lr stays and the batch is a times larger; up to
        `max_batch_size`, past which lr takes the rest. Rises of the lr to a new height stay rises. The twin of a
        triangular rate is thus a cycling batch size. With `exact` = N the batch becomes N/(1 + (N/B - 1)/a), so that
        N/B - 1, not N/B, is a times smaller. Raises ValueError when the batch is above the maximum already, and for an
        exact trade with a batch or a maximum of N or more.

        >>> from lrbs_core.schedules import Steps
        >>> baseline = Policy(lr=Steps(0.1, at=(60, 120, 160), factor=1/5), batch_size=128, momentum=0.9)
        >>> baseline.grow_batch().batch_size
        Piecewise(values=(128.0, 640.0, 3200.0, 16000.0), at=(60.0, 120.0, 160.0))
        >>> baseline.grow_batch(until=100).lr
        Piecewise(values=(0.1, 0.02, 0.004), at=(120.0, 160.0))
        >>> baseline.grow_batch(exact=50_000)(epoch=160)
        Setting(lr=0.1, batch_size=12145, momentum=0.9)
        """
        if max_batch_size is not None and max_batch_size < self.batch_size(0.0):
            raise ValueError(
                f"max_batch_size >= batch_size must hold, but got max_batch_size={max_batch_size}, "
                f"batch_size={self.batch_size(0.0):g} at epoch 0"
            )
        most = None if max_batch_size is None else _amount(Constant(max_batch_size), exact)(0.0)
        return self._traded(Growth(self.lr, _amount(self.batch_size, exact), until, most), exact)

    def decay_lr(self, exact: int | None = None) -> Policy:
        """The inverse of `grow_batch`: the batch stays at its smallest so far, and lr falls where the batch would grow.

        >>> from lrbs_core.schedules import Piecewise
        >>> Policy(lr=0.1, batch_size=Piecewise((128, 640), at=(60,)), momentum=0.9).decay_lr().lr
        Piecewise(values=(0.1, 0.02), at=(60.0,))
        """
        return self._traded(Shrinkage(_amount(self.batch_size, exact)), exact)

    def scale(self, factor: float, exact: int | None = None) -> Policy:
        """lr and batch size times `factor`; `scale(1 / factor)` is the inverse.

        With `exact` = N the batch is N/(1 + (N/B - 1)/factor), so that N/B - 1 is `factor` times smaller.

        >>> Policy(lr=0.1, batch_size=128, momentum=0.9).scale(5)(0)
        Setting(lr=0.5, batch_size=640, momentum=0.9)
        """
        if not (factor > 0 and math.isfinite(factor)):
            raise ValueError(f"factor > 0 must hold, but got factor={factor}")
        return self._with(self.lr.scaled(factor), _enlarged(self.batch_size, factor, exact), self.momentum)

    def linear_scaling(self, reference_batch: int) -> Policy:
        """lr times B/reference_batch, the lr being tuned for that batch (Goyal et al. 2017, arXiv 1706.02677, 2.1).

        The rule is for one new batch size. Raises ValueError for a batch size that changes: where the batch grows in
        place of a decay, the rule would undo it. Scale first, and grow the batch then.

        >>> Policy(lr=0.1, batch_size=8192, momentum=0.9).linear_scaling(256)(0)
        Setting(lr=3.2, batch_size=8192, momentum=0.9)
        """
        return self._lr_by_batch("linear_scaling", reference_batch, exponent=1.0)

    def sqrt_scaling(self, reference_batch: int) -> Policy:
        """lr times sqrt(B/reference_batch) (Hoffer et al. 2017, arXiv 1705.08741, section 4.1); else `linear_scaling`.

        >>> Policy(lr=0.1, batch_size=4096, momentum=0.9).sqrt_scaling(256)(0)
        Setting(lr=0.4, batch_size=4096, momentum=0.9)
        """
        return self._lr_by_batch("sqrt_scaling", reference_batch, exponent=0.5)

    def raise_momentum(self, momentum: float, exact: int | None = None) -> Policy:
        """A higher constant momentum m', and the batch times (1 - m)/(1 - m') (section 4); inverse: `lower_momentum`.

        With `exact` = N it is N/B - 1 that is divided by it. For optimizers whose velocity is a sum of gradients, as
        SGD's: a `RunSpec` with Adam refuses the policy. Raises ValueError unless the policy's momentum is a constant
        below the new one.

        >>> Policy(lr=0.5, batch_size=640, momentum=0.9).raise_momentum(0.98)(0)
        Setting(lr=0.5, batch_size=3200, momentum=0.98)
        """
        return self._with_momentum(momentum, exact, rises=True)

    def lower_momentum(self, momentum: float, exact: int | None = None) -> Policy:
        """A lower constant momentum m', and the batch times (1 - m)/(1 - m'): the inverse of `raise_momentum`.

        >>> Policy(lr=0.5, batch_size=3200, momentum=0.98).lower_momentum(0.9)(0)
        Setting(lr=0.5, batch_size=640, momentum=0.9)
        """
        return self._with_momentum(momentum, exact, rises=False)

    def stretched(self, factor: float) -> Policy:
        """The same policy in `factor` times the epochs, all breakpoints included."""
        return self._with(*(schedule.stretched(factor) for schedule in self._schedules()))

    def edges(self, end: float) -> tuple[float, ...]:
        """The epochs in (0, end] at which lr, batch size or momentum jumps, bends or turns."""
        return tuple(sorted({edge for schedule in self._schedules() for edge in schedule.edges(end)}))

    def to_dict(self) -> dict[str, Any]:
        """JSON, the inverse of `from_dict`."""
        return {name: getattr(self, name).to_dict() for name in Setting._fields}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Policy:
        """The policy of `to_dict`. Raises ValueError on an unknown field or schedule."""
        if not isinstance(value, dict) or set(value) != set(Setting._fields):
            names = ", ".join(Setting._fields)
            raise ValueError(f"a policy must have the fields {names}, but got {reprlib.repr(value)}")
        try:
            return cls(**{name: schedule_from_dict(part) for name, part in value.items()})
        except (ArithmeticError, TypeError) as error:
            raise ValueError(f"a policy must have a finite setting at epoch 0, but got none: {error}") from None

    def _schedules(self) -> tuple[Schedule, Schedule, Schedule]:
        return self.lr, self.batch_size, self.momentum

    def _with(self, lr: Schedule, batch_size: Schedule, momentum: Schedule) -> Policy:
        """Another policy, which remembers what this one does of its momentum."""
        policy = Policy(lr, batch_size, momentum)
        object.__setattr__(policy, "traded_momentum", self.traded_momentum)
        return policy

    def _traded(self, factor: Schedule, exact: int | None) -> Policy:
        amount = Product(_amount(self.batch_size, exact), factor)
        return self._with(concrete(Product(self.lr, factor)), concrete(_batch_size(amount, exact)), self.momentum)

    def _lr_by_batch(self, rule: str, reference_batch: int, exponent: float) -> Policy:
        if not reference_batch >= 1:
            raise ValueError(f"reference_batch >= 1 must hold, but got reference_batch={reference_batch}")
        if not isinstance(concrete(self.batch_size), Constant):
            raise ValueError(
                f"{rule} needs a constant batch size, as lr would follow every change of it, "
                f"but got {reprlib.repr(self.batch_size)}: scale before growing the batch"
            )
        factor = Power(self.batch_size.scaled(1 / reference_batch), exponent)
        return self._with(concrete(Product(self.lr, factor)), self.batch_size, self.momentum)

    def _with_momentum(self, momentum: float, exact: int | None, rises: bool) -> Policy:
        verb, sign = ("raise", ">") if rises else ("lower", "<")
        if not isinstance(self.momentum, Constant):
            raise ValueError(
                f"{verb}_momentum needs a constant momentum, but got {self.momentum}: trade before scheduling it"
            )
        now = self.momentum.value
        if not 0 <= momentum < 1 or not (momentum > now if rises else momentum < now):
            raise ValueError(f"0 <= momentum < 1 and momentum {sign} {now:g} must hold, but got momentum={momentum}")
        batch_size = _enlarged(self.batch_size, (1 - now) / (1 - momentum), exact)
        policy = self._with(self.lr, batch_size, Constant(momentum))
        before = now if self.traded_momentum is None else self.traded_momentum
        object.__setattr__(policy, "traded_momentum", None if before == momentum else before)
        return policy


def _amount(batch_size: Schedule, exact: int | None) -> Schedule:
    """What a trade multiplies as it does lr: the batch size, or with N for `exact` its odds."""
    if exact is None:
        return batch_size
    if isinstance(batch_size, FromOdds) and batch_size.examples == exact:
        return batch_size.odds
    return Odds(batch_size, exact)


def _batch_size(amount: Schedule, exact: int | None) -> Schedule:
    """The inverse of `_amount`."""
    return amount if exact is None else FromOdds(amount, exact)


def _enlarged(batch_size: Schedule, factor: float, exact: int | None) -> Schedule:
    enlarged = _batch_size(_amount(batch_size, exact).scaled(factor), exact)
    return enlarged if exact is None else concrete(enlarged)


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
