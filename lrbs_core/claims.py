"""Claims: what a paper says that a sweep can check, and the verdict on what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

__all__ = ["Claim", "Measured", "Verdict", "verdict"]

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
    lowest = float("-inf") if claim.relation == "below" else claim.value - claim.tolerance
    highest = claim.value if claim.relation == "below" else claim.value + claim.tolerance
    outside = (
        measured.low > highest or measured.high < lowest or (claim.relation == "below" and measured.low >= highest)
    )
    return "not" if outside else "too few runs"
