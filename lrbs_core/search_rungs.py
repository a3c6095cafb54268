"""Stopping poor candidates early: asynchronous successive halving, its rungs in examples, judged from the journals.

Li et al. 2020, A system for massively parallel hyperparameter tuning (arXiv 1810.05934), in the form that stops rather
than pauses. A rung counts examples, never updates, of which a large batch has fewer; and a cyclical policy is looked at
where a cycle ends (L. N. Smith 2017, section 3.2), since in mid-cycle its accuracy tells the phase, not the policy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lrbs_core.journal import Reader, Row, RunFolder
from lrbs_core.schedules import Power, Product, cycle_ends
from lrbs_core.search_record import read_record
from lrbs_core.specs import RunSpec

__all__ = ["REDUCTION", "Rungs", "judged_at", "rungs_of"]

# One in so many runs goes on from a rung, and rungs are apart by that factor.
REDUCTION = 3
RUNGS = 2


def rungs_of(specs: Sequence[RunSpec]) -> tuple[float, ...]:
    """A ninth and a third of the examples that the shortest of these runs sees."""
    shortest = min(spec.epochs * spec.train_examples for spec in specs)
    return tuple(shortest / REDUCTION**power for power in range(RUNGS, 0, -1))


def judged_at(spec: RunSpec, rung: float) -> float | None:
    """The examples at which a run is judged for a rung: those of the rung, or of the first cycle end from there on.

    Cycles are those of lr/B, so that a policy and its twin of cycling batch size are judged alike. None where the run
    is over by then.

    >>> from lrbs_core import Policy, Triangular
    >>> cyclic = RunSpec(label="c", policy=Policy(Triangular(0.01, 0.1, stepsize=2), 16, 0.9), dataset="digits",
    ...     model="mlp", optimizer="sgd", weight_decay=0, ghost_size=None, augmentation="none", normalization="channel",
    ...     epochs=12, partial="keep", seed=0)
    >>> [judged_at(cyclic, rung=epochs * 1437) / 1437 for epochs in (1, 4, 5)]
    [4.0, 4.0, 8.0]
    """
    epoch = rung / spec.train_examples
    if ends := cycle_ends(Product(spec.policy.lr, Power(spec.policy.batch_size, -1)), spec.epochs):
        epoch = next((end for end in ends if end >= epoch * (1 - 1e-9)), math.inf)
    return epoch * spec.train_examples if epoch < spec.epochs else None


@dataclass(frozen=True)
class Rungs:
    """Whether a run is to be stopped: at each rung the best third of those that came to it so far, of its seed, go on.

    Of n runs the best ceil(n/3), ties included, so that the first always does. `record`: that of the search, beside
    the folders of its runs; `metric` and whether it is to be high (`up`).
    """

    record: Path
    examples: tuple[float, ...]
    metric: str
    up: bool

    def stops(self, folder: RunFolder, rows: Sequence[Row]) -> bool:
        """Whether the run whose newest row is the last of `rows` ends here; rows told again were judged."""
        ended = rows[-1]["examples"] >= folder.spec.epochs * folder.spec.train_examples * (1 - 1e-9)
        if ended or len(Reader(folder.journal_path).poll().rows) > len(rows):
            return False
        return any(self._falls_short(folder, rows, rung) for rung in self.examples)

    def _falls_short(self, folder: RunFolder, rows: Sequence[Row], rung: float) -> bool:
        number, value = self._value(folder.spec, rows, rung)
        if number != len(rows):
            return False
        others = {asked.keys[folder.spec.seed] for asked in read_record(self.record)} - {folder.spec.key}
        values = [value]
        for key in others:
            path = self.record.parent / key
            if (path / "journal.jsonl").exists():
                other = RunFolder(path)
                reached, its = self._value(other.spec, Reader(other.journal_path).poll().rows, rung)
                values += [its] if reached else []
        return sum(other > value for other in values) >= math.ceil(len(values) / REDUCTION)

    def _value(self, spec: RunSpec, rows: Sequence[Row], rung: float) -> tuple[int, float]:
        """The number of the row at which the run is judged, 0 for none yet, and its metric, the higher the better."""
        at = judged_at(spec, rung)
        for number, row in enumerate(rows, start=1):
            if at is not None and row["examples"] >= at * (1 - 1e-9):
                value = row[self.metric] if self.up else -row[self.metric]
                return number, value if math.isfinite(value) else -math.inf
        return 0, math.nan
