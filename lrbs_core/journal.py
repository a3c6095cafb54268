"""The journal: what a run reports, on local disk before anything else hears of it.

A run's folder is named by its key and holds `spec.json`, `journal.jsonl` and `checkpoint.pt` (in the end, the trained
weights). A line of the journal is a row or a change of status. Lines are appended and synced to disk, never
changed. A kill or a full disk can leave a torn line, which readers pass over and the next writer ends.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args

from lrbs_core.specs import EXACT, RunSpec

__all__ = [
    "FINAL", "FULL", "MEASURED", "METRICS", "NOISE_SUMS", "OPTIONAL", "VALIDATED", "WITH_ROWS", "Journal", "Reader",
    "Row", "RunFolder", "Status", "is_row", "printable", "write_whole",
]  # fmt: skip

Status = Literal["running", "finished", "diverged", "stopped", "failed"]
Row = dict[str, float]
# Of runs that have come to their end, and are not run again.
FINAL: tuple[Status, ...] = ("finished", "diverged", "stopped")
# Of these, what no run comes to before its first row.
WITH_ROWS: tuple[Status, ...] = ("finished", "stopped")

# What a row holds beside `row` (its number, from 1) and `time_ms` (when it was made, Unix time); units in README.md.
METRICS = (
    "epoch", "updates", "examples", "train_seconds", "lr", "batch_size", "momentum", "noise_scale", "train_loss",
    "train_accuracy", "test_loss", "test_accuracy", "examples_per_second",
)  # fmt: skip
# What it holds too where `Machine.measure_noise` is set (`noise.GradientNoise`), and the sums that this is made of
# (`noise.gradient_noise`), for readings over several rows and seeds: these MLflow has in `rows.csv` alone.
MEASURED = ("gradient_noise_scale", "gradient_noise_scale_low", "gradient_noise_scale_high")
NOISE_SUMS = ("noise_n", "noise_x", "noise_y", "noise_xx", "noise_xy", "noise_yy")
# What it holds too where training examples are set aside (`RunSpec.validation`).
VALIDATED = ("validation_loss", "validation_accuracy")
# All metrics that some rows hold and others do not.
OPTIONAL = (*MEASURED, *VALIDATED)
# Of these, what is whole and not below 0; and all that a row must hold.
COUNTS = ("row", "time_ms", "updates", "examples", "batch_size")
NEEDED = {*COUNTS, *METRICS}


# What the system says of a disk, or one's share of it, that is full.
FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Has an OSError for a full disk say where, and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        said = f"no space left to write {path}: make room there, and the same command goes on"
        raise OSError(error.errno, said) from None


def write_whole(path: Path, content: bytes) -> None:
    """The file with this content, or as it was: never half of it, whatever happens.

    Raises OSError, in one line with the fix, where the disk is full. Only a kill leaves the scratch file behind.
    """
    # By chance, not by process: containers that share a folder may have a process of the same number each.
    scratch = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        with _naming(path), scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


class RunFolder:
    """The folder of one run under `root`/`sweep`, and the spec in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal_path = path / "journal.jsonl"
        self.checkpoint_path = path / "checkpoint.pt"
        try:
            content = (path / "spec.json").read_bytes()
        except OSError as error:
            raise ValueError(f"a run's folder must hold spec.json, but got {path}: {error.strerror}") from None
        try:
            self.spec = RunSpec.from_dict(json.loads(content))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path / 'spec.json'}: {error}") from None

    @classmethod
    def create(cls, root: Path, sweep: str, spec: RunSpec) -> RunFolder:
        """The run's folder, made now unless it is there; the label in it is the newest given.

        Raises ValueError for a sweep whose name is not that of one folder.
        """
        if sweep in ("", ".", "..") or "/" in sweep or not sweep.isprintable():
            raise ValueError(f"a sweep's name must do as that of a folder, but got {sweep!r}: rename its file")
        path = root / sweep / spec.key
        with _naming(path):
            path.mkdir(parents=True, exist_ok=True)
        content = json.dumps(spec.to_dict(), indent=1).encode()
        if not (path / "spec.json").exists() or (path / "spec.json").read_bytes() != content:
            write_whole(path / "spec.json", content)
        return cls(path)

    @classmethod
    def find(cls, directory: Path) -> tuple[list[RunFolder], list[str]]:
        """Every run in a directory, by name, and in a line each what is wrong with those that cannot be read."""
        folders, unreadable = [], []
        for path in sorted(directory.rglob("spec.json")):
            try:
                folder = cls(path.parent)
            except ValueError as error:
                unreadable.append(str(error))
                continue
            if path.absolute().parent.name == folder.spec.superseded_key:
                unreadable.append(
                    f"{path.parent}: run by an earlier lrbs, which brought its spec to another end: use that"
                )
            else:
                folders.append(folder)
        return folders, unreadable

    @property
    def sweep(self) -> str:
        """The name of the sweep that the run belongs to."""
        # `resolve` would name a sweep that is a link by where that leads.
        return Path(os.path.abspath(self.path)).parent.name  # noqa: PTH100

    @property
    def point(self) -> dict[str, Any]:
        """What a search chose for the run, by name; nothing for a run of no search."""
        path = self.path / "point.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    @point.setter
    def point(self, point: dict[str, Any]) -> None:
        write_whole(self.path / "point.json", json.dumps(point).encode())


class Reader:
    """Follows a journal that another process may be writing: `poll` takes in what came since the last call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        self.status: Status | None = None
        self.status_time_ms = 0
        self.started_ms = 0
        self.note = ""
        self.machine = ""
        self._offset = 0

    def poll(self) -> Reader:
        """This reader, up to date with the journal's complete lines."""
        if not self.path.exists():
            return self
        with self.path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        complete = content[: content.rfind(b"\n") + 1]
        self._offset += len(complete)
        for line in complete.splitlines():
            self._take(line)
        return self

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            return  # torn by a kill: what it said is said again by the resumed run
        if not isinstance(entry, dict):
            return
        row, status, time_ms = entry.get("row"), entry.get("status"), entry.get("time_ms")
        # A resumed run makes rows again that came after its last checkpoint: the first version stands.
        if is_row(row, len(self.rows) + 1):
            self.rows.append(row)
        elif status in get_args(Status) and isinstance(time_ms, int) and _is_number(time_ms):
            if status in WITH_ROWS and not self.rows:
                return
            note = entry.get("note")
            self.status, self.status_time_ms = status, time_ms
            self.note = printable(note) if isinstance(note, str) else ""
            self.started_ms = self.started_ms or self.status_time_ms
            self.machine = self.note if status == "running" else self.machine


def is_row(value: object, number: int) -> TypeGuard[Row]:
    """Whether it is row `number` of a run: numbers by name, all of `METRICS` among them, and whole where they count."""
    return (
        isinstance(value, dict)
        and value.keys() >= NEEDED
        and all(map(_is_number, value.values()))
        and value["row"] == number
        and all(0 <= value[name] < EXACT and value[name] % 1 == 0 for name in COUNTS)
    )


def _is_number(value: object) -> bool:
    """Whether it is a number, and not beyond what MLflow and a float can hold."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def printable(text: str) -> str:
    """The text fit for a terminal and for UTF-8: its lines stay, other control characters are replaced.

    >>> printable("no\\x1b[31m memory")
    'no\ufffd[31m memory'
    """
    return "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)


class Journal:
    """The one writer of a run's journal, which also reads what is in it already. Use as a context manager.

    Raises BlockingIOError when another process is writing it, and OSError, in one line with the fix, where the disk is
    full: the line counts for nothing then, and the next one goes below what is there of it.
    """

    def __init__(self, path: Path) -> None:
        with _naming(path):
            # Without a buffer: what did not fit must not follow of itself once there is room again.
            self._file = path.open("ab+", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise BlockingIOError(f"{path.parent} is being run by another process") from None
        self.path = path
        try:
            self._end_line()
        except OSError:
            self._file.close()
            raise
        # Read only now: a line that lacked nothing but its end counts from here on, for every reader.
        reader = Reader(path).poll()
        self.rows, self.status = reader.rows, reader.status
        # Checkpoints have no other writer than who holds the journal, so that these are of processes killed in one.
        for scratch in path.parent.glob(".checkpoint.pt.*"):
            scratch.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, row: Row) -> None:
        """Adds the row unless the journal holds one of its number; on disk when this returns."""
        if row["row"] <= len(self.rows):
            return
        if row["row"] != len(self.rows) + 1:
            raise ValueError(f"rows must follow one another, but got row {row['row']} after {len(self.rows)}")
        self._write({"row": row})
        self.rows.append(row)

    def set_status(self, status: Status, note: str = "") -> None:
        """Adds a change of status with the time; `note` says why."""
        self._write({"status": status, "time_ms": int(time.time() * 1000)} | ({"note": note} if note else {}))
        self.status = status

    def _end_line(self) -> None:
        """Ends the line that a kill or a full disk has torn."""
        size = self._file.seek(0, os.SEEK_END)
        if size > 0 and os.pread(self._file.fileno(), 1, size - 1) != b"\n":
            self._put(b"\n")

    def _write(self, entry: dict[str, Any]) -> None:
        self._end_line()
        self._put(json.dumps(entry).encode() + b"\n")
        with _naming(self.path):
            os.fsync(self._file.fileno())

    def _put(self, content: bytes) -> None:
        with _naming(self.path):
            while content:
                content = content[self._file.write(content) :]
