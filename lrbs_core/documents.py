"""Documents: what `lrbs plan --json` and `lrbs range-test --json` print, and the tables show."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lrbs_core.policies import Policy
from lrbs_core.range_test import ROWS, Bounds, bounds_of
from lrbs_core.schedules import Linear, Triangular
from lrbs_core.specs import RunSpec
from lrbs_core.sweeping import Sweep
from lrbs_core.twins import deviations, notes
from lrbs_core.validation import judged_on

if TYPE_CHECKING:
    from lrbs_core.results import RunRecord

__all__ = ["plan_document", "planned_claims", "policies_of", "range_document"]

# Epochs of half a cycle: L. N. Smith (arXiv 1506.01186), section 3.2, recommends 2 to 10.
STEPSIZE = 4.0


def plan_document(sweep: Sweep) -> dict[str, Any]:
    """`lrbs plan --json`. The plan of a label is worked out once for all its seeds.

    `noise_scale_deviation` of a phase: the noise scale over that of the first policy, less 1, where the two are twins.
    """
    plans = {spec.label: spec.plan() for spec in policies_of(sweep)}
    baseline = sweep.runs[0]
    off = {spec.label: deviations(spec, baseline) for spec in policies_of(sweep)}
    told = {spec.label: notes(spec, baseline) for spec in policies_of(sweep)}
    runs = [
        {
            "label": spec.label,
            "seed": spec.seed,
            "key": spec.key,
            "epochs": spec.epochs,
            "updates": plans[spec.label].updates,
            "peak_batch_size": plans[spec.label].peak_batch_size,
            "phases": [
                {
                    name: _tidy(value)
                    for name, value in (dataclasses.asdict(phase) | {"noise_scale_deviation": deviation}).items()
                }
                for phase, deviation in zip(plans[spec.label].phases, off[spec.label], strict=True)
            ],
            "notes": told[spec.label],
        }
        for spec in sweep.runs
    ]
    return {
        "sweep": sweep.name, "examples": baseline.train_examples,
        "validation_examples": baseline.validation_examples, "baseline": baseline.label, "runs": runs,
        "claims": planned_claims(sweep),
    }  # fmt: skip


def planned_claims(sweep: Sweep) -> list[dict[str, Any]]:
    """Each claim, the seeds that it will have, and how often so many find it reproduced if the paper is right.

    No power (null) at other settings than the paper's, where what is right there may be wrong.
    """
    from lrbs_core.power import claim_power

    seeds: dict[str, set[int]] = {}
    for spec in sweep.runs:
        seeds.setdefault(spec.label, set()).add(spec.seed)
    lines = []
    for claim in sweep.claims:
        n = len(seeds[claim.policy] & seeds[claim.versus or claim.policy])
        power = math.nan if sweep.runs[0].overrides else claim_power(claim, n)
        line = {"where": claim.where, "claim": claim.subject, "expected": claim.expected, "seeds": n}
        lines.append(line | {"power": None if math.isnan(power) else round(power, 4)})
    return lines


def _tidy(value: Any) -> Any:
    """12 digits of a float; JSON knows no NaN: a number that is missing is null."""
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.12g}")
    return value


def policies_of(sweep: Sweep) -> list[RunSpec]:
    """The first run of each label."""
    return list({spec.label: spec for spec in reversed(sweep.runs)}.values())[::-1]


def range_document(sweep: Sweep, pairs: Sequence[tuple[RunSpec, RunRecord]]) -> dict[str, Any]:
    """`lrbs range-test --json`: bounds by geometric mean over seeds and its interval, and the policy they suggest.

    The interval is the wider one of Student's t of log lr over seeds, and a row of the ramp either way: all seeds have
    the same rows, so that they may agree to less than what a ramp can tell. Alone, Student's t holds the truth in as
    few as 14 of 100 simulated tests of 3 seeds, with the row in 93 or more. One seed has no interval, and neither has a
    bound that a seed's ramp did not reach. A policy takes both bounds of every seed that has any.

    Raises ValueError, with the first seed's reason, where no seed has bounds.
    """
    from lrbs_core.statistics import mean_interval

    spec, seeds, found = sweep.runs[0], [], []
    for run, record in pairs:
        bounds, reason = None, ""
        try:
            bounds = bounds_of(record.rows, run.judged_by)
            found.append(bounds)
        except ValueError as error:
            reason = str(error)
        shown = dict.fromkeys(Bounds._fields) if bounds is None else bounds._asdict()
        seeds.append({"seed": run.seed, "key": run.key, "status": record.status, **shown, "reason": reason})
    if not found:
        raise ValueError(f"no bounds for any seed: {seeds[0]['reason']}")

    _, batch_size, momentum = spec.policy(0.0)
    ends = {name: _tidy(spec.policy.lr(epoch)) for name, epoch in (("low", 0.0), ("high", spec.epochs))}
    ramp = ends | {"epochs": spec.epochs, "geometric": not isinstance(spec.policy.lr, Linear)}

    def over_seeds(values: Sequence[float], reached: bool) -> dict[str, float | int | None]:
        mean, below, above, n = mean_interval([math.log(value) for value in values])
        row = (
            math.log(ramp["high"] / ramp["low"]) / ROWS
            if ramp["geometric"]
            else math.log1p((ramp["high"] - ramp["low"]) / ROWS / math.exp(mean))
        )
        half = max((above - below) / 2, row)
        told = reached and n > 1
        return {
            "mean": math.exp(mean),
            "low": math.exp(mean - half) if told else None,
            "high": math.exp(mean + half) if told else None,
            "n": n,
        }

    low_found, high_found = (all(bounds.low_found for bounds in found), all(bounds.high_found for bounds in found))
    low = over_seeds([bounds.low for bounds in found], low_found)
    high = over_seeds([bounds.high for bounds in found], high_found)
    both = low_found and high_found
    lr = Triangular(float(f"{low['mean']:.1e}"), float(f"{high['mean']:.1e}"), stepsize=STEPSIZE) if both else None
    return {
        "sweep": sweep.name, "model": spec.model, "dataset": spec.dataset, "batch_size": batch_size,
        "momentum": momentum, "judged_on": judged_on([spec.judged_by]), "validation": spec.validation, "ramp": ramp,
        "low": low, "high": high, "low_found": low_found, "high_found": high_found, "seeds": seeds,
        "policy": None if lr is None else Policy(lr, batch_size, momentum).to_dict(),
    }  # fmt: skip
