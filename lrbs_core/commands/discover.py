"""`lrbs discover`: a schedule of lr and momentum, by population based training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from lrbs_core import sweeping, tables
from lrbs_core.commands.launching import Launch, prepare, say
from lrbs_core.commands.options import (
    Address,
    AsJson,
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
    Serial,
    Store,
    SweepFile,
    Validation,
    drawn,
    load_sweep,
)
from lrbs_core.discovery import Design, Discovery, source_of
from lrbs_core.journal import RunFolder
from lrbs_core.specs import Machine
from lrbs_core.validation import SET_ASIDE

__all__ = ["discover"]


def discover(
    sweep_file: SweepFile,
    interval: Annotated[float, typer.Option(help="Epochs of a generation; divides those of a run.")],
    policy: Annotated[
        str | None, typer.Option(metavar="LABEL", help="The policy to begin from; else the sweep's first.")
    ] = None,
    population: Annotated[int, typer.Option(min=2, help="Members of a generation.")] = 8,
    sampler_seed: Annotated[int, typer.Option(min=0, help="Another one is another discovery.")] = 0,
    figure: Annotated[
        Path | None, typer.Option(help="Draw lr and momentum by epoch: a .svg or .png file.", callback=drawn)
    ] = None,
    scale: Scale = None,
    model: Model = None,
    dataset: Data = None,
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
    micro_batch: MicroBatch = None,
    bf16: Bf16 = False,
    as_json: AsJson = False,
) -> None:
    """A schedule of lr and momentum by population based training (Jaderberg et al. 2017).

    Members are ranked by validation data: a tenth of the training examples, unless told otherwise. The same command
    goes on after a kill, and else only shows what was found.
    """
    sweep = load_sweep(sweep_file, scale, model, dataset, 1, data_dir, validation, SET_ASIDE)
    design = Design(sweep.name, source_of(sweep, policy), population, interval, sampler_seed)
    machine = Machine(data_dir.resolve(), device, micro_batch, max(1, int(cpus_per_run)), bf16=bf16)
    launch = Launch(design.settings, population * design.generations, out, tracking_uri, offline)
    from lrbs_core import checkpoints, devices, training

    prepare([design.source], machine)
    with launch:
        found = Discovery(design, out, checkpoints.extend, launch.stored, launch.opened)

        def rounds() -> Iterator[list[RunFolder]]:
            for number, left in enumerate(found.rounds(), start=1):
                say(f"{design.name}: generation {number} of {design.generations}, {len(left)} run(s) to do")
                yield left

        if serial or offline:
            train = partial(training.train, machine=machine)
            for left in rounds():
                sweeping.run_serially(left, train, devices.describe(machine))
        else:
            from lrbs_core.discovery_ray import discover_on_ray

            gpus = devices.gpus_here() if gpus_per_run is None else gpus_per_run
            discover_on_ray(rounds(), machine, cpus=cpus_per_run, gpus=gpus, address=address)
    document = found.document()
    if as_json:
        print(json.dumps(document, indent=1))
    else:
        tables.print_discovery(document)
    texts = {"discovery.json": json.dumps(document, indent=1)} | _drawn(found, document, figure, offline)
    launch.tell(document, texts)
    last = document["trials"][-len(found.generations[-1]) :]
    if all(trial["status"] == "diverged" for trial in last):
        raise ValueError(
            "a member must come to the end of an interval, but all diverged: begin from a policy of lower lr"
        )
    if not document["best"]:
        say(
            f"generation {len(found.generations)} is not at its end (interrupted, failed with a traceback in "
            f"{out / design.name}/*/journal.jsonl, or another process has it): the same command goes on"
        )
        raise typer.Exit(1)


def _drawn(found: Discovery, document: dict[str, Any], figure: Path | None, offline: bool) -> dict[str, str]:
    """Writes the figure where it is asked for, and gives what goes to the tracking store, by name."""
    if not document["best"] or (figure is None and offline):
        return {}
    from lrbs_core import figures
    from lrbs_core.figures.lineage import lineage_chart

    specs = [trial.folder.spec for generation in found.generations for trial in generation]
    # Between their edges lr and momentum are constant, so that no more points are needed.
    chart = lineage_chart(figures.settings_numbers(specs, points=1), document["best"][0]["label"])
    if figure is not None:
        figures.save(chart, figure)
    return {"discovery.svg": figures.svg(chart)}
