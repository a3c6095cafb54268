"""Preemption with notice: SIGTERM asks for a checkpoint at once and an end from which the same command goes on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Preempted", "awaited", "given", "heed"]

given = threading.Event()
# Whether someone looks at `given`. If none does, the notice must not wait.
_looked_at = threading.Event()


class Preempted(BaseException):
    """The process was told to stop, and can go on later. Like KeyboardInterrupt no Exception, as nothing has failed."""


def heed() -> None:
    """Has SIGTERM give notice in this process from now on: within `awaited` by `given`, else by raising Preempted."""
    signal.signal(signal.SIGTERM, lambda *_: _take())


def _take() -> None:
    first = not given.is_set()
    given.set()
    # Once is enough: many who give notice give it twice, the second time while the process ends.
    if first and not _looked_at.is_set():
        raise Preempted


@contextmanager
def awaited() -> Iterator[None]:
    """Within, a notice only sets `given`, for the caller to look at. Raises Preempted if it was given before."""
    _looked_at.set()
    try:
        if given.is_set():
            raise Preempted
        yield
    finally:
        _looked_at.clear()
