"""The command line: the one place where planning, training, Ray, MLflow and reports meet.

Tables go to standard output, progress and complaints to standard error. Exit codes: 0 done, 1 some runs failed, 2 bad
input (one clear line). Heavy libraries are imported by the command that needs them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrbs_core import sweeping, tables
from lrbs_core.journal import Reader, RunFolder
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

SweepFile = Annotated[Path, typer.Argument(metavar="SWEEP", help="A file of sweeps/, such as sweeps/quickstart.py.")]
Scale = Annotated[
    float | None, typer.Option(help="Train this fraction of the epochs, all breakpoints moved with them.")
]
Model = Annotated[str | None, typer.Option(help="Another network.")]
Data = Annotated[str | None, typer.Option("--dataset", help="Other data: digits, cifar10, cifar100, imagefolder:NAME.")]
Seeds = Annotated[int | None, typer.Option(min=1, help="Only the first so many seeds.")]
DataDir = Annotated[Path, typer.Option(help="The folder that holds the datasets.")]
Out = Annotated[Path, typer.Option(help="The folder of journals and checkpoints, seen by every node.")]
Store = Annotated[
    str | None, typer.Option("--tracking-uri", help="MLflow store; else $MLFLOW_TRACKING_URI, else mlflow.db here.")
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Serial, and journals only; `lrbs sync` delivers them to MLflow later.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:NUMBER.")]
MicroBatch = Annotated[
    int | None, typer.Option(min=1, help="Most examples in one forward/backward; else 128 (CPU), 2048 (GPU).")
]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Autocast to bfloat16.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


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
    figure: Annotated[Path | None, typer.Option(help="Draw lr and batch size by epoch: a .svg or .png file.")] = None,
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
        _print_overview(sweep, pairs, as_json=False)

    _run_missing(sweep, machine, out, tracking_uri, offline, run_all, show)


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

    _run_missing(sweep, machine, out, tracking_uri, offline, run_all, show)


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
    _say(f"{len(folders)} run(s) delivered")


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
    markdown: Annotated[
        Path | None, typer.Option(help="Write the report as a section of this page, such as sweeps/RESULTS.md.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Policies side by side and each claim beside what was measured, from MLflow."""
    sweep = _sweep(sweep_file, scale, model, dataset, seeds, data_dir)
    from lrbs_core import report as report_page
    from lrbs_core import results, tracking

    client = tracking.connect(tracking_uri)
    records = tracking.read(client, sweep.name, [spec.key for spec in sweep.runs])
    pairs = [(spec, records[spec.key]) for spec in sweep.runs if spec.key in records]
    if not pairs:
        store = tracking.without_password(client.tracking_uri)
        _say(f"no run of {sweep.name}, as given, is in {store} yet: start it with `lrbs run {sweep_file}`")
        for overrides, count in tracking.overrides_present(client, sweep.name).items():
            _say(f"not in this report: {count} run(s) made with {overrides or 'no overrides'}")
    _print_overview(sweep, pairs, as_json)
    if not pairs and (figure or markdown):
        raise ValueError("a figure or page needs at least one run, but the store has none of this sweep")
    if csv is not None:
        results.run_table(pairs).to_csv(csv, index=False)
    if markdown is not None:
        report_page.write_section(markdown, report_page.markdown(report_page.overview(sweep, pairs)))
    if figure is not None:
        from lrbs_core import figures

        figures.save(figures.accuracy_chart(figures.accuracy_numbers(pairs)), figure)


def _run_missing(
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
        from lrbs_core import tracking

        client = tracking.connect(tracking_uri)
    from lrbs_core import training

    training.prepare(sweep.runs, machine)
    folders = [RunFolder.create(out, sweep.name, spec) for spec in sweep.runs]
    left = sweeping.pending(folders)
    with ExitStack() as stack:
        if not offline:
            told = tracking.final_keys(client, sweep.name)
            elsewhere = [folder for folder in left if folder.spec.key in told and not folder.journal_path.exists()]
            if elsewhere:
                _say(f"{len(elsewhere)} run(s) have ended already, by the tracking store: not run again")
                left = [folder for folder in left if folder not in elsewhere]
            delivery = stack.enter_context(tracking.Delivery(client, folders))
        _say(f"{sweep.name}: {len(sweep.runs)} runs, {len(left)} to do")
        if left:
            from lrbs_core.progress import Watch

            stack.enter_context(Watch(left))
        run_all(left)
    if not offline and (delivery.late or delivery.error):
        _say(f"tracking store not told everything ({delivery.error}): run `lrbs sync {out}` later")
    readers = [(folder.spec, Reader(folder.journal_path).poll()) for folder in folders]
    pairs: list[tuple[RunSpec, RunRecord]] = [(spec, reader) for spec, reader in readers if reader.status is not None]
    if not offline and elsewhere:
        records = tracking.read(client, sweep.name, [folder.spec.key for folder in elsewhere])
        pairs += [(folder.spec, records[folder.spec.key]) for folder in elsewhere]
    show(pairs)
    if not offline:
        store = tracking.without_password(client.tracking_uri)
        _say(f"browse them: mlflow ui --backend-store-uri {store}, experiment {sweep.name}")
    failed = sum(reader.status == "failed" for _, reader in pairs)
    undone = len(set(left) & set(sweeping.pending(folders))) - failed
    if undone:
        _say(f"{undone} run(s) not at their end (interrupted, or another process has them): the same command goes on")
    if failed:
        _say(f"{failed} run(s) failed (tracebacks in {out / sweep.name}/*/journal.jsonl): the same command tries again")
    if failed or undone:
        raise typer.Exit(1)


def _sweep(
    path: Path, scale: float | None, model: str | None, dataset: str | None, seeds: int | None, data_dir: Path
) -> Sweep:
    sweep = sweeping.load(path)
    return sweeping.override(sweep, scale=scale, model=model, dataset=dataset, seeds=seeds, data_dir=data_dir)


def _print_overview(sweep: Sweep, pairs: Sequence[tuple[RunSpec, RunRecord]], as_json: bool) -> None:
    from lrbs_core.report import overview

    document: dict[str, Any] = overview(sweep, pairs)
    if as_json:
        print(json.dumps(document, indent=1))
    else:
        tables.print_overview(document)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `lrbs`. Bad input ends in one line and exit code 2."""
    try:
        app(arguments)
    except ValueError as error:
        _say(f"lrbs: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        _say("lrbs: interrupted; the same command goes on from here")
        sys.exit(130)


def run_file(path: str) -> None:
    """What a sweep does when it is run as a script: `lrbs run` on itself, with the script's arguments."""
    main(["run", path, *sys.argv[1:]])
