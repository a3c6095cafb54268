"""Reports: a sweep's policies side by side, and each of its claims beside what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lrbs_core.claims import Measured, verdict
from lrbs_core.noise import noise_scale
from lrbs_core.planning import Phase
from lrbs_core.results import RunRecord, measure, run_table
from lrbs_core.specs import RunSpec
from lrbs_core.statistics import mean_interval
from lrbs_core.sweeping import Sweep

__all__ = ["overview"]


def overview(sweep: Sweep, pairs: Sequence[tuple[RunSpec, RunRecord]]) -> dict[str, Any]:
    """The report as one JSON document: policies with mean and 95 % interval over finished runs, claims with verdicts.

    A claim is about the paper's own settings: runs made with overrides are measured but never judged ("not run").
    """
    table = run_table(pairs)
    overridden = any(spec.overrides for spec in sweep.runs)
    policies = []
    for label in dict.fromkeys(spec.label for spec in sweep.runs):
        spec = next(spec for spec in sweep.runs if spec.label == label)
        runs = table[table["policy"] == label]
        done = runs[runs["status"] == "finished"]
        policies.append(
            {
                "label": label,
                "runs": len(done),
                "of": sum(other.label == label for other in sweep.runs),
                "not_finished": {
                    str(name): int(count) for name, count in runs["status"].value_counts().items() if name != "finished"
                },
                "updates": spec.plan().updates,
                **{
                    name: _interval(mean_interval(done[name].astype(float).tolist()))
                    for name in ("test_accuracy", "train_loss", "train_seconds")
                },
                "noise_scale": [_noise_at_end(spec, phase) for phase in spec.plan().phases],
            }
        )
    claims = []
    for claim in sweep.claims:
        measured = measure(table, claim)
        claims.append(
            {
                "where": claim.where,
                "claim": claim.subject,
                "expected": claim.expected,
                "measured": None if measured is None else _interval(measured),
                "verdict": "not run" if overridden else verdict(claim, measured),
            }
        )
    overrides = dict(sweep.runs[0].overrides)
    return {"sweep": sweep.name, "source": sweep.source, "overrides": overrides, "policies": policies, "claims": claims}


def _noise_at_end(spec: RunSpec, phase: Phase) -> float:
    return round(noise_scale(*spec.policy(math.nextafter(phase.epoch_end, 0)), spec.examples), 6)


def _interval(measured: Measured) -> dict[str, float | int | None]:
    """JSON knows no NaN: a number that is missing is null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in measured._asdict().items()
    }
