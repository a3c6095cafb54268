"""Launching: what is left of a sweep is run, told to MLflow meanwhile, and shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lrbs_core import sweeping
from lrbs_core.journal import Reader, RunFolder
from lrbs_core.specs import Machine, RunSpec
from lrbs_core.sweeping import Sweep

if TYPE_CHECKING:
    from lrbs_core.results import RunRecord

__all__ = ["run_missing", "say"]


def run_missing(
    sweep: Sweep,
    machine: Machine,
    out: Path,
    tracking_uri: str | None,
    offline: bool,
    run_all: Callable[[Sequence[RunFolder]], None],
    show: Callable[[Sequence[tuple[RunSpec, RunRecord]]], None],
) -> None:
    """Has `run_all` run what is left of a sweep, delivers it meanwhile, and shows what the journals then hold."""
    if not offline:
        from lrbs_core import store, tracking

        client = store.connect(tracking_uri)
    from lrbs_core import training

    training.prepare(sweep.runs, machine)
    folders = [RunFolder.create(out, sweep.name, spec) for spec in sweep.runs]
    left = sweeping.pending(folders)
    with ExitStack() as stack:
        if not offline:
            told = store.final_keys(client, sweep.name)
            elsewhere = [folder for folder in left if folder.spec.key in told and not folder.journal_path.exists()]
            if elsewhere:
                say(f"{len(elsewhere)} run(s) have ended already, by the tracking store: not run again")
                left = [folder for folder in left if folder not in elsewhere]
            delivery = stack.enter_context(tracking.Delivery(client, folders))
        say(f"{sweep.name}: {len(sweep.runs)} runs, {len(left)} to do")
        if left:
            from lrbs_core.progress import Watch

            stack.enter_context(Watch(left))
        run_all(left)
    if not offline and (delivery.late or delivery.error):
        say(f"tracking store not told everything ({delivery.error}): run `lrbs sync {out}` later")
    readers = [(folder.spec, Reader(folder.journal_path).poll()) for folder in folders]
    pairs: list[tuple[RunSpec, RunRecord]] = [(spec, reader) for spec, reader in readers if reader.status is not None]
    if not offline and elsewhere:
        records = store.read(client, sweep.name, [folder.spec.key for folder in elsewhere])
        pairs += [(folder.spec, records[folder.spec.key]) for folder in elsewhere]
    show(pairs)
    if not offline:
        where = store.without_password(client.tracking_uri)
        say(f"browse them: mlflow ui --backend-store-uri {where}, experiment {sweep.name}")
    failed = sum(reader.status == "failed" for _, reader in pairs)
    undone = len(set(left) & set(sweeping.pending(folders))) - failed
    if undone:
        why = "interrupted, no room on the disk, or another process has them"
        say(f"{undone} run(s) not at their end ({why}): the same command goes on")
    if failed:
        say(f"{failed} run(s) failed (tracebacks in {out / sweep.name}/*/journal.jsonl): the same command tries again")
    if failed or undone:
        raise typer.Exit(1)


def say(text: str) -> None:
    """A line for the person at the terminal: to standard error, as standard output is for tables and JSON."""
    print(text, file=sys.stderr)
