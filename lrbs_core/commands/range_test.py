"""`lrbs range-test`: bounds for a cyclical learning rate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lrbs_core import documents, sweeping, tables
from lrbs_core.commands.launching import run_missing, say_mixed
from lrbs_core.commands.options import (
    AsJson,
    Bf16,
    Data,
    DataDir,
    Device,
    Markdown,
    MicroBatch,
    Model,
    Offline,
    Out,
    Store,
    Validation,
    drawn,
)
from lrbs_core.journal import FINAL, RunFolder
from lrbs_core.specs import Machine, RunSpec

if TYPE_CHECKING:
    from lrbs_core.results import RunRecord

__all__ = ["range_test"]


def range_test(
    low: Annotated[float, typer.Option(help="lr at the start of the ramp.")],
    high: Annotated[float, typer.Option(help="lr at its end.")],
    sweep_file: Annotated[
        Path | None, typer.Argument(metavar="SWEEP", help="A sweep to take all from but the lr; else give each.")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="Label of the sweep's policy to take; else its first.")] = None,
    model: Model = None,
    dataset: Data = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples of an update.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Momentum (Adam: its beta1).")] = None,
    optimizer: Annotated[str | None, typer.Option(help="Such as sgd, nesterov or adam.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Factor of the weight decay.")] = None,
    ghost_size: Annotated[
        int | None, typer.Option(help="Examples of a batch-norm statistic, for nets with one.")
    ] = None,
    augmentation: Annotated[str | None, typer.Option(help="none, flip or flip_crop.")] = None,
    normalization: Annotated[str | None, typer.Option(help="channel, mean_image or imagenet.")] = None,
    validation: Validation = None,
    epochs: Annotated[float, typer.Option(help="Length of the ramp.")] = 4.0,
    geometric: Annotated[bool, typer.Option("--geometric", help="lr rises by factors, not differences.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Ramps, one a seed; the intervals are over them.")] = 3,
    data_dir: DataDir = Path("data"),
    out: Out = Path("lrbs-runs"),
    tracking_uri: Store = None,
    offline: Offline = False,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    micro_batch: MicroBatch = None,
    bf16: Bf16 = False,
    figure: Annotated[
        Path | None, typer.Option(help="Draw accuracy against lr: a .svg or .png file.", callback=drawn)
    ] = None,
    markdown: Markdown = None,
    as_json: AsJson = False,
) -> None:
    """Bounds for a cyclical lr: short runs, one after another, whose lr rises until they fail (L. N. Smith 2017).

    They are read off validation data: a tenth of the training examples, unless told otherwise.
    """
    from lrbs_core import range_test as ramps

    given = {
        "model": model, "dataset": dataset, "batch_size": batch_size, "momentum": momentum, "optimizer": optimizer,
        "weight_decay": weight_decay, "ghost_size": ghost_size, "augmentation": augmentation,
        "normalization": normalization, "validation": validation,
    }  # fmt: skip
    source = None if sweep_file is None else sweeping.load(sweep_file)
    settings = ramps.settings(source, policy, given, data_dir)
    sweep = ramps.sweep(source, settings, low, high, epochs, seeds, geometric)
    machine = Machine(data_dir.resolve(), device, micro_batch, threads, bf16=bf16)

    def run_all(folders: Sequence[RunFolder]) -> None:
        from lrbs_core import devices, training

        train = ramps.until_lost(partial(training.train, machine=machine), sweep.runs[0].judged_by)
        sweeping.run_serially(folders, train, devices.describe(machine))

    def show(pairs: Sequence[tuple[RunSpec, RunRecord]]) -> None:
        if sum(record.status in FINAL for _, record in pairs) < len(sweep.runs):
            return
        say_mixed(pairs)
        document = documents.range_document(sweep, pairs)
        if as_json:
            print(json.dumps(document, indent=1))
        else:
            tables.print_range(document)
        if markdown is not None:
            from lrbs_core import report as page

            page.write_section(markdown, page.range_markdown(document))
        if offline and figure is None:
            return
        from lrbs_core import figures

        chart = figures.range_chart(figures.range_numbers(pairs), document)
        if figure is not None:
            figures.save(chart, figure)
        if not offline:
            from lrbs_core import store, tracking

            texts = {"range_test.json": json.dumps(document, indent=1), "range_test.svg": figures.svg(chart)}
            tags = {
                f"lrbs.range_{name}": f"{'' if document[f'{name}_found'] else sign}{document[name]['mean']:.4g}"
                for name, sign in ramps.NOT_REACHED.items()
            }
            tags |= {f"lrbs.range_{name}": f"{document[name]}" for name in ("judged_on", "validation")}
            keys = [spec.key for spec in sweep.runs]
            tracking.tell_parents(store.connect(tracking_uri), sweep.name, keys, tags, texts)

    run_missing(sweep, machine, out, tracking_uri, offline, run_all, show)
