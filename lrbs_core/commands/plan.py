"""`lrbs plan`: what a sweep costs, before anything is spent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lrbs_core import documents, sweeping, tables
from lrbs_core.commands.options import (
    AsJson,
    Data,
    DataDir,
    MicroBatch,
    Model,
    Out,
    Scale,
    Seeds,
    SweepFile,
    Validation,
    drawn,
    load_sweep,
)

__all__ = ["plan"]


def plan(
    sweep_file: SweepFile,
    scale: Scale = None,
    model: Model = None,
    dataset: Data = None,
    seeds: Seeds = None,
    validation: Validation = None,
    data_dir: DataDir = Path("data"),
    out: Out = Path("lrbs-runs"),
    micro_batch: MicroBatch = None,
    examples_per_second: Annotated[
        float | None, typer.Option(min=0.001, help="For the hours; else what earlier runs in --out measured.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw the policies by epoch: a .svg or .png file.", callback=drawn)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Updates, batch sizes, noise scale and hours of every run, before anything is spent."""
    sweep = load_sweep(sweep_file, scale, model, dataset, seeds, data_dir, validation)
    if as_json:
        print(json.dumps(documents.plan_document(sweep), indent=1))
    else:
        speeds = sweeping.measured_speed(out, sweep.name)
        if examples_per_second is not None:
            speeds = {spec.model: examples_per_second for spec in sweep.runs}
        tables.print_plan(sweep, speeds, micro_batch)
    if figure is not None:
        from lrbs_core import figures

        figures.save(figures.settings_chart(figures.settings_numbers(sweep.runs)), figure)
