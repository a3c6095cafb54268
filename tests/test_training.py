"""Training: rows as planned, updates as written out by hand, and bits that neither a stop nor a kill changes."""

from dataclasses import replace
from itertools import islice
from operator import itemgetter
from pathlib import Path

import made
import numpy as np
import pytest
import torch
from made import EAGER, MACHINE, N, checkpoint_bits, finish, made_data, noise_spec, start, unclocked
from torch import nn
from torch.nn import functional
from torch.optim import SGD

from lrbs_core import models, training
from lrbs_core.data import Stream
from lrbs_core.devices import device_of
from lrbs_core.journal import METRICS, Reader
from lrbs_core.noise import noise_scale
from lrbs_core.schedules import Linear, Piecewise
from lrbs_core.training import prepare

DATA = made_data()
missing = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch finds none")
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, missing])])


# Of 100 examples and batches of 40, updates start at 0 40 80 | 100 140 180 (keep), 0 40 | 100 140 (drop), and
# 0 40 80 120 160 (carry). A row: its epoch (where the next update starts), updates, examples.
ROWS = [
    ("keep", 0.5, 2, [(0.8, 2, 80), (1.0, 3, 100), (1.8, 5, 180), (2.0, 6, 200)]),
    ("keep", 1, 2, [(1.0, 3, 100), (2.0, 6, 200)]),
    ("keep", 3, 2, [(2.0, 6, 200)]),
    ("keep", 1, 1.5, [(1.0, 3, 100), (1.5, 5, 150)]),
    # A batch that passes several evaluations reports once.
    ("keep", 0.1, 2, [(0.4, 1, 40), (0.8, 2, 80), (1.0, 3, 100), (1.4, 4, 140), (1.8, 5, 180), (2.0, 6, 200)]),
    ("drop", 0.5, 2, [(1.0, 2, 80), (2.0, 4, 160)]),
    ("carry", 0.5, 2, [(0.8, 2, 80), (1.2, 3, 120), (1.6, 4, 160), (2.0, 5, 200)]),
    ("carry", 1, 2, [(1.2, 3, 120), (2.0, 5, 200)]),
]


@devices
@pytest.mark.parametrize(("partial", "every", "epochs", "expected"), ROWS)
def test_rows_come_where_the_plan_has_them(partial, every, epochs, expected, device):
    spec = noise_spec(Linear(0.1, 0.0, 4), partial=partial, evaluate_every_epochs=every, epochs=epochs)
    rows, status = finish(start(spec, machine=replace(MACHINE, device=device), data=made_data(device)))
    assert [(row["epoch"], row["updates"], row["examples"]) for row in rows] == expected
    assert (status, spec.plan().updates, spec.plan().examples) == ("finished", *expected[-1][1:])
    assert [row["row"] for row in rows] == list(range(1, len(rows) + 1))
    updates = list(spec.walk())
    for row in rows:
        assert set(row) == {"row", "time_ms", *METRICS}
        setting = spec.policy(updates[row["updates"] - 1].start / N)
        assert (row["lr"], row["batch_size"], row["momentum"]) == setting
        assert row["noise_scale"] == noise_scale(*setting, N)


@pytest.mark.parametrize("partial", ["keep", "drop", "carry"])
def test_every_update_uses_the_policys_lr_and_momentum_on_the_plans_examples(monkeypatch, partial):
    sizes = Piecewise((20, 50), at=(1,))
    spec = noise_spec(Linear(0.1, 0.01, 3), sizes, Linear(0.5, 0.95, 3), partial=partial, epochs=3)
    used, taken, setting, step, batch = [], [], itemgetter("lr", "momentum"), SGD.step, Stream.batch
    monkeypatch.setattr(SGD, "step", lambda self: (used.extend(map(setting, self.param_groups)), step(self))[1])
    monkeypatch.setattr(Stream, "batch", lambda self, *cut: (taken.append(cut), batch(self, *cut))[1])
    finish(start(spec))
    assert taken == [(update.start, update.size) for update in spec.walk()]
    assert used == [(spec.policy.lr(at / N), spec.policy.momentum(at / N)) for at, _ in taken]


@pytest.mark.parametrize(("model", "ghost_size"), [("mlp", None), ("convnet", 8)])
def test_micro_batches_add_up_to_the_update_of_the_whole_batch(tmp_path, model, ghost_size):
    # Batches of 64 and 36: the mean is over what a batch holds, and ghost batches are the same in any cut.
    spec = noise_spec(Linear(0.1, 0.02, 2), 64, Linear(0.9, 0.5, 2), model=model, ghost_size=ghost_size)
    expected, checkpoint = made.train_by_hand(spec, DATA), tmp_path / "checkpoint.pt"
    for size in (8, 24, 64):
        finish(start(spec, checkpoint, machine=replace(MACHINE, micro_batch=size)))
        torch.testing.assert_close(dict(torch.load(checkpoint)["model"]), expected, rtol=1e-4, atol=1e-6)
        checkpoint.unlink()


@pytest.mark.parametrize("every", [0.5, 2])
def test_at_lr_0_a_row_tells_the_first_models_loss_over_the_examples_since_the_last_row(every):
    spec = noise_spec(lr=0.0, evaluate_every_epochs=every)
    rows, _ = finish(start(spec, machine=replace(MACHINE, micro_batch=16)))
    torch.manual_seed(spec.seed)
    model, stream, seen = models.build("mlp", 4, 1, 8, None), Stream(DATA, 1, "flip_crop", "channel"), 0
    for row in rows:
        images, labels = stream.batch(seen, row["examples"] - seen)
        logits, seen = model(images).detach(), row["examples"]
        assert row["train_loss"] == pytest.approx(float(functional.cross_entropy(logits, labels)), rel=1e-5)
        assert row["train_accuracy"] == pytest.approx(100 * float((logits.argmax(1) == labels).double().mean()))
    assert len({row["test_loss"] for row in rows}) == 1


def test_the_last_row_tells_the_trained_models_loss_and_accuracy_on_the_test_set(tmp_path):
    spec = noise_spec(model="convnet", ghost_size=8)
    rows, _ = finish(start(spec, tmp_path / "checkpoint.pt"))
    model = models.build("convnet", 4, 1, 8, 8)
    model.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["model"])
    pixels = (DATA.test_pixels.double() - DATA.train_pixels.double().mean()) / DATA.train_pixels.double().std()
    logits = model.eval()(pixels.permute(0, 3, 1, 2).float()).detach()
    loss, correct = functional.cross_entropy(logits, DATA.test_labels), logits.argmax(1) == DATA.test_labels
    assert rows[-1]["test_loss"] == pytest.approx(float(loss), rel=1e-4)
    assert rows[-1]["test_accuracy"] == pytest.approx(100 * float(correct.double().mean()))


@pytest.fixture
def random_spec(monkeypatch):
    """Batch norm, dropout, augmentation, momentum and a growing batch: all that a checkpoint could forget."""
    build = models.build
    monkeypatch.setattr(models, "build", lambda *what: nn.Sequential(build(*what), nn.Dropout(0.3)))
    return noise_spec(0.05, Piecewise((16, 40), at=(1,)), model="convnet", ghost_size=8, evaluate_every_epochs=0.5)


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adam"])
def test_equal_specs_give_equal_bits_and_another_seed_others(random_spec, tmp_path, optimizer):
    runs = []
    for seed in (1, 1, 2):
        rows, _ = finish(start(replace(random_spec, optimizer=optimizer, seed=seed), tmp_path / f"{len(runs)}.pt"))
        runs.append((unclocked(rows), checkpoint_bits(tmp_path / f"{len(runs)}.pt")))
    assert runs[0] == runs[1]
    assert runs[0][1]["model"] != runs[2][1]["model"]


# After so many rows or, below zero, at that step of the optimizer: between two rows, or at one.
@pytest.mark.parametrize("machine", [EAGER, MACHINE], ids=["checkpoint", "none"])
@pytest.mark.parametrize("moment", [1, 2, 4, -1, -3, -6, -9])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(random_spec, tmp_path, monkeypatch, moment, machine):
    unbroken, _ = finish(start(random_spec, tmp_path / "unbroken.pt"))
    rows, seen = start(random_spec, checkpoint := tmp_path / "checkpoint.pt", machine=machine), []
    if moment > 0:
        seen.extend(islice(rows, moment))
        rows.close()
    else:
        steps = [SGD.step] * (-moment - 1)
        with monkeypatch.context() as patch, pytest.raises(IndexError):  # noqa: PT012
            patch.setattr(SGD, "step", lambda self: steps.pop()(self))
            seen.extend(rows)
    torch.manual_seed(99)
    again, status = finish(start(random_spec, checkpoint, seen, machine))
    assert (again[: len(seen)], status) == (seen, "finished")
    assert unclocked(again) == unclocked(unbroken)
    assert checkpoint_bits(checkpoint) == checkpoint_bits(tmp_path / "unbroken.pt")


def test_rows_of_the_journal_are_handed_out_as_they_stand_and_the_clock_goes_on_from_them(tmp_path):
    spec, checkpoint = noise_spec(evaluate_every_epochs=0.5), tmp_path / "checkpoint.pt"
    told = [row | {"time_ms": 7, "train_seconds": 1000.0 * row["row"]} for row in finish(start(spec))[0][:2]]
    rows, _ = finish(start(spec, checkpoint, told))
    assert rows[:2] == told
    assert 2000 < rows[2]["train_seconds"] < rows[3]["train_seconds"] < 2100
    assert rows[2]["examples_per_second"] == pytest.approx(80 / (rows[2]["train_seconds"] - 2000))
    # A run at its end tells its rows again from the checkpoint, and does nothing.
    before = checkpoint.read_bytes()
    assert finish(start(spec, checkpoint)) == (rows, "finished")
    assert checkpoint.read_bytes() == before


def test_the_clock_counts_updates_alone(monkeypatch):
    now, step, evaluate = [0.0], SGD.step, training._Run.evaluate
    monkeypatch.setattr(training.time, "perf_counter", lambda: now[-1])
    monkeypatch.setattr(SGD, "step", lambda self: (now.append(now[-1] + 1), step(self))[1])
    monkeypatch.setattr(training._Run, "evaluate", lambda *what: (now.append(now[-1] + 1000), evaluate(*what))[1])
    rows, _ = finish(start(noise_spec(evaluate_every_epochs=0.5)))
    assert [row["train_seconds"] for row in rows] == [2, 3, 5, 6]
    assert [row["examples_per_second"] for row in rows] == [40, 20, 40, 20]


# Found at the first look between rows, at a row, and by the test loss alone: the only update spoilt the weights.
DIVERGED = [({"batch_size": 4}, 17), ({"evaluate_every_epochs": 0.5}, 2), ({"epochs": 0.4}, 1)]


@pytest.mark.parametrize("machine", [EAGER, MACHINE], ids=["checkpoints", "none"])
@pytest.mark.parametrize(("changes", "updates"), DIVERGED)
def test_a_run_that_diverges_ends_with_a_row_that_shows_it(tmp_path, changes, updates, machine):
    rows, status = finish(start(noise_spec(lr=1e38, **changes), tmp_path / "checkpoint.pt", machine=machine))
    assert (status, [row["updates"] for row in rows]) == ("diverged", [updates])
    assert np.isfinite(rows[0]["train_loss"]) == (updates == 1)
    assert not np.isfinite(rows[0]["test_loss"])


def test_a_checkpoint_of_another_run_is_refused_and_one_with_code_in_it_too(tmp_path):
    checkpoint, mark = tmp_path / "checkpoint.pt", tmp_path / "executed"
    finish(start(noise_spec(seed=2), checkpoint))
    keys = f"checkpoint of {noise_spec().key} expected, but got one of '{noise_spec(seed=2).key}'"
    with pytest.raises(ValueError, match=f"run 'made': {keys}"):
        finish(start(noise_spec(), checkpoint))
    evil = type("Evil", (), {"__reduce__": lambda _: (Path.touch, (mark,))})()
    torch.save(torch.load(checkpoint) | {"key": noise_spec().key, "rows": evil}, checkpoint)
    with pytest.raises(ValueError, match=r"checkpoint\.pt must be a checkpoint of this run, but cannot be read"):
        finish(start(noise_spec(), checkpoint))
    assert not mark.exists()


@pytest.mark.parametrize(("changes", "message"), [
    ({}, "imagefolder:made must have the 100 training examples of the plan, but got 99"),
    ({"model": "vgg"}, "model must be one of .*, but got 'vgg'"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_runs_label_and_before_the_first_run(monkeypatch, changes, message):
    spec, data = noise_spec(**changes), DATA if changes else DATA._replace(train_labels=DATA.train_labels[1:])
    monkeypatch.setattr(training, "load", lambda *_: data)
    for attempt in (lambda: prepare([spec], MACHINE), lambda: finish(start(spec, data=data))):
        with pytest.raises(ValueError, match=f"run 'made': {message}"):
            attempt()


@pytest.mark.parametrize("begun", [True, False])
def test_a_run_keeps_to_the_precision_that_it_was_begun_in(tmp_path, begun):
    spec, machine = noise_spec(evaluate_every_epochs=0.5), replace(EAGER, bf16=begun)
    next(rows := start(spec, checkpoint := tmp_path / "checkpoint.pt", machine=machine))
    next(rows)  # the first row's checkpoint is written before the second
    rows.close()
    how = "with bf16: give" if begun else "without bf16: leave out"
    told = f"run 'made': a run must keep to its precision, but was begun {how} --bf16, or remove {checkpoint}"
    with pytest.raises(ValueError, match=told):
        finish(start(spec, checkpoint, machine=replace(machine, bf16=not begun)))
    assert finish(start(spec, checkpoint, machine=machine))[1] == "finished"


def test_a_ghost_size_raises_the_default_micro_batch_and_is_held_against_one_that_is_asked_for(monkeypatch):
    spec = noise_spec(batch_size=100, model="convnet", ghost_size=100)
    monkeypatch.setattr(training, "load", lambda *_: DATA)
    monkeypatch.setattr(training, "MICRO_BATCH", {"cpu": 40})
    taken, batch = [], Stream.batch
    monkeypatch.setattr(Stream, "batch", lambda self, *cut: (taken.append(cut), batch(self, *cut))[1])
    prepare([spec], MACHINE)
    finish(start(spec))
    assert taken == [(0, 100), (100, 100)]
    with pytest.raises(ValueError, match="run 'made': micro_batch >= ghost_size must hold, but got micro_batch=40"):
        prepare([spec], replace(MACHINE, micro_batch=40))


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device cuda:1 needs a CUDA GPU, but torch finds none"):
        device_of(replace(MACHINE, device="cuda:1"))


@devices
def test_bfloat16_changes_the_loss_a_little(device):
    spec, data = noise_spec(model="convnet", ghost_size=8), made_data(device)
    machines = [replace(MACHINE, device=device, bf16=bf16, compile=bf16 and device == "cuda") for bf16 in (True, False)]
    half, full = (finish(start(spec, machine=machine, data=data))[0][-1]["train_loss"] for machine in machines)
    assert half == pytest.approx(full, rel=0.02)
    assert half != pytest.approx(full, rel=1e-5)


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_in_the_bits_of_one_left_alone(tmp_path):
    alone, ends = made.train_apart(tmp_path / "alone"), []
    # In an update, before a checkpoint takes the place of the last, in the writing of either file, in an evaluation.
    kills = ("torch.optim.SGD.step:6", "pathlib.Path.replace:5", "os.fsync:7", "lrbs_core.training._Run.evaluate:2")
    killed = made.train_apart(tmp_path / "killed", *kills)
    assert killed.communicate()[0].splitlines() == ["-9 running"] * len(kills)
    (journal,) = tmp_path.glob("killed/made/*/journal.jsonl")
    told = journal.read_bytes()
    assert made.train_apart(tmp_path / "killed").communicate() == alone.communicate()
    assert journal.read_bytes().startswith(told)
    for root in ("alone", "killed"):
        (folder,) = tmp_path.glob(f"{root}/made/*")
        reader = Reader(folder / "journal.jsonl").poll()
        assert (reader.status, len(reader.rows)) == ("finished", 6)
        ends.append((unclocked(reader.rows), checkpoint_bits(folder / "checkpoint.pt")))
    assert ends[0] == ends[1]
