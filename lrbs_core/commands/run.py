"""`lrbs run`: what is missing of a sweep, through Ray or one after another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lrbs_core import sweeping, tables
from lrbs_core.commands.launching import run_missing
from lrbs_core.commands.options import (
    Address,
    Bf16,
    CpusPerRun,
    Data,
    DataDir,
    Device,
    GpusPerRun,
    MicroBatch,
    Model,
    Offline,
    Out,
    Scale,
    Seeds,
    Serial,
    Store,
    SweepFile,
    Validation,
    load_sweep,
)
from lrbs_core.journal import RunFolder
from lrbs_core.specs import Machine, RunSpec

if TYPE_CHECKING:
    from lrbs_core.results import RunRecord

__all__ = ["run"]


def run(
    sweep_file: SweepFile,
    scale: Scale = None,
    model: Model = None,
    dataset: Data = None,
    seeds: Seeds = None,
    validation: Validation = None,
    data_dir: DataDir = Path("data"),
    out: Out = Path("lrbs-runs"),
    tracking_uri: Store = None,
    serial: Serial = False,
    offline: Offline = False,
    address: Address = None,
    cpus_per_run: CpusPerRun = 1,
    gpus_per_run: GpusPerRun = None,
    device: Device = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of a run; else its CPUs. Large nets gain from more.")
    ] = None,
    micro_batch: MicroBatch = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes of a run that read a streamed image folder; 0: the run itself.")
    ] = 0,
    bf16: Bf16 = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
    measure_noise: Annotated[
        bool, typer.Option("--measure-noise", help="Tell the gradient noise scale in every row.")
    ] = False,
    checkpoint_seconds: Annotated[float, typer.Option(min=0, help="At least so long between checkpoints.")] = 10.0,
) -> None:
    """Run what is missing of a sweep: broken runs go on from their checkpoint, finished ones stay."""
    sweep = load_sweep(sweep_file, scale, model, dataset, seeds, data_dir, validation)
    machine = Machine(
        data_dir=data_dir.resolve(),
        device=device,
        micro_batch=micro_batch,
        threads=threads or max(1, int(cpus_per_run)),
        workers=workers,
        bf16=bf16,
        compile=compiled,
        measure_noise=measure_noise,
        checkpoint_seconds=checkpoint_seconds,
    )

    def run_all(folders: Sequence[RunFolder]) -> None:
        from lrbs_core import devices, training

        if serial or offline:
            train = partial(training.train, machine=machine)
            sweeping.run_serially(folders, train, devices.describe(machine))
        else:
            from lrbs_core.cluster import run_on_ray

            gpus = devices.gpus_here() if gpus_per_run is None else gpus_per_run
            run_on_ray(folders, machine, cpus=cpus_per_run, gpus=gpus, address=address)

    def show(pairs: Sequence[tuple[RunSpec, RunRecord]]) -> None:
        from lrbs_core.report import overview

        tables.print_overview(overview(sweep, pairs))

    run_missing(sweep, machine, out, tracking_uri, offline, run_all, show)
