"""`lrbs search`: the best of a space of policies."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

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
    written,
)
from lrbs_core.specs import Machine
from lrbs_core.validation import SET_ASIDE

__all__ = ["search"]


def search(
    sweep_file: SweepFile,
    trials: Annotated[
        int, typer.Option(min=1, help="Candidates in all; of a grid at most. More go on from fewer, unless of a grid.")
    ] = 20,
    sampler: Annotated[Literal["tpe", "random", "grid"], typer.Option(help="How candidates are chosen.")] = "tpe",
    sampler_seed: Annotated[int, typer.Option(min=0, help="Another one is another search.")] = 0,
    objective: Annotated[
        str | None,
        typer.Option(
            help="What is sought, else validation_accuracy; of several (validation_accuracy,updates) the Pareto front."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of a candidate, which counts by their mean.")] = 1,
    early_stop: Annotated[
        bool, typer.Option("--early-stop", help="End poor candidates early, compared at equal examples (ASHA).")
    ] = False,
    axes: Annotated[
        str | None, typer.Option(help="Of the heat map, such as high,momentum; else what mattered.")
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the heat map: a .svg or .png file.", callback=drawn)] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write all that was found, with figures, to this file.", callback=written)
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
    """The best candidates of a sweep's SPACE; the same command goes on after a kill, or with more --trials.

    They are judged by validation data: a tenth of the training examples, unless told otherwise.
    """
    from lrbs_core.search import Design, Search

    change = sweeping.changed(scale, model, dataset, data_dir, validation, SET_ASIDE)
    candidates = dataclasses.replace(sweeping.load_candidates(sweep_file), change=change)
    objectives = tuple((objective or candidates.tried[0].judged_by).split(","))
    design = Design(candidates, sampler, sampler_seed, trials, seeds, objectives, early_stop)
    chosen = None if axes is None else axes.split(",")
    if figure is not None or chosen is not None:
        from lrbs_core.search_report import chosen_axes

        chosen_axes(design.settings | {"importances": {objectives[0]: {}}}, chosen)
    machine = Machine(data_dir.resolve(), device, micro_batch, max(1, int(cpus_per_run)), bf16=bf16)
    launch = Launch(design.settings, seeds * design.size, out, tracking_uri, offline)
    from lrbs_core import devices, training

    prepare(candidates.tried, machine)
    with launch, Search(design, out, launch.stored, launch.opened) as found:
        say(f"{design.name}: {len(found.trials)} of {design.size} trials known, {found.left} run(s) of them to do")
        if serial or offline:
            train = partial(training.train, machine=machine)
            while folder := found.next():
                sweeping.run_serially([folder], found.until_stopped(train, folder), devices.describe(machine))
        else:
            from lrbs_core.search_ray import search_on_ray

            gpus = devices.gpus_here() if gpus_per_run is None else gpus_per_run
            search_on_ray(found, machine, cpus=cpus_per_run, gpus=gpus, address=address)
    document = found.document()
    if as_json:
        print(json.dumps(document, indent=1))
    else:
        tables.print_search(document)
    launch.tell(document, _pages(document, chosen, figure, html, offline))
    failed = sum(trial["status"] == "failed" for trial in document["trials"])
    undone = sum(trial["status"] == "running" for trial in document["trials"])
    if not document["best"]:
        say("no trial has finished, so that there is no best one, and no figure or page is written")
    if undone:
        say(f"{undone} trial(s) not at their end (interrupted, or another process has them): the same command goes on")
    if failed:
        say(f"{failed} trial(s) failed (tracebacks in {out / design.name}/*/journal.jsonl): the same command goes on")
    if failed or undone or not document["best"]:
        raise typer.Exit(1)


def _pages(
    document: dict[str, Any], axes: list[str] | None, figure: Path | None, html: Path | None, offline: bool
) -> dict[str, str]:
    """Writes figure and page where they are asked for, and gives what goes to the tracking store, by name."""
    texts = {"search.json": json.dumps(document, indent=1)}
    if not document["best"] or (figure is None and html is None and offline):
        return texts
    from lrbs_core import figures, search_report

    if figure is not None:
        figures.save(search_report.heat_map(document, axes), figure)
    texts["search.html"] = search_report.html(document, axes, typed_command(sys.argv[1:]))
    if html is not None:
        html.write_text(texts["search.html"])
    return texts


def typed_command(arguments: Sequence[str]) -> str:
    """The command as it was typed, but for the store's address, which may hold a password."""
    kept = [
        word
        for before, word in zip(["", *arguments], arguments, strict=False)
        if before != "--tracking-uri" and not word.startswith("--tracking-uri")
    ]
    return shlex.join(["lrbs", *kept])
