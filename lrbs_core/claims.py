"""Claims: what a paper says that a sweep can check, and the verdict on what was measured."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

__all__ = ["Accuracies", "Claim", "Measured", "Verdict", "verdict"]

Metric = Literal["updates", "test_accuracy", "train_loss"]
Relation = Literal["about", "below"]
Verdict = Literal["reproduced", "not", "too few runs", "not run", "other settings"]


class Measured(NamedTuple):
    """A mean over n runs with its 95 % interval; NaN bounds where n is too small for one."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Claim:
    """One statement of a paper on the runs of one policy.

    `where` names the figure or table; `policy` is a label of the sweep. The claimed `metric` of its runs is within
    `tolerance` of `value`, or below it when `relation` is "below". With `versus`, another label, the metric is the
    difference policy - versus over runs paired by seed. Accuracies are in percent.

    How surely a number of seeds would find it (`power.claim_power`) hangs on `paper`, the paper's own number where
    it is not `value`, and on `deviation`, the standard deviation of the metric, or of the difference, between seeds.

    >>> Claim(where="Figure 5", policy="increased momentum", metric="updates", value=2500, relation="below").expected
    '< 2500'
    """

    where: str
    policy: str
    metric: Metric
    value: float
    tolerance: float = 0.0
    relation: Relation = "about"
    versus: str | None = None
    paper: float | None = None
    deviation: float | None = None

    def __post_init__(self) -> None:
        for name, choices in (("metric", get_args(Metric)), ("relation", get_args(Relation))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, but got {getattr(self, name)!r}")
        if self.relation == "below" and self.tolerance:
            raise ValueError(
                f"tolerance belongs to relation 'about', but got relation='below', tolerance={self.tolerance}"
            )
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance >= 0 must hold, but got tolerance={self.tolerance}")
        if self.paper is not None and not self.holds(self.paper):
            raise ValueError(f"the paper's own number must meet its claim, {self.expected}, but got paper={self.paper}")
        if self.deviation is not None and not 0 < self.deviation < math.inf:
            raise ValueError(f"0 < deviation < inf must hold, but got deviation={self.deviation}")

    @property
    def truth(self) -> float | None:
        """What the metric is if the paper is right; None where it says no more than that it is below a bound."""
        return self.value if self.paper is None and self.relation == "about" else self.paper

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which the metric is claimed to lie; what is to be below a bound does not meet it."""
        if self.relation == "below":
            return -math.inf, self.value
        return self.value - self.tolerance, self.value + self.tolerance

    @property
    def expected(self) -> str:
        """The claim's right-hand side as text."""
        if self.relation == "below":
            return f"< {self.value:.15g}"
        return f"{self.value:.15g}" + (f" ± {self.tolerance:.15g}" if self.tolerance else "")

    @property
    def subject(self) -> str:
        """The claim's left-hand side as text."""
        return f"{self.metric.replace('_', ' ')} of {self.policy}" + (f" less {self.versus}" if self.versus else "")

    def holds(self, value: float) -> bool:
        """Whether one number meets the claim."""
        return value < self.value if self.relation == "below" else abs(value - self.value) <= self.tolerance


# What multiplies the deviation where lr has not fallen by the end: 1.42 % where 0.40 is expected (`decay` of
# sweeps/smith2017_table1_cifar10.csv, mean 67.6 %), and 1.10 % where 0.37 is (`exp_range`, 72.9 %), n = 3 each.
UNSETTLED = 3.3


@dataclass(frozen=True)
class Accuracies:
    """A paper's test accuracies by policy, in percent of `test_examples`, and the claims that they make.

    The deviation between seeds is 100 sqrt(error / (2 test_examples)), error = 1 - accuracy/100: that of runs which err
    independently from one example to the next, and are right as often as they agree (Jordan 2023, arXiv 2304.01910, for
    two classes: of examples on which a share q of the runs says 1, a share q is 1; they err with 2 q (1 - q), and vary
    by q (1 - q)). It is 0.15 % for an error of 23.6 % on ImageNet, where Goyal et al. 2017 report 0.12 over five runs.
    Policies whose lr has not fallen by the end (`unsettled`) vary more: 3.3 times as much in the two that we measured.
    A difference has the root of the sum of both squares, as if two runs of a seed had nothing in common.
    Raises ValueError unless 0 <= accuracy < 100.

    >>> paper = Accuracies({"fixed": 81.4, "exp_range": 82.2}, test_examples=10_000)
    >>> paper.below("Table 1", "fixed", "exp_range").paper, round(paper.deviation("fixed"), 3)
    (-0.8, 0.305)
    """

    values: Mapping[str, float]
    test_examples: int
    unsettled: Collection[str] = ()

    def __post_init__(self) -> None:
        if not all(0 <= value < 100 for value in self.values.values()):
            raise ValueError(f"0 <= accuracy < 100 must hold, but got {dict(self.values)}")

    def deviation(self, *policies: str) -> float:
        """Between seeds: of one policy's accuracy, or of the difference of two."""
        shares = (
            (100 - self.values[policy]) * (UNSETTLED**2 if policy in self.unsettled else 1) for policy in policies
        )
        return 10 * math.sqrt(sum(shares) / (2 * self.test_examples))

    def each(self, where: str, tolerance: float, policies: Collection[str] | None = None) -> tuple[Claim, ...]:
        """That each of these policies, else all, has its accuracy."""
        return tuple(
            Claim(where, policy, "test_accuracy", self.values[policy], tolerance, deviation=self.deviation(policy))
            for policy in (self.values if policies is None else policies)
        )

    def difference(self, where: str, policy: str, versus: str, tolerance: float) -> Claim:
        """That a policy is so much above another."""
        value, deviation = self._less(policy, versus), self.deviation(policy, versus)
        return Claim(where, policy, "test_accuracy", value, tolerance, versus=versus, deviation=deviation)

    def below(self, where: str, policy: str, versus: str) -> Claim:
        """That a policy is below another."""
        told = {"paper": self._less(policy, versus), "deviation": self.deviation(policy, versus)}
        return Claim(where, policy, "test_accuracy", 0, relation="below", versus=versus, **told)

    def _less(self, policy: str, versus: str) -> float:
        return round(self.values[policy] - self.values[versus], 6)


def verdict(claim: Claim, measured: Measured | None) -> Verdict:
    """What the measurement says of the claim.

    Update counts are exact, so one run settles them. Of any other metric the whole 95 % interval must lie where the
    claim holds ("reproduced") or where it does not ("not"); an interval astride the border, or no interval, is "too
    few runs".

    >>> verdict(Claim("Table 1", "fixed", "test_accuracy", 81.4, tolerance=1.0), Measured(81.2, 80.9, 81.5, n=3))
    'reproduced'
    """
    if measured is None or measured.n == 0:
        return "not run"
    if claim.metric == "updates" and (measured.n == 1 or measured.low == measured.high):
        return "reproduced" if claim.holds(measured.mean) else "not"
    if claim.holds(measured.low) and claim.holds(measured.high):
        return "reproduced"
    lowest, highest = claim.bounds
    outside = (
        measured.low > highest or measured.high < lowest or (claim.relation == "below" and measured.low >= highest)
    )
    return "not" if outside else "too few runs"
