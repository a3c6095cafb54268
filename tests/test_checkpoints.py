"""Extending: a longer run that begins where another has ended comes to the bits that it would from scratch."""

import pytest
from made import MACHINE, checkpoint_bits, finish, noise_spec, start, unclocked
from torch import nn
from torch.optim import SGD

from lrbs_core import Piecewise, models
from lrbs_core.checkpoints import extend
from lrbs_core.discovery import Design, Member, begins_with
from lrbs_core.journal import Reader, RunFolder
from lrbs_core.sweeping import run

FORKED = Member(((0.05, 0.9), (0.04, 0.92), (0.048, 0.9)), parent=0)


def families(monkeypatch):
    """Batch norm, dropout, augmentation, momentum and a batch that grows where an interval ends, cut in many ways."""
    build = models.build
    monkeypatch.setattr(models, "build", lambda *what: nn.Sequential(build(*what), nn.Dropout(0.3)))
    fields = {"model": "convnet", "ghost_size": 8, "evaluate_every_epochs": 0.5, "epochs": 3.0}
    growing = Piecewise((16, 40), at=(1,))
    return {
        "keep": Design("made", noise_spec(0.05, growing, **fields), 2, 1.0, 0),
        "drop": Design("made", noise_spec(0.05, growing, partial="drop", **fields), 2, 1.0, 0),
        "carry": Design("made", noise_spec(0.05, 25, partial="carry", **fields), 2, 1.0, 0),
        "in mid-epoch": Design("made", noise_spec(0.05, 25, **fields | {"epochs": 1.5}), 2, 0.5, 0),
        "adam": Design("made", noise_spec(0.01, growing, optimizer="adam", **fields), 2, 1.0, 0),
    }


@pytest.mark.parametrize("family", ["keep", "drop", "carry", "in mid-epoch", "adam"])
def test_a_child_that_begins_where_its_parent_ended_is_bit_for_bit_the_run_from_scratch(tmp_path, monkeypatch, family):
    plan, folders = families(monkeypatch)[family], []
    steps, step = [], SGD.step
    monkeypatch.setattr(SGD, "step", lambda self: (steps.append(1), step(self))[1])
    for number in (1, 2, 3):
        spec = plan.spec(Member(FORKED.settings[:number], None), place=0)
        folders.append(RunFolder.create(tmp_path / "extended", "made", spec))
        if number > 1:
            extend(folders[-2], folders[-1])
        before = sum(steps)
        list(run(folders[-1], start))
        trained, planned = sum(steps) - before, spec.plan().updates
        if family != "adam":
            assert trained == planned - (folders[-2].spec.plan().updates if number > 1 else 0)
    scratch = RunFolder.create(tmp_path / "scratch", "made", folders[-1].spec)
    list(run(scratch, start))
    assert checkpoint_bits(folders[-1].checkpoint_path) == checkpoint_bits(scratch.checkpoint_path)
    rows, expected = (unclocked(Reader(folder.journal_path).poll().rows) for folder in (folders[-1], scratch))
    assert rows == expected
    assert len(rows) == {"drop": 4, "in mid-epoch": 3}.get(family, 6)
    # Time is the parent's and its own; what the parent's rows told of it stays.
    parent, child = (Reader(folder.journal_path).poll().rows for folder in folders[-2:])
    assert child[: len(parent)] == parent
    assert child[-1]["train_seconds"] > parent[-1]["train_seconds"]


def test_extending_leaves_what_has_begun_and_a_child_without_a_parents_checkpoint_begins_from_scratch(tmp_path):
    plan = Design("made", noise_spec(epochs=3.0), 2, 1.0, 0)
    specs = [plan.spec(Member(FORKED.settings[:number], None), 0) for number in (1, 2)]
    parent, child = (RunFolder.create(tmp_path, "made", spec) for spec in specs)
    extend(parent, child)
    assert not child.checkpoint_path.exists()
    list(run(child, start))
    alone = checkpoint_bits(child.checkpoint_path)
    list(run(parent, start))
    written = child.checkpoint_path.stat().st_mtime_ns
    extend(parent, child)
    assert child.checkpoint_path.stat().st_mtime_ns == written
    for path in (child.checkpoint_path, child.journal_path):
        path.unlink()
    extend(parent, child)
    list(run(child, start))
    assert checkpoint_bits(child.checkpoint_path) == alone
    parent.checkpoint_path.write_bytes(b"no checkpoint")
    child.journal_path.unlink()
    with pytest.raises(ValueError, match="must be a checkpoint of this run"):
        extend(parent, child)


def run_of(lr=0.05, epochs=2.0, **changes):
    return noise_spec(lr, changes.pop("batch_size", 25), changes.pop("momentum", 0.9), epochs=epochs, **changes)


OVER = {"batch_size": 30, "partial": "carry"}
STEPPED = Piecewise((0.05, 0.01), at=(2,))
EXTENSIONS = {
    "longer": (run_of(epochs=3.0), run_of(), True),
    "another lr from there on": (run_of(STEPPED, 3.0), run_of(), True),
    "another batch size from there on": (run_of(epochs=3.0, batch_size=Piecewise((25, 50), at=(2,))), run_of(), True),
    "carry that fits": (
        run_of(epochs=3.0, partial="carry", batch_size=40), run_of(partial="carry", batch_size=40), True
    ),
    "the same": (run_of(), run_of(), False),
    "shorter": (run_of(), run_of(epochs=3.0), False),
    "another lr before": (run_of(Piecewise((0.05, 0.01), at=(1.5,)), 3.0), run_of(), False),
    "another momentum before": (run_of(epochs=3.0, momentum=Piecewise((0.9, 0.8), at=(1.5,))), run_of(), False),
    "another seed": (run_of(epochs=3.0, seed=5), run_of(), False),
    "a batch over the edge": (run_of(epochs=3.0, **OVER), run_of(**OVER), False),
    "a batch over an edge in mid-epoch": (run_of(epochs=3.0, batch_size=40), run_of(epochs=1.5, batch_size=40), False),
    "a row at the parent's end alone": (
        run_of(epochs=3.0, evaluate_every_epochs=0.75), run_of(evaluate_every_epochs=0.75), False
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", EXTENSIONS)
def test_a_run_begins_with_another_where_training_it_tells_the_same_rows(tmp_path, case):
    child, parent, expected = EXTENSIONS[case]
    assert begins_with(child, parent) == expected
    rows, beginning = (unclocked(finish(start(spec, machine=MACHINE))[0]) for spec in (child, parent))
    assert (rows[: len(beginning)] == beginning and len(rows) > len(beginning)) == expected
    if not expected:
        with pytest.raises(ValueError, match="must begin with all of"):
            extend(*(RunFolder.create(tmp_path, "made", spec) for spec in (parent, child)))
