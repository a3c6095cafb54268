"""Checkpoints: the state of a run as a file that executes nothing, and a run begun where another ended."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lrbs_core.discovery import begins_with
from lrbs_core.journal import RunFolder, write_whole
from lrbs_core.specs import RunSpec

__all__ = ["extend", "saved", "take_up"]


def saved(state: dict[str, Any]) -> bytes:
    """The state as the content of a checkpoint."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def take_up(checkpoint: Path, spec: RunSpec, taken: Callable[[dict[str, Any]], None]) -> None:
    """Has the state in a checkpoint of this spec taken up. Raises ValueError for a file of another run, or of none.

    Nothing in the file is executed (`weights_only`): it may hold tensors and plain values, and no other object.
    """
    content = checkpoint.read_bytes()
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        key = state["key"]
        if key == spec.key:
            taken(state)
    except (MemoryError, torch.OutOfMemoryError):
        raise  # no fault of the file's
    except Exception as error:  # torch names no set of errors for a file that is none of its own
        raise ValueError(
            f"run {spec.label!r}: {checkpoint} must be a checkpoint of this run, but cannot be read "
            f"({type(error).__name__}): remove it, and the run begins anew"
        ) from error
    if key != spec.key:
        raise ValueError(f"run {spec.label!r}: checkpoint of {spec.key} expected, but got one of {key!r}")


def extend(parent: RunFolder, child: RunFolder) -> None:
    """Has a longer run begin where the parent's stands: with its checkpoint, and so with its rows.

    What it comes to is what it would from scratch, on a CPU bit for bit. A child that has begun stays as it is; one
    whose parent has no checkpoint here begins from scratch. Raises ValueError unless `begins_with` holds.
    """
    if not begins_with(child.spec, parent.spec):
        raise ValueError(f"run {child.spec.label!r} must begin with all of {parent.spec.label!r} to go on from its end")
    if child.journal_path.exists() or not parent.checkpoint_path.exists():
        return
    state: dict[str, Any] = {}
    take_up(parent.checkpoint_path, parent.spec, state.update)
    write_whole(child.checkpoint_path, saved(state | {"key": child.spec.key}))
