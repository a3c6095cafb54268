"""`lrbs doctor`: whether this machine has what a sweep needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lrbs_core import sweeping
from lrbs_core.commands.options import AsJson, Data, DataDir, Out, Store
from lrbs_core.doctor import examine

__all__ = ["doctor"]


def doctor(
    sweep_file: Annotated[
        Path | None, typer.Argument(metavar="SWEEP", help="A sweep, whose datasets are looked for.")
    ] = None,
    dataset: Data = None,
    data_dir: DataDir = Path("data"),
    out: Out = Path("lrbs-runs"),
    tracking_uri: Store = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster; else one that runs here, if any.")] = None,
    as_json: AsJson = False,
) -> None:
    """Whether this machine has what a sweep needs, and what to do if not: a line a check. Exit code 1: a fault."""
    specs = None if sweep_file is None else sweeping.load(sweep_file).runs
    checks = []
    for check in examine(specs, dataset, data_dir, out, tracking_uri, address):
        checks.append(check)
        if not as_json:
            print(
                f"{check.status:8} {check.name}: {check.found}" + (f" -> {check.fix}" if check.fix else ""), flush=True
            )
    faults = sum(check.status == "fault" for check in checks)
    if as_json:
        print(json.dumps({"faults": faults, "checks": [check._asdict() for check in checks]}, indent=1))
    if faults:
        raise typer.Exit(1)
