"""Results: rows of runs as tidy frames over policies and seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, Protocol

import pandas as pd

from lrbs_core.claims import Claim, Measured
from lrbs_core.journal import FINAL, METRICS, NOISE_SUMS, OPTIONAL, Row
from lrbs_core.noise import NOT_TOLD, GradientNoise, gradient_noise
from lrbs_core.planning import Phase
from lrbs_core.specs import RunSpec
from lrbs_core.statistics import mean_interval

__all__ = [
    "RunRecord", "accuracy_resolution", "curves", "measure", "measured_noise", "mixed_precision", "noise_by_phase",
    "progress", "run_table", "seconds_to_go",
]  # fmt: skip

TEST_EXAMPLES = {"digits": 360, "cifar10": 10_000, "cifar100": 10_000, "imagenet": 50_000}


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
    metrics = (*METRICS, *OPTIONAL)
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


def mixed_precision(pairs: Iterable[tuple[RunSpec, RunRecord]]) -> str | None:
    """A sentence that names the runs in bf16 where others with rows are not: a difference may be the precision's."""
    bf16: dict[str, set[int]] = {}
    others = False
    for spec, record in pairs:
        if record.machine and record.rows:
            if "bf16" in record.machine.split(", "):  # as `devices.describe` has it
                bf16.setdefault(spec.label, set()).add(spec.seed)
            else:
                others = True
    if not (bf16 and others):
        return None
    runs = ", ".join(
        f"{label} (seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))})"
        for label, seeds in bf16.items()
    )
    return f"Not of one precision, which may be what differs: in bf16 are {runs}, the others in float32."


def curves(pairs: Iterable[tuple[RunSpec, RunRecord]]) -> pd.DataFrame:
    """One line a row of a run: policy, seed, row and every metric."""
    lines = [{"policy": spec.label, "seed": spec.seed, **row} for spec, record in pairs for row in record.rows]
    return pd.DataFrame(lines, columns=["policy", "seed", "row", *METRICS, *OPTIONAL, *NOISE_SUMS])


def accuracy_resolution(pairs: Iterable[tuple[RunSpec, RunRecord]]) -> float:
    """One example of the test set in percent of it: what two accuracies that are not equal differ by at least.

    Of a folder of images it is told by the accuracies themselves: the fewest examples of which each row's is a whole
    number. Of several data sets the largest; 0 where no row tells it.
    """
    seen: dict[str, set[float]] = {}
    for spec, record in pairs:
        seen.setdefault(spec.dataset, set()).update(row["test_accuracy"] for row in record.rows)
    counts = []
    for dataset, accuracies in seen.items():
        told = [value / 100 for value in accuracies if math.isfinite(value)]
        if dataset in TEST_EXAMPLES:
            counts.append(TEST_EXAMPLES[dataset])
        elif told:
            counts.append(math.lcm(*(Fraction(value).limit_denominator(100_000).denominator for value in told)))
    return max((100 / count for count in counts), default=0.0)


def progress(pairs: Iterable[tuple[RunSpec, RunRecord]]) -> pd.DataFrame:
    """One line a run: policy, seed, status, share of its examples seen, epochs seen and asked for, accuracy so far."""
    lines = []
    for spec, record in pairs:
        last: Row = record.rows[-1] if record.rows else {"epoch": 0.0}
        line = {"policy": spec.label, "seed": spec.seed, "status": record.status, "done": last["epoch"] / spec.epochs}
        line |= {"epoch": last["epoch"], "epochs": spec.epochs, "test_accuracy": last.get("test_accuracy", math.nan)}
        lines.append(line)
    return pd.DataFrame(lines, columns=["policy", "seed", "status", "done", "epoch", "epochs", "test_accuracy"])


def measured_noise(rows: Iterable[Row]) -> GradientNoise:
    """The gradient noise scale over rows of one or several runs, by the sums that they hold."""
    sums = [[row[name] for name in NOISE_SUMS] for row in rows if all(name in row for name in NOISE_SUMS)]
    return gradient_noise([math.fsum(column) for column in zip(*sums, strict=True)]) if sums else NOT_TOLD


def noise_by_phase(spec: RunSpec, phases: Sequence[Phase], records: Sequence[RunRecord]) -> list[GradientNoise]:
    """`measured_noise` of each phase of a policy, over its runs: of the rows all of whose updates are of the phase."""
    spans = []
    for record in records:
        begins = [0.0, *(row["epoch"] for row in record.rows)]
        # An update is of the phase in which it starts.
        lasts = (row["epoch"] - row["batch_size"] / spec.train_examples for row in record.rows)
        spans += list(zip(begins, lasts, record.rows, strict=False))
    return [
        measured_noise(row for first, last, row in spans if phase.epoch_start <= first and last < phase.epoch_end)
        for phase in phases
    ]


def seconds_to_go(pairs: Sequence[tuple[RunSpec, RunRecord]], runs: int) -> float:
    """About how long `runs` runs, of which `pairs` have begun, still take if as many go on at once as do now.

    The epochs left over the epochs a second of those that are running, by the clock between their last two rows, or
    without evaluation where there is but one. A run that has not begun counts as the mean of the others. NaN where
    none has a row to go by.
    """
    speed = left = 0.0
    for spec, record in pairs:
        if record.status in FINAL:
            continue
        left += spec.epochs - (record.rows[-1]["epoch"] if record.rows else 0.0)
        if record.status == "running" and record.rows:
            (before, last) = ({"epoch": 0.0, "time_ms": 0.0}, *record.rows)[-2:]
            seconds = (last["time_ms"] - before["time_ms"]) / 1000 if len(record.rows) > 1 else last["train_seconds"]
            speed += (last["epoch"] - before["epoch"]) / seconds if seconds > 0 else 0.0
    if speed == 0:
        return math.nan
    waiting = runs - len(pairs)
    return (left + waiting * sum(spec.epochs for spec, _ in pairs) / len(pairs)) / speed


def measure(table: pd.DataFrame, claim: Claim, resolution: float = 0.0) -> Measured | None:
    """The claim's metric over the finished runs of its policy (and its partner's, paired by seed); None without any.

    Without an interval, which leaves it unjudged, where a run of either diverged, as those that are left flatter it,
    and where fewer than 6 are all equal, as accuracies counted in few examples may be (`statistics.difference_p`).
    Updates are exact; accuracies have a `resolution`.
    """
    of_both = table[table["policy"].isin([claim.policy, claim.versus])]
    finished = of_both[of_both["status"] == "finished"]
    values = finished[finished["policy"] == claim.policy].set_index("seed")[claim.metric].astype(float)
    if claim.versus is not None:
        other = finished[finished["policy"] == claim.versus].set_index("seed")[claim.metric].astype(float)
        values = (values - other).dropna()
    if not len(values):
        return None
    measured = mean_interval(values.tolist(), resolution=resolution if claim.metric == "test_accuracy" else 0.0)
    diverged = bool((of_both["status"] == "diverged").any())
    if claim.metric != "updates" and (diverged or (values.nunique() == 1 and measured.n < 6)):
        return measured._replace(low=math.nan, high=math.nan)
    return measured
