"""Every file in sweeps/: it loads, plans, says what it costs, and its networks train."""

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from lrbs_core import sweeping
from lrbs_core.data import to_device
from lrbs_core.decoding import Arrays
from lrbs_core.specs import Machine
from lrbs_core.training import train

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "sweeps").glob("*.py"))
SHAPES = {"digits": (8, 1, 10), "cifar10": (32, 3, 10), "cifar100": (32, 3, 100)}


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
        updates = {spec.label: spec.plan().updates for spec in sweep.runs}
        for claim in sweep.claims:
            if claim.metric == "updates":
                assert claim.holds(updates[claim.policy]), (claim, updates[claim.policy])

    def test_trains_two_updates_of_each_network_on_made_data(self, path):
        spec = sweeping.load(path).runs[0]
        size, channels, classes = SHAPES[spec.dataset]
        count = 2 * spec.policy(0).batch_size
        draw = np.random.default_rng(0)
        pixels = draw.integers(0, 256, (count + 8, size, size, channels), dtype=np.uint8)
        labels = draw.integers(0, classes, count + 8)
        arrays = Arrays(pixels[:count], labels[:count], pixels[count:], labels[count:], tuple(map(str, range(classes))))
        small = dataclasses.replace(spec, policy=type(spec.policy)(*spec.policy(0)), epochs=1.0, examples=count)
        rows = list(train(small, machine=Machine(device="cpu"), data=to_device(arrays, torch.device("cpu"))))
        assert rows[-1]["updates"] == 2
        assert np.isfinite(rows[-1]["train_loss"])
