"""The command line: the one place where planning, training, Ray, MLflow and reports meet.

Tables go to standard output, progress and complaints to standard error. Exit codes: 0 done, 1 some runs failed, 2 bad
input (one clear line). Heavy libraries are imported by the command that needs them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lrbs_core import sweeping, tables
from lrbs_core.journal import RunFolder
from lrbs_core.launching import run_missing, say
from lrbs_core.options import (
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
    Scale,
    Seeds,
    Store,
    SweepFile,
)
from lrbs_core.specs import Machine, RunSpec
from lrbs_core.sweeping import Sweep
from lrbs_core.version import __version__

if TYPE_CHECKING:
    from lrbs_core.results import RunRecord

__all__ = ["app", "main", "run_file"]

app = typer.Typer(
    name="lrbs",
    help="Plan, run and compare learning-rate / batch-size policies.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if show:
        print(f"lrbs {__version__}")
        raise typer.Exit


@app.command(epilog="Example: lrbs plan sweeps/smith2018_fig1_cifar10.py")
def plan(
    sweep_file: SweepFile,
    scale: Scale = None,
    model: Model = None,
    dataset: Data = None,
    seeds: Seeds = None,
    data_dir: DataDir = Path("data"),
    out: Out = Path("lrbs-runs"),
    micro_batch: Annotated[int, typer.Option(min=1, help="Most examples in one forward/backward.")] = 2048,
    examples_per_second: Annotated[
        float | None, typer.Option(help="For the hours; else what earlier runs in --out measured.")
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the policies by epoch: a .svg or .png file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Updates, batch sizes, noise scale and hours of every run, before anything is spent."""
    sweep = _sweep(sweep_file, scale, model, dataset, seeds, data_dir)
    if as_json:
        print(json.dumps(tables.plan_document(sweep), indent=1))
    else:
        speeds = sweeping.measured_speed(out, sweep.name)
        if examples_per_second is not None:
            speeds = {spec.model: examples_per_second for spec in sweep.runs}
        tables.print_plan(sweep, speeds, micro_batch)
    if figure is not None:
        from lrbs_core import figures

        figures.save(figures.settings_chart(figures.settings_numbers(sweep.runs)), figure)


@app.command(epilog="Example: lrbs run sweeps/quickstart.py")
def run(
    sweep_file: SweepFile,
    scale: Scale = None,
    model: Model = None,
    dataset: Data = None,
    seeds: Seeds = None,
    data_dir: DataDir = Path("data"),
    out: Out = Path("lrbs-runs"),
    tracking_uri: Store = None,
    serial: Annotated[
        bool, typer.Option("--serial", help="One run after another in this process, without Ray.")
    ] = False,
    offline: Offline = False,
    address: Annotated[str | None, typer.Option(help="Ray cluster; else one that runs here, else a new one.")] = None,
    cpus_per_run: Annotated[float, typer.Option(min=0, help="CPUs of a run, set aside by Ray.")] = 1,
    gpus_per_run: Annotated[
        float | None,
        typer.Option(min=0, help="GPUs of a run, set aside by Ray, such as 0.25; else 1 if there is one here."),
    ] = None,
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
    sweep = _sweep(sweep_file, scale, model, dataset, seeds, data_dir)
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
        from lrbs_core import training

        if serial or offline:
            train = partial(training.train, machine=machine)
            sweeping.run_serially(folders, train, training.describe(machine))
        else:
            from lrbs_core.cluster import run_on_ray

            gpus = training.gpus_here() if gpus_per_run is None else gpus_per_run
            run_on_ray(folders, machine, cpus=cpus_per_run, gpus=gpus, address=address)

    def show(pairs: Sequence[tuple[RunSpec, RunRecord]]) -> None:
        from lrbs_core.report import overview

        tables.print_overview(overview(sweep, pairs))

    run_missing(sweep, machine, out, tracking_uri, offline, run_all, show)


@app.command("range-test", epilog="Example: lrbs range-test sweeps/quickstart.py --low 1e-4 --high 3 --geometric")
def ramp(
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
    figure: Annotated[Path | None, typer.Option(help="Draw accuracy against lr: a .svg or .png file.")] = None,
    markdown: Markdown = None,
    as_json: AsJson = False,
) -> None:
    """Bounds for a cyclical lr: short runs, one after another, whose lr rises until they fail (L. N. Smith 2017)."""
    from lrbs_core import range_test

    given = {
        "model": model, "dataset": dataset, "batch_size": batch_size, "momentum": momentum, "optimizer": optimizer,
        "weight_decay": weight_decay, "ghost_size": ghost_size, "augmentation": augmentation,
        "normalization": normalization,
    }  # fmt: skip
    source = None if sweep_file is None else sweeping.load(sweep_file)
    settings = range_test.settings(source, policy, given, data_dir)
    sweep = range_test.sweep(source, settings, low, high, epochs, seeds, geometric)
    machine = Machine(data_dir.resolve(), device, micro_batch, threads, bf16=bf16)

    def run_all(folders: Sequence[RunFolder]) -> None:
        from lrbs_core import training

        train = range_test.until_lost(partial(training.train, machine=machine))
        sweeping.run_serially(folders, train, training.describe(machine))

    def show(pairs: Sequence[tuple[RunSpec, RunRecord]]) -> None:
        if sum(record.status in sweeping.FINAL for _, record in pairs) < len(sweep.runs):
            return
        document = tables.range_document(sweep, pairs)
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
            from lrbs_core import tracking

            texts = {"range_test.json": json.dumps(document, indent=1), "range_test.svg": figures.svg(chart)}
            tags = {f"lrbs.range_{name}": f"{document[name]['mean']:.4g}" for name in ("low", "high")}
            keys = [spec.key for spec in sweep.runs]
            tracking.tell_parents(tracking.connect(tracking_uri), sweep.name, keys, tags, texts)

    run_missing(sweep, machine, out, tracking_uri, offline, run_all, show)


@app.command(epilog="Example: lrbs sync lrbs-runs")
def sync(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of journals, such as --out of a run.")],
    tracking_uri: Store = None,
) -> None:
    """Deliver journals to MLflow: of offline runs, or what a store that was away has missed."""
    if not directory.is_dir():
        raise ValueError(f"a folder of journals must be given, but got {directory}: no such folder")
    folders = list(RunFolder.find(directory))
    if not folders:
        raise ValueError(f"a folder of journals must hold runs (spec.json), but got none in {directory}")
    from lrbs_core import tracking

    delivery = tracking.Delivery(tracking.connect(tracking_uri), folders)
    delivery.deliver()
    if delivery.late:
        raise ValueError(f"{delivery.late} of {len(folders)} run(s) could not be delivered: {delivery.error}")
    delivery.close()
    say(f"{len(folders)} run(s) delivered")


@app.command(epilog="Example: lrbs report sweeps/quickstart.py --figure accuracy.svg")
def report(
    sweep_file: SweepFile,
    scale: Scale = None,
    model: Model = None,
    dataset: Data = None,
    seeds: Seeds = None,
    data_dir: DataDir = Path("data"),
    tracking_uri: Store = None,
    csv: Annotated[Path | None, typer.Option(help="Write one row a run to this file.")] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw accuracy against epochs and updates: a .svg or .png file.")
    ] = None,
    markdown: Markdown = None,
    html: Annotated[Path | None, typer.Option(help="Write the report with its figures to this file.")] = None,
    baseline: Annotated[str | None, typer.Option(help="The policy to compare with; else the first.")] = None,
    margin: Annotated[
        float, typer.Option(help="The difference in test accuracy, in percent, that does not matter to you.")
    ] = 0.0,
    target: Annotated[float | None, typer.Option(help="Tell the updates to this test accuracy, in percent.")] = None,
    as_json: AsJson = False,
) -> None:
    """Policies side by side and each claim beside what was measured, from MLflow."""
    sweep = _sweep(sweep_file, scale, model, dataset, seeds, data_dir)
    from lrbs_core import report as page
    from lrbs_core import results, tracking

    client = tracking.connect(tracking_uri)
    records = tracking.read(client, sweep.name, [spec.key for spec in sweep.runs])
    pairs = [(spec, records[spec.key]) for spec in sweep.runs if spec.key in records]
    if not pairs:
        store = tracking.without_password(client.tracking_uri)
        say(f"no run of {sweep.name}, as given, is in {store} yet: start it with `lrbs run {sweep_file}`")
        for overrides, count in tracking.overrides_present(client, sweep.name).items():
            say(f"not in this report: {count} run(s) made with {overrides or 'no overrides'}")
    document = page.overview(sweep, pairs, baseline, margin, target)
    if as_json:
        print(json.dumps(document, indent=1))
    else:
        tables.print_overview(document)
    if not pairs and (figure or markdown or html):
        raise ValueError("a figure or page needs at least one run, but the store has none of this sweep")
    if csv is not None:
        results.run_table(pairs).to_csv(csv, index=False)
    if markdown is not None:
        page.write_section(markdown, page.markdown(document))
    if html is not None:
        from lrbs_core.html import html as html_of

        text = html_of(sweep, pairs, document, _commit(sweep_file))
        html.write_text(text)
        tracking.tell_parents(client, sweep.name, [spec.key for spec, _ in pairs], {}, {"report.html": text})
    if figure is not None:
        from lrbs_core import figures

        labels = list(dict.fromkeys(spec.label for spec in sweep.runs))
        figures.save(figures.accuracy_chart(figures.accuracy_numbers(pairs), labels), figure)


def _sweep(
    path: Path, scale: float | None, model: str | None, dataset: str | None, seeds: int | None, data_dir: Path
) -> Sweep:
    sweep = sweeping.load(path)
    return sweeping.override(sweep, scale=scale, model=model, dataset=dataset, seeds=seeds, data_dir=data_dir)


def _commit(sweep_file: Path) -> str:
    """The git commit of the sweep's folder, with a + where files of it have changed since; empty outside git."""
    git = ["git", "-C", str(sweep_file.resolve().parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "."], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.stdout.strip() + ("+" if changed.stdout else "")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `lrbs`. Bad input ends in one line and exit code 2."""
    try:
        app(arguments)
    except ValueError as error:
        say(f"lrbs: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        say("lrbs: interrupted; the same command goes on from here")
        sys.exit(130)


def run_file(path: str) -> None:
    """What a sweep does when it is run as a script: `lrbs run` on itself, with the script's arguments."""
    main(["run", path, *sys.argv[1:]])
