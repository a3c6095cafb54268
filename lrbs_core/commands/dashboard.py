"""`lrbs dashboard`: the pages of `dashboards/` in a browser."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from lrbs_core.commands.options import Store

__all__ = ["dashboard"]


def dashboard(
    tracking_uri: Store = None,
    sweeps: Annotated[Path, typer.Option(help="The folder of sweep files; they are code, and are executed.")] = Path(
        "sweeps"
    ),
    host: Annotated[str, typer.Option(help="Address to listen on. The dashboard asks nobody who they are.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8501,
) -> None:
    """Live runs, comparisons, plans and claims in a browser, from MLflow."""
    if find_spec("streamlit") is None:
        raise ValueError("the dashboard needs streamlit, which is not installed: pip install '.[dashboard]'")
    import dashboards

    environment = os.environ | {dashboards.SWEEPS: str(sweeps)}
    if tracking_uri is not None:
        environment["MLFLOW_TRACKING_URI"] = tracking_uri
    options = {
        "server.address": host,
        "server.port": str(port),
        "server.headless": "true",
        "browser.gatherUsageStats": "false",
        "server.fileWatcherType": "none",
        "client.toolbarMode": "viewer",
        "client.showErrorDetails": "none",
        "theme.base": "light",
        "theme.primaryColor": "#0072B2",
    }
    app = Path(dashboards.__file__).with_name("app.py")
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(app),
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    raise typer.Exit(subprocess.run(command, env=environment).returncode)
