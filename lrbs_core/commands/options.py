"""The options that several commands share, as typer reads them, and the sweep that they choose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lrbs_core import sweeping
from lrbs_core.sweeping import Sweep

__all__ = [
    "Address", "AsJson", "Bf16", "CpusPerRun", "Data", "DataDir", "Device", "GpusPerRun", "Markdown", "MicroBatch",
    "Model", "Offline", "Out", "Scale", "Seeds", "Serial", "Store", "SweepFile", "Validation", "drawn", "load_sweep",
    "written",
]  # fmt: skip


def written(path: Path | None) -> Path | None:
    """Of an option that names a file to write: looked at before the work whose outcome it is to hold."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise ValueError(f"a file to write must lie in a folder that is there, and not be one, but got {path}")
    return path


def drawn(path: Path | None) -> Path | None:
    """`written`, of a figure."""
    if path is not None:
        from lrbs_core.figures import require_format

        require_format(path)
    return written(path)


def _aside(text: str) -> float | int:
    """A share, or a number of examples."""
    try:
        return int(text) if text.strip().isdecimal() else float(text)
    except ValueError:
        raise typer.BadParameter(f"give a share such as 0.1, or a number of examples, but not {text!r}") from None


SweepFile = Annotated[Path, typer.Argument(metavar="SWEEP", help="A file of sweeps/, such as sweeps/quickstart.py.")]
Scale = Annotated[
    float | None, typer.Option(help="Train this fraction of the epochs, all breakpoints moved with them.")
]
Model = Annotated[str | None, typer.Option(help="Another network.")]
Data = Annotated[str | None, typer.Option("--dataset", help="Other data: digits, cifar10, cifar100, imagefolder:NAME.")]
Validation = Annotated[
    float | None,
    typer.Option(
        parser=_aside, metavar="SHARE|NUMBER", help="Training examples to set aside and judge by, such as 0.1 or 5000."
    ),
]
Seeds = Annotated[int | None, typer.Option(min=1, help="Only the first so many seeds.")]
DataDir = Annotated[Path, typer.Option(help="The folder that holds the datasets.")]
Out = Annotated[Path, typer.Option(help="The folder of journals and checkpoints, seen by every node.")]
Store = Annotated[
    str | None, typer.Option("--tracking-uri", help="MLflow store; else $MLFLOW_TRACKING_URI, else mlflow.db here.")
]
Serial = Annotated[bool, typer.Option("--serial", help="One run after another in this process, without Ray.")]
Offline = Annotated[
    bool, typer.Option("--offline", help="Serial, and journals only; `lrbs sync` delivers them to MLflow later.")
]
Address = Annotated[str | None, typer.Option(help="Ray cluster; else one that runs here, else a new one.")]
CpusPerRun = Annotated[float, typer.Option(min=0, max=100_000, help="CPUs of a run, set aside by Ray.")]
GpusPerRun = Annotated[
    float | None, typer.Option(min=0, help="GPUs of a run, such as 0.25, set aside by Ray; else 1 if there is one.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:NUMBER.")]
MicroBatch = Annotated[
    int | None,
    typer.Option(min=1, help="Most examples in one forward/backward; else 128 (CPU), 2048 (GPU), or the ghost size."),
]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Autocast to bfloat16.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Markdown = Annotated[
    Path | None,
    typer.Option(help="Write what is printed as a section of this page, such as sweeps/RESULTS.md.", callback=written),
]


def load_sweep(
    path: Path,
    scale: float | None,
    model: str | None,
    dataset: str | None,
    seeds: int | None,
    data_dir: Path,
    validation: float | None,
    unless_set: float | int = 0,
) -> Sweep:
    """The sweep of the file, overridden as asked (`sweeping.override`)."""
    return sweeping.override(
        sweeping.load(path),
        scale=scale,
        model=model,
        dataset=dataset,
        seeds=seeds,
        data_dir=data_dir,
        validation=validation,
        unless_set=unless_set,
    )
