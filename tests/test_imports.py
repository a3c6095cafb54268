"""Who may import what: a report builds without torch, a training machine needs neither Ray nor MLflow."""

import subprocess
import sys
from pathlib import Path

import pytest

import lrbs_core

# The files and folders of the package, and what none of them loads, at any remove. A new file wants its name in here.
GROUPS = {
    "pure": (
        "__init__ claims discovery journal noise planning policies preemption range_test schedules search_record"
        " search_rungs spaces specs sweeping twins validation version",
        "altair mlflow optuna pandas ray rich scipy sklearn streamlit torch torchvision typer vl_convert",
    ),
    "torch": (
        "adam checkpoints data decoding devices draws lars models noise_meter norm optimizers streaming training",
        "altair mlflow optuna pandas ray typer",
    ),
    "mlflow": ("search_launch store tracking", "altair optuna ray torch typer"),
    "optuna": ("importances search", "altair mlflow pandas ray torch typer"),
    "ray": ("cluster discovery_ray search_ray", "altair mlflow typer"),
    "pandas": ("figures html power report results search_report statistics targets", "mlflow optuna ray torch typer"),
    # Where the groups meet: a command loads what it needs, so that `lrbs plan` and `lrbs --help` wait for none of it.
    "edge": ("cli commands documents doctor progress tables", "altair mlflow optuna pandas ray scipy sklearn torch"),
}
GROUP_OF = {name: group for group, (names, _) in GROUPS.items() for name in names.split()}
FOLDER = Path(lrbs_core.__file__).parent
FILES = [path.relative_to(FOLDER).with_suffix("").parts for path in sorted(FOLDER.rglob("*.py"))]
MODULES = {parts: ".".join(("lrbs_core", *parts)).removesuffix(".__init__") for parts in FILES}

PROGRAM = """
import importlib, sys
for name in sys.argv[2].split():
    importlib.import_module(name)
    loaded = [banned for banned in sys.argv[1].split() if banned in sys.modules]
    if loaded:
        sys.exit(f"{name} imports {', '.join(loaded)}")
"""


def test_every_file_of_the_package_has_its_group():
    assert {parts[0] for parts in FILES} == GROUP_OF.keys()


def imported_together():
    """(group, modules for one interpreter): light files each alone, heavy ones one after another, to save minutes."""
    for group in GROUPS:
        modules = [MODULES[parts] for parts in FILES if GROUP_OF.get(parts[0]) == group]
        light = group in ("pure", "edge")
        yield from ((group, module) for module in (modules if light else [" ".join(modules)]))


@pytest.mark.parametrize(("group", "modules"), list(imported_together()))
def test_a_fresh_interpreter_loads_nothing_that_is_banned(group, modules):
    command = [sys.executable, "-c", PROGRAM, GROUPS[group][1], modules]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
