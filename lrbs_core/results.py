"""Results: rows of runs as tidy frames over policies and seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import pandas as pd

from lrbs_core.claims import Claim, Measured
from lrbs_core.journal import MEASURED, METRICS, Row
from lrbs_core.specs import RunSpec
from lrbs_core.statistics import mean_interval

__all__ = ["RunRecord", "curves", "measure", "run_table"]


class RunRecord(Protocol):
    """What a journal or a tracking store tells of a run."""

    @property
    def status(self) -> str | None: ...
    @property
    def machine(self) -> str: ...
    @property
    def rows(self) -> Sequence[Row]: ...


def run_table(pairs: Iterable[tuple[RunSpec, RunRecord]]) -> pd.DataFrame:
    """One line a run: policy, seed, key, overrides, status, the last row's metrics, the machine."""
    metrics = (*METRICS, *MEASURED)
    columns = ["policy", "seed", "key", "overrides", "status", *metrics, "machine"]
    lines: list[dict[str, Any]] = [
        {
            "policy": spec.label,
            "seed": spec.seed,
            "key": spec.key,
            "overrides": " ".join(f"{name}={value}" for name, value in spec.overrides),
            "status": record.status,
            **{name: record.rows[-1].get(name, math.nan) if record.rows else math.nan for name in metrics},
            "machine": record.machine,
        }
        for spec, record in pairs
    ]
    table = pd.DataFrame(lines, columns=columns)
    return table.astype(dict.fromkeys(("updates", "examples", "batch_size"), "Int64"))


def curves(pairs: Iterable[tuple[RunSpec, RunRecord]]) -> pd.DataFrame:
    """One line a row of a run: policy, seed, row and every metric."""
    lines = [{"policy": spec.label, "seed": spec.seed, **row} for spec, record in pairs for row in record.rows]
    return pd.DataFrame(lines, columns=["policy", "seed", "row", *METRICS, *MEASURED])


def measure(table: pd.DataFrame, claim: Claim) -> Measured | None:
    """The claim's metric over the finished runs of its policy (and its partner's, paired by seed); None without any."""
    finished = table[table["status"] == "finished"]
    values = finished[finished["policy"] == claim.policy].set_index("seed")[claim.metric].astype(float)
    if claim.versus is not None:
        other = finished[finished["policy"] == claim.versus].set_index("seed")[claim.metric].astype(float)
        values = (values - other).dropna()
    return mean_interval(values.tolist()) if len(values) else None
