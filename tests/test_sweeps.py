"""Every file in sweeps/: it loads, plans, says what it costs, and its networks train."""

import ast
import csv
import dataclasses
import re
import statistics
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lrbs_core import Policy, sweeping
from lrbs_core.cli import app
from lrbs_core.data import to_device
from lrbs_core.decoding import Arrays
from lrbs_core.documents import plan_document
from lrbs_core.planning import micro_batch_limit, micro_batches
from lrbs_core.power import POWER
from lrbs_core.specs import MICRO_BATCH, Machine
from lrbs_core.training import train

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "sweeps").glob("*.py"))
SHAPES = {"digits": (8, 1, 10), "cifar10": (32, 3, 10), "cifar100": (32, 3, 100)}
# Enough pixels for every net: Inception-ResNet-v2 takes no fewer than 75.
STREAMED_SIZE = 80


def networks():
    """One run for each network of each sweep, with its data and optimizer."""
    for path in SWEEPS:
        for (dataset, model, optimizer), spec in {
            (spec.dataset, spec.model, spec.optimizer): spec for spec in sweeping.load(path).runs
        }.items():
            yield pytest.param(spec, id=f"{path.stem}-{dataset}-{model}-{optimizer}")


def made_arrays(dataset, count):
    size, channels, classes = SHAPES[dataset]
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (count + 8, size, size, channels), dtype=np.uint8)
    labels = draw.integers(0, classes, count + 8)
    return Arrays(pixels[:count], labels[:count], pixels[count:], labels[count:], tuple(map(str, range(classes))))


def write_image_folder(folder, count):
    draw = np.random.default_rng(0)
    for split, number in (("train", count), ("val", 4)):
        for index in range(number):
            path = folder / split / f"class{index % 2}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (90, 100, 3), dtype=np.uint8)).save(path)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
class TestEverySweep:
    def test_is_short_and_imports_nothing_heavy(self, path):
        text = path.read_text()
        assert len(text.splitlines()) < 80
        imported = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        }
        assert imported <= {"lrbs_core", "math"}

    def test_says_how_it_is_run(self, path):
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert f"lrbs run sweeps/{path.name}" in docstring

    def test_plans_and_meets_the_paper_s_counts(self, path):
        sweep = sweeping.load(path)
        for spec in {spec.label: spec for spec in sweep.runs}.values():
            updates = spec.plan().updates
            for claim in sweep.claims:
                if claim.metric == "updates" and claim.policy == spec.label:
                    assert claim.holds(updates), (claim, updates)

    def test_has_the_seeds_to_find_each_claim_if_the_paper_is_right(self, path):
        for claim in plan_document(sweeping.load(path))["claims"]:
            if path.stem != "you2017_ladder_cifar10":  # whose claims are no paper's: there is no number to be right
                assert claim["power"] >= POWER, claim

    def test_is_planned_and_reported_in_text(self, path, store):
        """In this process: one of its own would take seconds for each. `run` is `test_every_network_makes_...`."""
        shown = {
            name: CliRunner().invoke(app, [name, str(path), *options], env={"COLUMNS": "300"})
            for name, options in store.items()
        }
        assert [(result.exit_code, result.exception) for result in shown.values()] == [(0, None)] * 2
        for label in {spec.label for spec in sweeping.load(path).runs}:
            assert re.search(
                rf"^{re.escape(label)}: [\d,]+ updates, peak batch [\d,]+", shown["plan"].output, re.MULTILINE
            )
            assert label in shown["report"].output
        assert f"no run of {path.stem}, as given, is in sqlite:///" in shown["report"].output

    def test_fits_the_micro_batches_that_a_machine_has_of_itself(self, path):
        for ghost_size in {spec.ghost_size for spec in sweeping.load(path).runs}:
            for default in MICRO_BATCH.values():
                limit = micro_batch_limit(None, default, ghost_size)
                assert max(micro_batches(100_000, limit, ghost_size)) < limit + (ghost_size or 1)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Options of the commands, of which `report` reads a store without runs."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    mlflow.MlflowClient(uri).search_experiments()  # makes it
    return {"plan": ["--out", str(folder)], "report": ["--tracking-uri", uri]}


def test_regime_adaptation_makes_as_many_updates_as_the_small_batch():
    # Hoffer et al. 2017, section 5: what a large batch lacks is updates, and the adapted regime has no fewer.
    runs = sweeping.load(ROOT / "sweeps" / "hoffer2017_ghost_cifar100.py").runs
    updates = {spec.label: spec.plan().updates for spec in runs}
    # 200 epochs of 50,000 examples in batches of 128.
    assert updates["+ regime adaptation"] == updates["small batch"] == 200 * 50_000 / 128


@pytest.mark.parametrize("table", ["table1_alexnet", "table3_alexnet", "table4_resnet50"])
def test_you_s_rates_are_the_peaks_of_their_warm_ups(table):
    # As printed: Table 1's are in the labels; Tables 3 and 4 by batch size.
    tables = {
        "table3_alexnet": {"alexnet": [2, 10, 10, 14, 14], "alexnet_bn": [2, 10, 14, 23, 22]},
        "table4_resnet50": {"imagenet_resnet50": [4, 9, 30, 33, 40]},
    }
    runs = sweeping.load(ROOT / "sweeps" / f"you2017_{table}.py").runs
    specs = {spec.label: spec for spec in runs if table == "table1_alexnet" or spec.optimizer == "lars"}
    peaks = [max(spec.policy.lr(epoch / 1000) for epoch in range(20_000)) for spec in specs.values()]
    stated = (
        [float(label.partition("lr ")[2]) for label in specs]
        if table == "table1_alexnet"
        else [rate for rates in tables[table].values() for rate in rates]
    )
    assert peaks == pytest.approx(stated, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("spec", list(networks()))
def test_every_network_makes_two_updates_on_made_data(spec, tmp_path):
    count = 16
    ghost_size = None if spec.ghost_size is None else 4
    small = {"policy": Policy(1e-4, count // 2, spec.policy(0).momentum), "ghost_size": ghost_size, "epochs": 1.0}
    data = None
    if spec.streamed:
        write_image_folder(tmp_path / "made", count)
        small |= {"dataset": "imagefolder:made", "image_size": STREAMED_SIZE}
    else:
        data = to_device(made_arrays(spec.dataset, count), torch.device("cpu"))
    machine = Machine(device="cpu", data_dir=tmp_path)
    rows = list(train(dataclasses.replace(spec, examples=count, **small), machine=machine, data=data))
    assert rows[-1]["updates"] == 2
    assert np.isfinite(rows[-1]["train_loss"])


def means(path):
    """The mean accuracy of each policy in a file of measured results, and whether the runs had overrides."""
    accuracies, overridden = {}, False
    with path.open(newline="") as file:
        for run in csv.DictReader(file):
            overridden = overridden or bool(run["overrides"])
            if run["status"] == "finished":
                accuracies.setdefault(run["policy"], []).append(float(run["test_accuracy"]))
    return [f"{statistics.mean(values):.2f}" for values in accuracies.values()], overridden


def test_the_readmes_table_of_papers_has_every_sweep_and_the_measured_numbers():
    text = (ROOT / "README.md").read_text()
    pattern = r"^\|[^|]*\|[^|]*\| \[`(\w+)`\]\(sweeps/\1\.py\) \| ([^|]*) \|[^|]*\| ([^|]*)\|$"
    rows = re.findall(pattern, text, re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == [path.stem for path in SWEEPS if path.stem != "quickstart"]
    for name, status, ours in rows:
        measured = ROOT / "sweeps" / f"{name}.csv"
        if not measured.exists():
            assert (status, ours.strip()) == ("planned only", "")
            continue
        numbers, overridden = means(measured)
        assert (status, ours.strip()) == ("small scale" if overridden else "full", " / ".join(numbers))
