"""The command line: the one place where planning, training, Ray, MLflow and reports meet.

Tables go to standard output, progress and complaints to standard error. Exit codes: 0 done, 1 some runs failed, 2 bad
input, or a file or disk that cannot be used (one clear line), 130 and 143 told to stop by SIGINT or SIGTERM (the same
command goes on).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from lrbs_core.commands.dashboard import dashboard
from lrbs_core.commands.discover import discover
from lrbs_core.commands.doctor import doctor
from lrbs_core.commands.launching import say
from lrbs_core.commands.plan import plan
from lrbs_core.commands.range_test import range_test
from lrbs_core.commands.report import report
from lrbs_core.commands.run import run
from lrbs_core.commands.search import search
from lrbs_core.commands.sync import sync
from lrbs_core.journal import FULL
from lrbs_core.preemption import Preempted, heed
from lrbs_core.version import __version__

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


for name, command, example in (
    ("plan", plan, "sweeps/smith2018_fig1_cifar10.py"),
    ("run", run, "sweeps/quickstart.py"),
    ("range-test", range_test, "sweeps/quickstart.py --low 1e-4 --high 3 --geometric"),
    ("search", search, "sweeps/quickstart.py --trials 20"),
    ("discover", discover, "sweeps/quickstart.py --interval 2"),
    ("sync", sync, "lrbs-runs"),
    ("report", report, "sweeps/quickstart.py --figure accuracy.svg"),
    ("dashboard", dashboard, "--tracking-uri sqlite:///mlflow.db"),
    ("doctor", doctor, "sweeps/quickstart.py"),
):
    app.command(name, epilog=f"Example: lrbs {name} {example}")(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `lrbs`. Bad input ends in one line and exit code 2."""
    heed()
    logging.basicConfig(format="%(name)s: %(message)s")
    try:
        app(arguments)
    except ValueError as error:
        say(f"lrbs: {error}")
        sys.exit(2)
    except OSError as error:
        if error.errno not in FULL and error.filename is None:
            raise
        say(f"lrbs: {error}" if error.errno in FULL else f"lrbs: {error.filename}: {error.strerror}")
        sys.exit(2)
    except KeyboardInterrupt:
        say("lrbs: interrupted; the same command goes on from here")
        sys.exit(130)
    except Preempted:
        say("lrbs: told to stop (SIGTERM): what was running is kept, and the same command goes on from here")
        sys.exit(143)


def run_file(path: str) -> None:
    """What a sweep does when it is run as a script: `lrbs run` on itself, with the script's arguments."""
    main(["run", path, *sys.argv[1:]])
