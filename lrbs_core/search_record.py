"""The record of a search on disk: the points that were asked for, in order. What came of them is in their journals."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import NamedTuple

from lrbs_core.spaces import Point

__all__ = ["Asked", "SearchRecord", "read_record"]


class Asked(NamedTuple):
    """One trial: its point, and the keys of its runs by seed."""

    point: Point
    keys: list[str]


def read_record(path: Path) -> list[Asked]:
    """The trials of a record that another process may be writing; a last line torn by a kill is passed over."""
    asked = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        try:
            asked.append(Asked(**json.loads(line)))
        except (TypeError, ValueError):
            continue
    return asked


class SearchRecord:
    """The one writer of a record. Use as a context manager. Raises ValueError when another process has it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ValueError("another process runs this search: wait for it, or choose another --out") from None
        self.path = path
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
