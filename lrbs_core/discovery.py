"""Discovery: population based training over lr and momentum, whose outcome is an ordinary policy.

Jaderberg et al. 2017 (arXiv 1711.09846). A population trains for an interval; then the worst quarter take over a member
of the best quarter, weights and all (exploit), and change its lr and momentum a little (explore). What a member has
been through is a table of lr and momentum by interval: a policy. So a member of generation g is the ordinary run of
that policy over g intervals, with a key, a journal and an MLflow run of its own. To take over weights is to begin it
where its parent's run ended (`checkpoints.extend`), which comes to the run that it would be from scratch.

A generation follows from the one before, chance being seeded anew for each, so that a discovery holds no state but its
journals. All members have the seed of one run, and so the same validation data, by which they are ranked as in the
paper: `RunSpec.judged_by`, which is the test set's accuracy only where nothing is set aside. What they are ranked by is
the best of many looks in the outcome: measure the policy over other seeds.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lrbs_core.journal import FINAL, Reader, RunFolder
from lrbs_core.policies import Policy
from lrbs_core.schedules import Piecewise, concrete, exactly, extreme
from lrbs_core.schedules.base import tidy
from lrbs_core.search_record import alone
from lrbs_core.specs import RunSpec
from lrbs_core.sweeping import Sweep
from lrbs_core.validation import judged_on

if TYPE_CHECKING:
    from lrbs_core.results import RunRecord

__all__ = ["Design", "Discovery", "Member", "Trial", "begins_with", "ranked", "source_of"]

# By which lr and 1 - momentum are multiplied (the paper, section 4.1.1).
FACTORS = (0.8, 1.2)
# The first generation lies within these factors of the sweep's policy, evenly in the logarithm.
FIRST_LR, FIRST_MOMENTUM = 10.0, 3.0
# The part of a population that is replaced, and the part from which it is (the paper: fifths; Ray Tune: quarters).
QUARTER = 1 / 4


class Member(NamedTuple):
    """(lr, momentum) of every interval so far; `parent`: its place in the generation before, None in the first."""

    settings: tuple[tuple[float, float], ...]
    parent: int | None


def begins_with(child: RunSpec, parent: RunSpec) -> bool:
    """Whether the child's updates and rows begin with all of the parent's, so that it goes on where that run ends."""
    longer = replace(child, label=parent.label, policy=parent.policy, epochs=parent.epochs) == parent
    updates = child.walk()
    if not longer or any(update != next(updates, None) for update in parent.walk()):
        return False
    following, every = next(updates, None), parent.evaluate_every_epochs
    # The parent's last row is told at its end, whatever the update that comes next; the child's only where one is due.
    return (
        following is not None
        and following.epoch == parent.epochs
        and exactly(every, round(parent.epochs / every)) == parent.epochs
    )


@dataclass(frozen=True)
class Design:
    """All that defines a discovery: the run whose lr and momentum it replaces, of which `sweep`, and how.

    `interval`: epochs between two generations; `sampler_seed`: of all that chance has a say in. Raises ValueError where
    runs cannot be cut at the intervals.
    """

    sweep: str
    source: RunSpec
    population: int
    interval: float
    sampler_seed: int

    def __post_init__(self) -> None:
        source, interval = self.source, self.interval
        countable = 0 < interval <= source.epochs and source.epochs / interval < math.inf
        if not countable or exactly(interval, self.generations) != source.epochs:
            raise ValueError(f"--interval must divide the {source.epochs:g} epochs of a run, but got {interval:g}")
        every = source.evaluate_every_epochs
        if exactly(every, round(interval / every)) != interval:
            raise ValueError(
                f"--interval must be a multiple of the epochs between rows, {every:g}, but got {interval:g}"
            )
        if source.optimizer in ("adagrad", "adadelta"):
            raise ValueError(f"discovery needs an optimizer with momentum, but got {source.optimizer}")
        if self.highest_lr == 0:
            raise ValueError("discovery needs a policy whose lr > 0 somewhere to begin from, but got 0 throughout")
        missing = set(self.edges[:-1]) - {update.epoch for update in source.walk()}
        if missing:
            raise ValueError(
                f"an update must begin where an interval ends, but none does at epoch {min(missing):g}: choose an "
                f"--interval of whole epochs, and for a run with partial={source.partial!r} a batch size that fits"
            )

    @property
    def generations(self) -> int:
        """How many there will be."""
        return round(self.source.epochs / self.interval)

    @property
    def edges(self) -> tuple[float, ...]:
        """The epochs at which generations end."""
        return tuple(exactly(self.interval, number) for number in range(1, self.generations + 1))

    @property
    def highest_lr(self) -> float:
        """Of the sweep's own policy."""
        return extreme(self.source.policy.lr, self.source.epochs, highest=True)

    @property
    def name(self) -> str:
        """Of the sweep that the discovery's runs make up."""
        return f"{self.sweep}-discovery"

    @cached_property
    def key(self) -> str:
        """12 hex digits of a hash of all that defines it."""
        content = [self.source.key, self.population, self.interval, self.sampler_seed]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    @property
    def settings(self) -> dict[str, Any]:
        """All of it as JSON, in the words of a search (`search.Design.settings`), with the discovery's key."""
        return {
            "sweep": self.name,
            "search": self.key,
            "sampler": {
                "name": "population", "population": self.population, "interval": self.interval,
                "seed": self.sampler_seed, "factors": list(FACTORS),
            },
            "objectives": {self.source.judged_by: "high"},
            "judged_on": judged_on([self.source.judged_by]),
            "validation": self.source.validation,
            "seeds": 1,
            "rungs": [edge * self.source.train_examples for edge in self.edges],
            "space": {"lr": self.highest_lr, "momentum": self.source.policy.momentum(0.0)},
            "overrides": dict(self.source.overrides),
        }  # fmt: skip

    def first(self) -> list[Member]:
        """The first generation: lr within a factor of 10 of the policy's highest, 1 - momentum of 3 of its first."""
        chance, rest = self._chance(generation=1), 1 - self.source.policy.momentum(0.0)
        draws = chance.uniform(-1, 1, (self.population, 2)).tolist()
        settings = [_setting(self.highest_lr * FIRST_LR**lr, rest * FIRST_MOMENTUM**momentum) for lr, momentum in draws]
        return [Member((setting,), None) for setting in settings]

    def following(self, members: Sequence[Member], accuracies: Sequence[float | None]) -> list[Member]:
        """The generation after one that ended with these accuracies (None: diverged).

        With q a quarter of the population, rounded up: all but the worst q go on as they are, best first, ties in the
        order they stand in. The population is filled up again by children: each takes over one of the best q, whose lr
        it multiplies by 0.8 or 1.2, and so 1 - momentum. No two are alike, so there may be fewer where most diverged.
        """
        alive = ranked(accuracies)
        quarter = math.ceil(self.population * QUARTER)
        kept = alive[: max(1, self.population - quarter)]
        choices = list(itertools.product(kept[:quarter], FACTORS, FACTORS))
        chance, wanted = self._chance(len(members[0].settings) + 1), self.population - len(kept)
        chosen = chance.choice(len(choices), size=min(wanted, len(choices)), replace=False).tolist()
        children = []
        for parent, lr_factor, momentum_factor in map(choices.__getitem__, chosen):
            lr, momentum = members[parent].settings[-1]
            changed = _setting(lr * lr_factor, (1 - momentum) * momentum_factor)
            children.append(Member((*members[parent].settings, changed), parent))
        return [
            *(Member((*members[place].settings, members[place].settings[-1]), place) for place in kept),
            *children,
        ]

    def _chance(self, generation: int) -> np.random.Generator:
        return np.random.default_rng([self.sampler_seed, generation])

    def spec(self, member: Member, place: int) -> RunSpec:
        """The run of a member: the source's, of its lr and momentum, up to the end of its last interval."""
        generation = len(member.settings)
        lr, momentum = (
            concrete(Piecewise(values, self.edges[: generation - 1])) for values in zip(*member.settings, strict=True)
        )
        return replace(
            self.source,
            label=f"generation {generation} member {place}",
            policy=Policy(lr, self.source.policy.batch_size, momentum),
            epochs=self.edges[generation - 1],
        )


def ranked(accuracies: Sequence[float | None]) -> list[int]:
    """The places of those that did not diverge, best first, ties in their order.

    >>> ranked([90.0, None, 95.0, 90.0])
    [2, 0, 3]
    """
    return [place for _, place in sorted((-a, place) for place, a in enumerate(accuracies) if a is not None)]


def source_of(sweep: Sweep, policy: str | None) -> RunSpec:
    """The first run of the policy, or of the sweep. Raises ValueError for a policy that is not there."""
    labels = list(dict.fromkeys(spec.label for spec in sweep.runs))
    if policy not in (None, *labels):
        raise ValueError(f"--policy must be one of {', '.join(map(repr, labels))}, but got {policy!r}")
    return next(spec for spec in sweep.runs if policy in (None, spec.label))


def _setting(lr: float, rest: float) -> tuple[float, float]:
    """lr and momentum = 1 - rest, of 4 digits so that they are short to read; momentum at least 0."""
    return float(f"{lr:.4g}"), max(0.0, tidy(1 - float(f"{rest:.4g}")))


class Trial(NamedTuple):
    """A member's run: its number from 0 over all generations, its place in its own, and its parent's number."""

    number: int
    place: int
    parent: int | None
    member: Member
    folder: RunFolder


class Discovery:
    """A discovery in a folder `root`. `rounds` hands out what is to be run.

    `extend(parent, child)` has a run begin where another ended; `stored` tells what a tracking store knows of a run
    that has no journal here (None: nothing); `opened` hears of every run as it becomes known, and what is known of it.
    `best` is the member that the end of the last generation shows to be it; None until then, or if all diverged.
    """

    def __init__(
        self,
        design: Design,
        root: Path,
        extend: Callable[[RunFolder, RunFolder], None],
        stored: Callable[[RunSpec], RunRecord | None] | None = None,
        opened: Callable[[RunFolder, RunRecord], None] | None = None,
    ) -> None:
        self.design, self.root = design, root
        self.generations: list[list[Trial]] = []
        self.best: Trial | None = None
        self._extend, self._stored, self._opened = extend, stored, opened

    def rounds(self) -> Iterator[list[RunFolder]]:
        """The runs left of one generation after another, each to be trained before the next is asked for.

        Ends where the last generation has, or where one has a run that did not come to its end, or diverged as a whole.
        Raises ValueError when another process is at it.
        """
        with alone(self.root / self.design.name / f"{self.design.key}.discovery.lock", "discovery"):
            members = self.design.first()
            for _ in self.design.edges:
                self._open(members)
                folders = [trial.folder for trial in self.generations[-1]]
                yield [folder for folder in folders if self.record(folder).status not in FINAL]
                records = [self.record(folder) for folder in folders]
                accuracies = [_last(record, self.design.source.judged_by) for record in records]
                if any(record.status not in FINAL for record in records) or not ranked(accuracies):
                    return
                if len(self.generations) < self.design.generations:
                    members = self.design.following(members, accuracies)
            self.best = self.generations[-1][ranked(accuracies)[0]]

    def _open(self, members: Sequence[Member]) -> None:
        before = self.generations[-1] if self.generations else []
        first = sum(map(len, self.generations))
        self.generations.append([])
        for place, member in enumerate(members):
            parent = None if member.parent is None else before[member.parent]
            folder = RunFolder.create(self.root, self.design.name, self.design.spec(member, place))
            lr, momentum = member.settings[-1]
            origin = {} if parent is None else {"parent": parent.folder.spec.key}
            folder.point = {"generation": len(member.settings), **origin, "lr": lr, "momentum": momentum}
            if parent is not None and self.record(folder).status is None:
                self._extend(parent.folder, folder)
            self.generations[-1].append(Trial(first + place, place, parent and parent.number, member, folder))
            if self._opened:
                self._opened(folder, self.record(folder))

    def record(self, folder: RunFolder) -> RunRecord:
        """What is known of a run: by its journal, else by the tracking store."""
        reader = Reader(folder.journal_path).poll()
        known = self._stored(folder.spec) if self._stored and reader.status is None else None
        return known or reader

    def document(self) -> dict[str, Any]:
        """`lrbs discover --json`: every member of every generation, in the words of a search, and the best in the end.

        `policy`: the whole history of the best, as `Policy.from_dict` takes it.
        """
        best = [] if self.best is None else [self.best]
        chosen = [
            {"trial": trial.number, "label": trial.folder.spec.label, "policy": trial.folder.spec.policy.to_dict()}
            for trial in best
        ]
        lines = [self._line(trial) for generation in self.generations for trial in generation]
        return {**self.design.settings, "trials": lines, "best": chosen}

    def _line(self, trial: Trial) -> dict[str, Any]:
        record, spec = self.record(trial.folder), trial.folder.spec
        lr, momentum = trial.member.settings[-1]
        return {
            "trial": trial.number,
            "label": spec.label,
            "generation": len(trial.member.settings),
            "member": trial.place,
            "parent": trial.parent,
            "lr": lr,
            "momentum": momentum,
            "key": spec.key,
            "status": record.status or "waiting",
            **{
                name: {"mean": _last(record, name), "low": None, "high": None, "n": 1}
                for name in dict.fromkeys([spec.judged_by, "test_accuracy"])
            },
        }


def _last(record: RunRecord, metric: str) -> float | None:
    """The metric in the last row; None of a run that has none or diverged."""
    return record.rows[-1][metric] if record.rows and record.status != "diverged" else None
