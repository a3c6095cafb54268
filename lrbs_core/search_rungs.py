"""Stopping poor candidates early: asynchronous successive halving, its rungs in examples, judged from the journals.

Li et al. 2020, A system for massively parallel hyperparameter tuning (arXiv 1810.05934), in the form that stops rather
than pauses. A rung counts examples, never updates, of which a large batch has fewer. In mid-cycle the accuracy of a
cyclical policy tells the phase, not the policy (L. N. Smith 2017, section 3.2), so that

- no rung comes before each candidate's first cycle has ended;
- a run that has come to a rung is judged where its last whole cycle by then ended, or at the rung if it has no cycles,
  by its value there against the values that the others had after as many examples.

So what is compared is always two rows at equal examples. Of runs whose curves are the same function of examples but for
noise, the k-th to come to a rung goes on with probability ceil(k/3)/k, whatever its cycle. Where accuracy dips in
mid-cycle the run that is judged is at its best while others may not be: the benefit of the doubt is its own.

Simulated (tests/test_search_rungs_simulated.py, 450 searches of 72 runs over 60 epochs, rungs at 10 and 30), stopped of
policies of no cycle and of stepsize 1, 2 and 5: of equal curves 85.6, 85.6, 85.6 and 86.2 %; of curves that dip by 20
points in mid-cycle 76.6, 76.2, 76.5 and 77.0 %. Where runs differ by a deviation of 3 points, six times the noise, the
best went on in 99.8 % of searches and 98.5 % of the worse half were stopped (97.1 % with the dip). Two limits: the
order at a rung need not be that at the end, and a policy of which no row comes near its cycle's end is not at its best.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lrbs_core.journal import Reader, Row, RunFolder
from lrbs_core.schedules import Power, Product, cycle_ends
from lrbs_core.search_record import read_record
from lrbs_core.specs import RunSpec

__all__ = ["REDUCTION", "Rival", "Rungs", "judged_at", "rungs_of"]

# One in so many runs goes on from a rung, and rungs are apart by that factor.
REDUCTION = 3


def rungs_of(specs: Sequence[RunSpec]) -> tuple[float, ...]:
    """A ninth of the examples that the shortest of these runs sees, and a third.

    The first is put off to where the longest first cycle of any run ends; the second is three times the first, and left
    out where that is past half of the shortest run, as little is left to be saved then. Raises ValueError where the
    longest first cycle ends with the run, and where rows are not told at equal examples.

    >>> from lrbs_core import Policy, Triangular
    >>> def cyclic(stepsize):
    ...     return RunSpec(label="c", policy=Policy(Triangular(0.01, 0.1, stepsize), 16, 0.9), dataset="digits",
    ...         model="mlp", optimizer="sgd", weight_decay=0, ghost_size=None, augmentation="none",
    ...         normalization="channel", epochs=18, partial="keep", seed=0)
    >>> [[rung / 1437 for rung in rungs_of([cyclic(0.5), cyclic(longest)])] for longest in (1, 1.25, 4)]
    [[2.0, 6.0], [2.5, 7.5], [8.0]]
    """
    told = sorted({spec.evaluate_every_epochs * spec.train_examples for spec in specs})
    if told[-1] > told[0] * (1 + 1e-9):
        raise ValueError(
            f"--early-stop compares rows that must come at equal examples, but those of SPACE come every {told[0]:g} "
            f"to {told[-1]:g}: let all have one evaluate_every_epochs, or leave --early-stop out"
        )
    shortest = min(spec.epochs * spec.train_examples for spec in specs)
    first = max(
        [shortest / REDUCTION**2, *(ends[0] * spec.train_examples for spec in specs if (ends := _cycle_ends(spec)))]
    )
    if first >= shortest * (1 - 1e-9):
        raise ValueError(
            f"--early-stop compares runs once the first cycle of each has ended, but in SPACE one ends after {first:g} "
            f"examples, where the shortest run has {shortest:g}: shorten it, or leave --early-stop out"
        )
    second = first * REDUCTION
    return (first, second) if second <= shortest / 2 else (first,)


def _cycle_ends(spec: RunSpec) -> list[float]:
    """In epochs. Cycles are those of lr/B, so that a policy and its twin of cycling batch size are judged alike."""
    return cycle_ends(Product(spec.policy.lr, Power(spec.policy.batch_size, -1)), spec.epochs)


def judged_at(spec: RunSpec, rung: float) -> float | None:
    """The examples at which a run is judged for a rung: at the last cycle end by then, or the rung if it has no cycles.

    None where its first cycle goes on for longer.

    >>> from lrbs_core import Policy, Triangular
    >>> cyclic = RunSpec(label="c", policy=Policy(Triangular(0.01, 0.1, stepsize=2), 16, 0.9), dataset="digits",
    ...     model="mlp", optimizer="sgd", weight_decay=0, ghost_size=None, augmentation="none", normalization="channel",
    ...     epochs=12, partial="keep", seed=0)
    >>> [judged_at(cyclic, rung=epochs * 1437) / 1437 for epochs in (4, 5, 8)]
    [4.0, 4.0, 8.0]
    """
    ends = _cycle_ends(spec)
    past = [end * spec.train_examples for end in ends if end * spec.train_examples <= rung * (1 + 1e-9)]
    return min(past[-1], rung) if past else None if ends else rung


class Rival(NamedTuple):
    """Another candidate: its rows of the same seed so far, and the examples at which it was stopped over another."""

    rows: Sequence[Row]
    stopped_at: float = 0.0


@dataclass(frozen=True)
class Rungs:
    """Whether a run is to be stopped: at each rung the best third of those that came to it before, of its seed, go on.

    Of n runs the best ceil(n/3), ties included, so that the first always does. One that diverged since, or a candidate
    that was stopped there or later over another seed, counts as worse than any. What counts is what was told by the
    time of the run's own row, so that a run that was killed there is judged as it was or would have been. `record`:
    that of the search, beside the folders of its runs; `metric` and whether it is to be high (`up`).
    """

    record: Path
    examples: tuple[float, ...]
    metric: str
    up: bool

    def stops(self, folder: RunFolder, rows: Sequence[Row]) -> bool:
        """Whether the run whose newest row is the last of `rows` ends here; rows told again were judged."""
        spec, newest = folder.spec, rows[-1]
        passed = [rung for rung in self.examples if _number(rows, rung) == len(rows)]
        ended = newest["examples"] >= spec.epochs * spec.train_examples * (1 - 1e-9) or self._diverged(rows)
        if not passed or ended or len(Reader(folder.journal_path).poll().rows) > len(rows):
            return False
        rivals = list(self._rivals(spec, newest["time_ms"]))
        return any(self.falls_short(spec, rows, rivals, rung) for rung in passed)

    def reached(self, spec: RunSpec, rows: Sequence[Row]) -> dict[int, float]:
        """What a run was judged by at each rung that it came to, by the rung's examples: what a sampler may compare."""
        judged = ((rung, judged_at(spec, rung)) for rung in self.examples if _number(rows, rung))
        return {int(rung): rows[_number(rows, at) - 1][self.metric] for rung, at in judged if at is not None}

    def falls_short(self, spec: RunSpec, rows: Sequence[Row], rivals: Sequence[Rival], rung: float) -> bool:
        """Whether a run of these rows, which has come to the rung, is not among the best third there."""
        at = judged_at(spec, rung)
        if at is None:
            return False
        mine, values = self._value(rows, at), list[float]()
        for rival in rivals:
            if _number(rival.rows, rung):
                values.append(-math.inf if self._diverged(rival.rows) else self._value(rival.rows, at))
            elif rival.stopped_at >= rung * (1 - 1e-9):
                values.append(-math.inf)
        return sum(value > mine for value in values) >= math.ceil((1 + len(values)) / REDUCTION)

    def _rivals(self, spec: RunSpec, time_ms: float) -> Iterator[Rival]:
        """What was known of the others at a time."""
        for keys in {tuple(asked.keys) for asked in read_record(self.record)}:
            if keys[spec.seed] == spec.key:
                continue
            mine, *others = (
                Reader(self.record.parent / key / "journal.jsonl").poll()
                for key in (keys[spec.seed], *keys[: spec.seed], *keys[spec.seed + 1 :])
            )
            stopped = (seed for seed in others if seed.status == "stopped" and seed.status_time_ms <= time_ms)
            yield Rival(
                [row for row in mine.rows if row["time_ms"] <= time_ms],
                max((seed.rows[-1]["examples"] for seed in stopped), default=0.0),
            )

    def _value(self, rows: Sequence[Row], examples: float) -> float:
        """The metric in the first row from so many examples on, the higher the better."""
        value = rows[_number(rows, examples) - 1][self.metric]
        return value if self.up else -value

    def _diverged(self, rows: Sequence[Row]) -> bool:
        return bool(rows) and not all(math.isfinite(rows[-1][name]) for name in (self.metric, "train_loss"))


def _number(rows: Sequence[Row], examples: float) -> int:
    """The number of the first row from so many examples on; 0 where there is none yet."""
    return next((number for number, row in enumerate(rows, start=1) if row["examples"] >= examples * (1 - 1e-9)), 0)
