"""Sweeps: load a file of `sweeps/`, make a small version of it, see what is left to run, run it here."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import statistics
import sys
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from lrbs_core.claims import Claim
from lrbs_core.journal import FINAL, FULL, Journal, Reader, Row, RunFolder, Status
from lrbs_core.spaces import Candidates
from lrbs_core.specs import EXAMPLES, IMAGE_SUFFIXES, RunSpec

__all__ = [
    "Sweep", "Train", "changed", "count_images", "load", "load_candidates", "measured_speed", "override", "pending",
    "run", "run_serially", "until",
]  # fmt: skip

# `training.train` is handed in, so that this file needs no torch: (spec, checkpoint, rows so far) -> rows, status.
Train = Callable[[RunSpec, Path, Sequence[Row]], "Iterator[Row]"]
Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Sweep:
    """A named list of runs, the paper they come from and what it claims of them."""

    name: str
    source: str
    claims: tuple[Claim, ...]
    runs: tuple[RunSpec, ...]

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError(f"sweep {self.name}: runs() must give at least one run")
        labels: dict[str, RunSpec] = {}
        for spec in self.runs:
            first = labels.setdefault(spec.key, spec)
            if first is not spec:
                raise ValueError(
                    f"sweep {self.name}: runs must differ, but {first.label!r} and {spec.label!r} "
                    f"with seed={spec.seed} are the same run"
                )
        policies: dict[str, RunSpec] = {}
        for spec in self.runs:
            first = policies.setdefault(spec.label, dataclasses.replace(spec, seed=0))
            if first != dataclasses.replace(spec, seed=0):
                raise ValueError(
                    f"sweep {self.name}: runs of one label must differ in seed only, but {spec.label!r} does not"
                )
        known = set(policies)
        for claim in self.claims:
            for label in (claim.policy, claim.versus):
                if label is not None and label not in known:
                    raise ValueError(f"sweep {self.name}: a claim must be on one of {sorted(known)}, but got {label!r}")


def load(path: Path) -> Sweep:
    """The sweep in a Python file that has SOURCE, CLAIMS and runs(). The file is code: it is executed.

    Raises ValueError in one line for a missing file, an error within it, or a missing part.
    """
    return _loaded(
        path,
        ("SOURCE", "CLAIMS", "runs"),
        lambda module: Sweep(path.stem, module.SOURCE, tuple(module.CLAIMS), tuple(module.runs())),
    )


def load_candidates(path: Path) -> Candidates:
    """What a search chooses from: SPACE and candidate() in such a file. Raises ValueError as `load` does."""
    parts = ("SPACE", "candidate")
    return _loaded(path, parts, lambda module: Candidates(path.stem, module.SPACE, module.candidate))


def _loaded(path: Path, parts: Sequence[str], made: Callable[[ModuleType], Loaded]) -> Loaded:
    if not path.is_file() or path.suffix != ".py":
        raise ValueError(f"a sweep must be a Python file, but got {path}" + ("" if path.exists() else ": no such file"))
    # Named by chance: neither a sweep of the same name nor a library is taken for it.
    module_spec = importlib.util.spec_from_file_location(f"sweep_{uuid.uuid4().hex}", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module.__name__] = module  # where a dataclass looks up what its annotations name
    try:
        module_spec.loader.exec_module(module)
        missing = [name for name in parts if not hasattr(module, name)]
        if missing:
            named = [f"{name}()" if name.islower() else name for name in parts]
            rule = f"{', '.join(named[:-1])} and {named[-1]}"
            raise ValueError(f"a sweep must define {rule}, but {', '.join(missing)} is missing")
        return made(module)
    except Exception as error:
        raise ValueError(f"{path}{_line_of(error, path)}: {type(error).__name__}: {error}") from error
    finally:
        del sys.modules[module.__name__]


def _line_of(error: Exception, path: Path) -> str:
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    line, trace = "", error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) == path.absolute():
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line


def override(
    sweep: Sweep,
    *,
    scale: float | None = None,
    model: str | None = None,
    dataset: str | None = None,
    seeds: int | None = None,
    data_dir: Path = Path("data"),
    validation: float | int | None = None,
    unless_set: float | int = 0,
) -> Sweep:
    """A version of the sweep: shorter (`scale`, all breakpoints included), another net, other data, its first seeds.

    `validation`: what is set aside of the training examples (see `RunSpec`); else what the run itself says, and
    `unless_set` where that is nothing.

    What changes a run is noted in its `overrides`, and so in its key: no such run passes for the sweep's own.
    An "imagefolder:NAME" has as many examples as `data_dir`/NAME/train has files.
    """
    if seeds is not None and seeds < 1:
        raise ValueError(f"seeds >= 1 must hold, but got seeds={seeds}")
    change = changed(scale, model, dataset, data_dir, validation, unless_set)
    kept = sorted({spec.seed for spec in sweep.runs})[:seeds]
    return dataclasses.replace(sweep, runs=tuple(change(spec) for spec in sweep.runs if spec.seed in kept))


def changed(
    scale: float | None,
    model: str | None,
    dataset: str | None,
    data_dir: Path,
    validation: float | int | None = None,
    unless_set: float | int = 0,
) -> Callable[[RunSpec], RunSpec]:
    """What `override` makes of one run."""
    changes = [
        (name, value if isinstance(value, str) else f"{value:g}")
        for name, value in (("scale", scale), ("model", model), ("dataset", dataset))
        if value is not None
    ]
    fields: dict[str, Any] = {"model": model} if model else {}
    if dataset is not None:
        named = dataset in EXAMPLES or not dataset.startswith("imagefolder:")
        fields |= {
            "dataset": dataset,
            "examples": 0 if named else count_images(data_dir / dataset.partition(":")[2] / "train"),
        }

    def change(spec: RunSpec) -> RunSpec:
        shorter = spec if scale is None else spec.shortened(scale)
        aside = (spec.validation or unless_set) if validation is None else validation
        noted = changes if aside == spec.validation else [*changes, ("validation", f"{aside}")]
        return dataclasses.replace(shorter, **fields, validation=aside, overrides=(*spec.overrides, *noted))

    return change


def count_images(folder: Path) -> int:
    """Images of the class folders in an image folder. Raises ValueError when there are none."""
    count = sum(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.glob("*/*"))
    if count == 0:
        raise ValueError(
            f"an image folder must hold CLASS/IMAGE files, but got {folder}"
            + ("" if folder.is_dir() else ": no such folder")
        )
    return count


def pending(folders: Sequence[RunFolder]) -> list[RunFolder]:
    """The runs that have not come to an end: never started, killed, or failed."""
    return [folder for folder in folders if Reader(folder.journal_path).poll().status not in FINAL]


def measured_speed(root: Path, sweep: str) -> dict[str, float]:
    """Examples a second of each model: the median over the rows of the sweep's runs under `root`, small ones too."""
    speeds: dict[str, list[float]] = {}
    folders, unreadable = RunFolder.find(root / sweep)
    for line in unreadable:
        logging.getLogger("lrbs").warning("passed over: %s", line)
    for folder in folders:
        rows = Reader(folder.journal_path).poll().rows
        speeds.setdefault(folder.spec.model, []).extend(row["examples_per_second"] for row in rows)
    return {model: statistics.median(values) for model, values in speeds.items() if values}


def run(folder: RunFolder, train: Train, machine: str = "") -> Iterator[Row]:
    """Trains one run from wherever it stands; each row is in the journal before it is yielded, and so is the end.

    A run that has come to its end yields nothing. Whoever stops iterating leaves a run that can go on. An exception
    of training is noted with the status "failed" and raised, unlike Preempted, which leaves such a run too. `machine`
    is noted for whoever compares seconds. Raises BlockingIOError when another process has the run, and OSError where
    the disk is too full for the journal.
    """
    with Journal(folder.journal_path) as journal:
        if journal.status in FINAL:
            return
        journal.set_status("running", note=machine)
        try:
            rows = train(folder.spec, folder.checkpoint_path, tuple(journal.rows))
            while True:
                row = next(rows)
                journal.append(row)
                yield row
        except StopIteration as end:
            journal.set_status(end.value)
        except Exception as error:
            # Of a full disk all is said in a line, which may still find room where a traceback does not.
            full = isinstance(error, OSError) and error.errno in FULL
            journal.set_status("failed", note=str(error) if full else traceback.format_exc())
            raise


def until(train: Train, over: Callable[[Sequence[Row]], bool]) -> Train:
    """`train`, ended as "stopped" where `over` of its rows so far, which a resumed run hands out again from the first.

    It is asked when the newest row is in the journal.
    """

    def stopping(spec: RunSpec, checkpoint: Path, journalled: Sequence[Row]) -> Generator[Row, None, Status]:
        rows, seen = train(spec, checkpoint, journalled), list[Row]()
        while True:
            try:
                seen.append(next(rows))
            except StopIteration as end:
                ended: Status = end.value
                return ended
            yield seen[-1]
            if over(seen):
                return "stopped"

    return stopping


def run_serially(folders: Sequence[RunFolder], train: Train, machine: str = "") -> None:
    """The runs one after another in this process; the error of one that fails is in its journal, and the next goes on.

    A run that another process has is left to it, so that several of these share a sweep. What a journal could not take,
    as on a full disk, is logged.
    """
    for folder in folders:
        began = int(time.time() * 1000)
        try:
            deque(run(folder, train, machine), maxlen=0)
        except BlockingIOError:
            continue
        except Exception as error:
            told = Reader(folder.journal_path).poll()
            if told.status != "failed" or told.status_time_ms < began:
                logging.getLogger("lrbs").warning(
                    "%s seed=%d: not run to its end: %s", folder.spec.label, folder.spec.seed, error
                )
