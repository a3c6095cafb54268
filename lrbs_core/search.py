"""Search: which candidate to try next, by Optuna, and what a search has found.

The search holds no state of its own: what to try next is a function of the points that were asked for (`search_record`)
and of what their runs came to (their journals). So a search that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from lrbs_core import search_rungs
from lrbs_core.importances import IMPORTANCE, importances
from lrbs_core.journal import FINAL, Reader, RunFolder
from lrbs_core.search_record import Asked, SearchRecord, read_record
from lrbs_core.search_rungs import Rungs
from lrbs_core.spaces import Candidates, Choice, Point, Range, grid, name_of
from lrbs_core.specs import RunSpec
from lrbs_core.statistics import mean_interval
from lrbs_core.sweeping import Train, until
from lrbs_core.validation import judged_on

if TYPE_CHECKING:
    from lrbs_core.results import RunRecord

__all__ = ["OBJECTIVES", "Design", "Search", "Trial", "suggest"]

# What can be sought, of a run's last row; whether more of it is better.
OBJECTIVES = {
    "validation_accuracy": True, "validation_loss": False, "test_accuracy": True, "train_accuracy": True,
    "test_loss": False, "train_loss": False, "updates": False, "train_seconds": False,
}  # fmt: skip
# Bergstra et al. 2011, with dependence between the names, and runs in flight taken for poor. All that it is set to is
# given here, as its defaults change from version to version.
TPE = {"n_startup_trials": 10, "n_ei_candidates": 24, "multivariate": True, "constant_liar": True}

Sampler = Literal["tpe", "random", "grid"]

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Design:
    """All that defines a search: from what it chooses, how, what for, and over how many seeds a candidate is repeated.

    `trials`: candidates in all; of a grid at most. `sampler_seed`: of what chance has a say in. `early_stop`: whether
    poor candidates are stopped (`search_rungs`). Raises ValueError for what cannot be sought, or not so.
    """

    candidates: Candidates
    sampler: Sampler
    sampler_seed: int
    trials: int
    seeds: int
    objectives: tuple[str, ...]
    early_stop: bool

    def __post_init__(self) -> None:
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives must differ, but got {', '.join(self.objectives) or 'none'}")
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise ValueError(f"an objective must be one of {', '.join(OBJECTIVES)}, but got {name!r}")
        if self.early_stop and (len(self.objectives) > 1 or self.objectives[0] in ("updates", "train_seconds")):
            raise ValueError(
                "--early-stop compares runs by one objective that is told at equal examples, "
                f"but got --objective {','.join(self.objectives)}: leave one of them out"
            )
        sought = next((name for name in self.objectives if name.startswith("validation")), None)
        if sought and not all(spec.validation for spec in self.candidates.tried):
            raise ValueError(f"--objective {sought} needs validation data, but got none: give --validation 0.1")
        columns = ("trial", *OBJECTIVES)
        if taken := next((name for name in self.candidates.space if name in columns), None):
            raise ValueError(f"a name in SPACE must differ from {', '.join(columns)}, but got {taken}: rename it")

    @property
    def size(self) -> int:
        """How many candidates there will be."""
        return len(self.points) if self.sampler == "grid" else self.trials

    @cached_property
    def points(self) -> list[Point]:
        """Those of a grid, in order; none of a search that chooses as it goes."""
        return grid(self.candidates.space, self.trials) if self.sampler == "grid" else []

    @property
    def name(self) -> str:
        """Of the sweep that the search's runs make up."""
        return f"{self.candidates.name}-search"

    @property
    def settings(self) -> dict[str, Any]:
        """All of it as JSON, with what the sampler is set to and the search's key."""
        sampler: dict[str, Any] = {"name": self.sampler}
        if self.sampler != "grid":
            named = {"class": "TPESampler", **TPE} if self.sampler == "tpe" else {"class": "RandomSampler"}
            sampler |= {**named, "seed": self.sampler_seed, "optuna": optuna.__version__}
        return {
            "sweep": self.name,
            "search": self.key,
            "sampler": sampler,
            "objectives": {name: "high" if OBJECTIVES[name] else "low" for name in self.objectives},
            "judged_on": judged_on(self.objectives),
            "validation": self.candidates.tried[0].validation,
            "seeds": self.seeds,
            "rungs": list(self.rungs),
            "space": {name: _described(part) for name, part in self.candidates.space.items()},
            "overrides": dict(self.candidates.tried[0].overrides),
        }

    @cached_property
    def rungs(self) -> tuple[float, ...]:
        """The examples at which poor candidates are stopped."""
        return search_rungs.rungs_of(self.candidates.tried) if self.early_stop else ()

    @cached_property
    def key(self) -> str:
        """12 hex digits of a hash of all but the number of trials, so that a search can be made longer.

        Of a grid its points count: a finer one need not hold those of a coarser one.
        """
        content = [self.candidates.key, self.sampler, self.sampler_seed, self.seeds, self.objectives, self.rungs]
        content += [self.points] if self.points else []
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The space as Optuna has it."""
        return {name: _distribution(part) for name, part in self.candidates.space.items()}

    def study(self, trials: Sequence[FrozenTrial]) -> optuna.Study:
        """A study in memory that was told of these trials, and whose next one is drawn by a generator of its own."""
        seed = int(np.random.SeedSequence([self.sampler_seed, len(trials)]).generate_state(1)[0])
        sampler = (
            optuna.samplers.TPESampler(**TPE, seed=seed)
            if self.sampler == "tpe"
            else optuna.samplers.RandomSampler(seed=seed)
        )
        directions = ["maximize" if OBJECTIVES[name] else "minimize" for name in self.objectives]
        study = optuna.create_study(sampler=sampler, directions=directions)
        for trial in trials:
            study.add_trial(trial)
        return study


def _distribution(part: Range | Choice) -> BaseDistribution:
    if isinstance(part, Choice):
        return CategoricalDistribution(part.values)
    return (IntDistribution if part.whole else FloatDistribution)(part.low, part.high, log=part.log)


def suggest(design: Design, trials: Sequence[FrozenTrial]) -> Point | None:
    """The point to try after these trials; None where there are no more. The same for the same trials, always."""
    if len(trials) >= design.size:
        return None
    if design.points:
        return design.points[len(trials)]
    space = design.candidates.space
    drawn = design.study(trials).ask(design.distributions).params
    return {name: part.rounded(drawn[name]) if isinstance(part, Range) else drawn[name] for name, part in space.items()}


class Trial(NamedTuple):
    """One candidate: its number from 0, its point, and the folders of its runs, one a seed."""

    number: int
    point: Point
    folders: list[RunFolder]


class Search:
    """A search in a folder `root`, to be used as a context manager: `next` hands out what is to be run.

    `stored` tells what a tracking store knows of a run that has no journal here (None: nothing); `opened` hears of
    every run as it becomes known, and what is known of it. Raises ValueError when another process runs the search, and
    where `candidate` no longer makes the runs that the search was begun with, or its record is broken.
    """

    def __init__(
        self,
        design: Design,
        root: Path,
        stored: Callable[[RunSpec], RunRecord | None] | None = None,
        opened: Callable[[RunFolder, RunRecord], None] | None = None,
    ) -> None:
        self.design, self.root = design, root
        self.path = root / design.name / f"{design.key}.search.jsonl"
        self.trials: list[Trial] = []
        self._stored, self._opened = stored, opened
        self._elsewhere: dict[str, RunRecord] = {}
        self._readers: dict[str, Reader] = {}
        self._taken: set[str] = set()

    def __enter__(self) -> Search:
        with ExitStack() as stack:
            self._record = stack.enter_context(SearchRecord(self.path))
            for number, (point, keys) in enumerate(read_record(self.path), start=1):
                if not self.design.candidates.has(point):
                    raise ValueError(
                        f"{self.path}: the point of line {number} must be one of SPACE, but got {point}: remove the "
                        f"file, as the runs are known without it"
                    )
                specs = self._specs(point)
                if [spec.key for spec in specs] != keys:
                    raise ValueError(
                        f"{self.design.candidates.name}: candidate at {name_of(point)} is another run than when this "
                        f"search began: change it back, or begin anew with another --out"
                    )
                self._open(point, specs)
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._record.__exit__()

    @property
    def rungs(self) -> Rungs | None:
        """What stops poor candidates, if anything does."""
        metric = self.design.objectives[0]
        return (
            Rungs(self.path.resolve(), self.design.rungs, metric, OBJECTIVES[metric])
            if self.design.early_stop
            else None
        )

    def until_stopped(self, train: Train, folder: RunFolder) -> Train:
        """`train`, ended where the rungs end the run of this folder."""
        return until(train, partial(self.rungs.stops, folder)) if self.rungs else train

    @property
    def left(self) -> int:
        """Runs of the candidates chosen so far that are still to be run."""
        return sum(
            self.record(folder).status not in FINAL
            for trial in self.trials
            if self.status(trial) not in ("stopped", "diverged")
            for folder in trial.folders
        )

    def next(self) -> RunFolder | None:
        """The next run to train, for which a new candidate is chosen if need be; None when all have been handed out.

        Runs that broke come first. A candidate of which a run was stopped or diverged is not repeated over more seeds.
        """
        while True:
            for trial in self.trials:
                if self.status(trial) not in ("stopped", "diverged"):
                    for folder in trial.folders:
                        key = folder.spec.key
                        if key not in self._taken and self.record(folder).status not in FINAL:
                            self._taken.add(key)
                            return folder
            point = suggest(self.design, [self._frozen(trial) for trial in self.trials])
            if point is None:
                return None
            specs = self._specs(point)
            self._record.append(Asked(point, [spec.key for spec in specs]))
            self._open(point, specs)

    def record(self, folder: RunFolder) -> RunRecord:
        """What is known of a run: by its journal, else by the tracking store."""
        reader = self._readers[folder.spec.key].poll()
        return self._elsewhere.get(folder.spec.key, reader) if reader.status is None else reader

    def status(self, trial: Trial) -> str:
        """finished: all its runs have; diverged, stopped, failed: one of them has, the first of these; else running."""
        found = [self.record(folder).status for folder in trial.folders]
        for status in ("diverged", "stopped", "failed"):
            if status in found:
                return status
        if any(status != "finished" for status in found):
            return "running"
        return "finished" if all(map(math.isfinite, self.values(trial))) else "diverged"

    def values(self, trial: Trial) -> list[float]:
        """Each objective, in the mean over the trial's runs, which have all finished."""
        last = [self.record(folder).rows[-1] for folder in trial.folders]
        return [float(np.mean([row[name] for row in last])) for name in self.design.objectives]

    def _specs(self, point: Point) -> list[RunSpec]:
        specs = [self.design.candidates.spec(point, seed) for seed in range(self.design.seeds)]
        if not self.design.early_stop:
            return specs
        # Where a run is stopped depends on those beside it, so that it is this search's alone.
        return [replace(spec, overrides=(*spec.overrides, ("early-stop", self.design.key))) for spec in specs]

    def _open(self, point: Point, specs: Sequence[RunSpec]) -> None:
        folders = [RunFolder.create(self.root, self.design.name, spec) for spec in specs]
        self.trials.append(Trial(len(self.trials), point, folders))
        for folder in folders:
            if folder.spec.key in self._readers:
                continue
            folder.point = point
            self._readers[folder.spec.key] = Reader(folder.journal_path)
            if self._stored and not folder.journal_path.exists() and (known := self._stored(folder.spec)):
                self._elsewhere[folder.spec.key] = known
            if self._opened:
                self._opened(folder, self.record(folder))

    def _frozen(self, trial: Trial) -> FrozenTrial:
        """The trial as Optuna is told of it. One that diverged has no value: it counts as worse than any other."""
        status = self.status(trial)
        told: dict[str, Any] = {"state": TrialState.RUNNING}
        if status == "finished":
            told = {"state": TrialState.COMPLETE, "values": self.values(trial)}
        elif status == "failed":
            told = {"state": TrialState.FAIL}
        elif status == "diverged":
            told = {"state": TrialState.PRUNED}
        elif status == "stopped":
            folder = next(folder for folder in trial.folders if self.record(folder).status == "stopped")
            reached = self.rungs.reached(folder.spec, self.record(folder).rows) if self.rungs else {}
            told = {"state": TrialState.PRUNED, "intermediate_values": reached}
        return create_trial(params=trial.point, distributions=self.design.distributions, **told)

    def document(self) -> dict[str, Any]:
        """`lrbs search --json`: every trial, the best (several objectives: the Pareto front), and what mattered."""
        design = self.design
        study = design.study([self._frozen(trial) for trial in self.trials])
        finished = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
        sign = -1 if OBJECTIVES[design.objectives[0]] else 1
        front = study.best_trials if finished else []
        numbers = sorted(
            {name_of(self.trials[best.number].point): best.number for best in reversed(front)}.values(),
            key=lambda number: (sign * study.trials[number].values[0], number),
        )
        # A point that was chosen again is the same runs, which must not stand for two.
        apart = list({name_of(trial.params): trial for trial in finished}.values())
        points = [trial.params for trial in apart]
        return {
            **design.settings,
            "trials": [self._line(trial) for trial in self.trials],
            "best": [
                {
                    "trial": number,
                    "label": name_of(self.trials[number].point),
                    "policy": self.trials[number].folders[0].spec.policy.to_dict(),
                }
                for number in numbers
            ],
            "importances": {
                name: importances(design.candidates.space, points, [trial.values[number] for trial in apart])
                for number, name in enumerate(design.objectives)
            },
            "importance": IMPORTANCE,
        }

    def _line(self, trial: Trial) -> dict[str, Any]:
        records = [self.record(folder) for folder in trial.folders]
        finished = [record.rows[-1] for record in records if record.status == "finished"]
        measured = {}
        for name in dict.fromkeys([*self.design.objectives, "test_accuracy", "updates", "train_seconds"]):
            interval = mean_interval([row[name] for row in finished])._asdict()
            measured[name] = {end: value if math.isfinite(value) else None for end, value in interval.items()}
        return {
            "trial": trial.number,
            "label": name_of(trial.point),
            "point": trial.point,
            "keys": [folder.spec.key for folder in trial.folders],
            "status": self.status(trial),
            "examples": sum(int(record.rows[-1]["examples"]) for record in records if record.rows),
            **measured,
        }


def _described(part: Range | Choice) -> dict[str, Any]:
    if isinstance(part, Choice):
        return {"values": list(part.values)}
    return {"low": part.low, "high": part.high, "log": part.log, "whole": part.whole}
