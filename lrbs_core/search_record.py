"""The record of a search on disk: the points that were asked for, in order. What came of them is in their journals."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import BinaryIO, NamedTuple

from lrbs_core.spaces import Point

__all__ = ["Asked", "SearchRecord", "alone", "read_record"]


class Asked(NamedTuple):
    """One trial: its point, and the keys of its runs by seed."""

    point: Point
    keys: list[str]


def read_record(path: Path) -> list[Asked]:
    """The trials of a record that another process may be writing; a last line torn by a kill is passed over.

    Raises ValueError, with the file and the line, for any other line that is no trial.
    """
    trials = []
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            asked = Asked(**json.loads(line))
            whole = isinstance(asked.point, dict) and isinstance(asked.keys, list)
            if not whole or not all(isinstance(key, str) for key in asked.keys):
                raise TypeError
        except (TypeError, ValueError, RecursionError):
            got = repr(line[:60].decode(errors="replace"))
            raise ValueError(
                f"{path}: line {number} must be a point and the keys of its runs, but got {got}: remove the file, "
                f"as the runs are known without it"
            ) from None
        trials.append(asked)
    return trials


def alone(path: Path, what: str) -> BinaryIO:
    """The file, open at its end and this process's alone until it is closed.

    Raises ValueError when another process has it, which is said to run this `what`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(f"another process runs this {what}: wait for it, or choose another --out") from None
    return file


class SearchRecord:
    """The one writer of a record. Use as a context manager. Raises ValueError when another process has it."""

    def __init__(self, path: Path) -> None:
        self._file = alone(path, "search")
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            # Torn by a kill: whoever wrote it had not begun to run it.
            self._file.truncate(content.rfind(b"\n") + 1)

    def __enter__(self) -> SearchRecord:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, asked: Asked) -> None:
        """Adds a trial; on disk when this returns."""
        self._file.write(json.dumps(asked._asdict()).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
