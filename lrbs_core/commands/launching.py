"""Launching: what is left of a sweep or a search is run, told to MLflow meanwhile, and shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lrbs_core import sweeping
from lrbs_core.journal import FINAL, Reader, RunFolder
from lrbs_core.specs import MICRO_BATCH, Machine, RunSpec
from lrbs_core.sweeping import Sweep

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from lrbs_core.results import RunRecord
    from lrbs_core.tracking import Delivery

__all__ = ["Launch", "prepare", "run_missing", "say", "say_mixed"]


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
    prepare(sweep.runs, machine)
    folders = [RunFolder.create(out, sweep.name, spec) for spec in sweep.runs]
    left = sweeping.pending(folders)
    with ExitStack() as stack:
        if not offline:
            told = store.ended(client, sweep.name)
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
    if not offline:
        _say_late(delivery, out)
    readers = [(folder.spec, Reader(folder.journal_path).poll()) for folder in folders]
    pairs: list[tuple[RunSpec, RunRecord]] = [(spec, reader) for spec, reader in readers if reader.status is not None]
    if not offline and elsewhere:
        records = store.read(client, sweep.name, [folder.spec.key for folder in elsewhere])
        pairs += [(folder.spec, records[folder.spec.key]) for folder in elsewhere]
    show(pairs)
    if not offline:
        _say_where(client, sweep.name)
    failed = sum(reader.status == "failed" for _, reader in pairs)
    undone = len(set(left) & set(sweeping.pending(folders))) - failed
    if undone:
        why = "interrupted, no room on the disk, or another process has them"
        say(f"{undone} run(s) not at their end ({why}): the same command goes on")
    if failed:
        say(f"{failed} run(s) failed (tracebacks in {out / sweep.name}/*/journal.jsonl): the same command tries again")
    if failed or undone:
        raise typer.Exit(1)


def prepare(specs: Sequence[RunSpec], machine: Machine) -> None:
    """`training.prepare`, and a line where a default gives way, as a ghost batch must lie within one micro-batch."""
    from lrbs_core import devices, training

    training.prepare(specs, machine)
    on_gpu = machine.device.startswith("cuda") or (machine.device == "auto" and devices.gpus_here())
    default = MICRO_BATCH["cuda" if on_gpu else "cpu"]
    larger = sorted({spec.ghost_size for spec in specs if spec.ghost_size is not None and spec.ghost_size > default})
    if machine.micro_batch is None and larger:
        sizes = " and ".join(f"{size:,}" for size in larger)
        say(f"micro-batches are {sizes} examples where the ghost size is, above the default of {default:,}")


class Launch:
    """That of a search or a discovery: its runs are watched, and unless offline MLflow is told of them meanwhile.

    A context manager around the training. `settings`: of its design; `runs`: those that it will come to, at most.
    """

    def __init__(self, settings: dict[str, Any], runs: int, out: Path, tracking_uri: str | None, offline: bool) -> None:
        self.settings, self.runs, self.out = settings, runs, out
        self._ended: Mapping[str, Run] = {}
        self._read: dict[str, RunRecord] = {}
        self._pairs: list[tuple[RunSpec, RunRecord]] = []
        self._client: MlflowClient | None = None
        if not offline:
            from lrbs_core import store

            self._client = store.connect(tracking_uri)

    def __enter__(self) -> Launch:
        from lrbs_core.progress import Watch

        name = self.settings["sweep"]
        with ExitStack() as stack:
            if self._client:
                from lrbs_core import store, tracking
                from lrbs_core.search_launch import find_launch

                self._parent = find_launch(self._client, self.settings)
                self._ended = store.ended(self._client, name)
                self._delivery = stack.enter_context(tracking.Delivery(self._client, [], {name: self._parent}))
            self._watch = stack.enter_context(Watch([]))
            self._watch.unknown = self.runs
            self._ends = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        self._ends.__exit__(kind, *rest)
        if kind is None:
            say_mixed(self._pairs)
        if self._client and kind is None:
            _say_late(self._delivery, self.out)

    def stored(self, spec: RunSpec) -> RunRecord | None:
        """What the tracking store knows of a run that has ended there; it is read when it is first asked for."""
        if self._client and spec.key in self._ended and spec.key not in self._read:
            from lrbs_core import store

            self._read[spec.key] = store.record(self._client, self._ended[spec.key])
        return self._read.get(spec.key)

    def opened(self, folder: RunFolder, record: RunRecord) -> None:
        """Hears of a run and what is known of it: it is watched from here on and told to the store."""
        self._watch.unknown = max(0, self._watch.unknown - 1)
        self._pairs.append((folder.spec, record))
        if record.status not in FINAL:
            self._watch.add(folder)
        if self._client:
            self._delivery.add(folder)

    def tell(self, document: dict[str, Any], texts: dict[str, str]) -> None:
        """Puts the outcome on the launch, with artifacts by name, and says where it is to be browsed."""
        if self._client:
            from lrbs_core.search_launch import tell_launch

            tell_launch(self._client, self._parent, document, texts)
            _say_where(self._client, self.settings["sweep"])


def say_mixed(pairs: Sequence[tuple[RunSpec, RunRecord]]) -> None:
    """Names the runs in bf16 where others are not."""
    from lrbs_core.results import mixed_precision

    if mixed := mixed_precision(pairs):
        say(mixed)


def _say_late(delivery: Delivery, out: Path) -> None:
    if delivery.late or delivery.error:
        say(f"tracking store not told everything ({delivery.error}): run `lrbs sync {out}` later")


def _say_where(client: MlflowClient, experiment: str) -> None:
    from lrbs_core import store

    where = store.without_password(client.tracking_uri)
    served = where.startswith(("http://", "https://"))
    say(f"browse them{' at' if served else ': mlflow ui --backend-store-uri'} {where}, experiment {experiment}")


def say(text: str) -> None:
    """A line for the person at the terminal: to standard error, as standard output is for tables and JSON."""
    print(text, file=sys.stderr)
