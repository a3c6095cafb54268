"""Training: rows as planned, updates as written out by hand, and bits that neither a stop nor a kill changes."""

import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from made import unclocked
from torch import nn
from torch.nn import functional

from lrbs_core import models, sweeping, training
from lrbs_core.data import Stream, to_device
from lrbs_core.decoding import Arrays
from lrbs_core.journal import METRICS, Reader, RunFolder
from lrbs_core.noise import noise_scale
from lrbs_core.policies import Policy
from lrbs_core.schedules import Linear, Piecewise
from lrbs_core.specs import Machine, RunSpec
from lrbs_core.training import device_of, prepare, train

N, TESTS = 100, 300
MACHINE = Machine(device="cpu", checkpoint_seconds=1e9)  # one checkpoint, at the end
EAGER = replace(MACHINE, checkpoint_seconds=0)  # one after every update
no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch finds none")
cuda = [pytest.mark.gpu, no_cuda]


def made_data(device="cpu"):
    random = np.random.default_rng(0)
    pixels = [random.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8) for count in (N, TESTS)]
    labels = [random.integers(0, 4, count) for count in (N, TESTS)]
    return to_device(Arrays(pixels[0], labels[0], pixels[1], labels[1], tuple("abcd")), torch.device(device))


DATA = made_data()


def made_spec(lr=0.05, batch_size=40, momentum=0.9, **changes):
    fields = {"model": "mlp", "optimizer": "sgd", "weight_decay": 0.01, "ghost_size": None, "augmentation": "flip_crop",
              "normalization": "channel", "epochs": 2.0, "partial": "keep", "seed": 1} | changes  # fmt: skip
    return RunSpec(
        label="made", policy=Policy(lr, batch_size, momentum), dataset="imagefolder:made", examples=N, **fields
    )


def start(spec, checkpoint=None, journalled=(), machine=MACHINE, data=DATA):
    return train(spec, checkpoint, journalled, machine=machine, data=data)


def finish(rows):
    """All rows, and what the run ends as."""
    seen = []
    while True:
        try:
            seen.append(next(rows))
        except StopIteration as end:
            return seen, end.value


def bits(value):
    """The same for tensors of equal bits only."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: bits(part) for key, part in value.items()}
    return [*map(bits, value)] if isinstance(value, list | tuple) else value


def checkpoint_bits(path):
    """All that a checkpoint holds but what a clock told."""
    content = torch.load(path, weights_only=True)
    return bits(content | {"rows": unclocked(content["rows"]), "seconds": None})


def weights(folder, spec, machine=MACHINE):
    """The weights at the end of a run that is not told to stop."""
    checkpoint = folder / f"{len(list(folder.iterdir()))}.pt"
    finish(start(spec, checkpoint, machine=machine))
    return torch.load(checkpoint, weights_only=True)["model"]


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
    ("drop", 3, 2, [(2.0, 4, 160)]),
    ("carry", 0.5, 2, [(0.8, 2, 80), (1.2, 3, 120), (1.6, 4, 160), (2.0, 5, 200)]),
    ("carry", 1, 2, [(1.2, 3, 120), (2.0, 5, 200)]),
    ("carry", 3, 2, [(2.0, 5, 200)]),
]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=cuda)])
@pytest.mark.parametrize(("partial", "every", "epochs", "expected"), ROWS)
def test_rows_come_where_the_plan_has_them(partial, every, epochs, expected, device):
    spec = made_spec(Linear(0.1, 0.0, 4), partial=partial, evaluate_every_epochs=every, epochs=epochs)
    rows, status = finish(start(spec, machine=replace(MACHINE, device=device), data=made_data(device)))
    assert [(row["epoch"], row["updates"], row["examples"]) for row in rows] == expected
    assert (rows[-1]["updates"], rows[-1]["examples"], status) == (
        spec.plan().updates,
        spec.plan().examples,
        "finished",
    )
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
    spec = made_spec(Linear(0.1, 0.01, 3), sizes, Linear(0.5, 0.95, 3), partial=partial, epochs=3)
    used, taken, step, batch = [], [], torch.optim.SGD.step, Stream.batch

    def spied_step(optimizer):
        used.append([(group["lr"], group["momentum"]) for group in optimizer.param_groups])
        return step(optimizer)

    monkeypatch.setattr(torch.optim.SGD, "step", spied_step)
    monkeypatch.setattr(Stream, "batch", lambda self, *cut: (taken.append(cut), batch(self, *cut))[1])
    finish(start(spec))
    assert taken == [(update.start, update.size) for update in spec.walk()]
    assert used == [[(spec.policy.lr(at / N), spec.policy.momentum(at / N))] for at, _ in taken]


def by_hand(spec):
    """v <- m v + g + decay w, w <- w - lr v with the gradient of the whole batch's mean loss."""
    torch.manual_seed(spec.seed)
    model, stream = models.build(spec.model, 4, 1, 8, spec.ghost_size), Stream(DATA, spec.seed, "flip_crop", "channel")
    velocity = [0.0 for _ in model.parameters()]
    for update in spec.walk():
        lr, _, momentum = spec.policy(update.start / N)
        images, labels = stream.batch(update.start, update.size)
        gradients = torch.autograd.grad(functional.cross_entropy(model(images), labels), list(model.parameters()))
        for i, (p, g) in enumerate(zip(model.parameters(), gradients, strict=True)):
            velocity[i] = momentum * velocity[i] + g + spec.weight_decay * p.detach()
            p.data -= lr * velocity[i]
    return dict(model.state_dict())


@pytest.mark.parametrize(("model", "ghost_size"), [("mlp", None), ("convnet", 8)])
def test_micro_batches_add_up_to_the_update_of_the_whole_batch(tmp_path, model, ghost_size):
    # Batches of 64 and 36: the mean is over what a batch holds, and ghost batches are the same in any cut.
    spec = made_spec(Linear(0.1, 0.02, 2), 64, Linear(0.9, 0.5, 2), model=model, ghost_size=ghost_size)
    expected = by_hand(spec)
    for size in (8, 24, 64):
        trained = weights(tmp_path, spec, replace(MACHINE, micro_batch=size))
        torch.testing.assert_close(dict(trained), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("every", [0.5, 2])
def test_at_lr_0_a_row_tells_the_first_models_loss_over_the_examples_since_the_last_row(every):
    spec = made_spec(lr=0.0, evaluate_every_epochs=every)
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
    spec = made_spec(model="convnet", ghost_size=8)
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
    return made_spec(0.05, Piecewise((16, 40), at=(1,)), model="convnet", ghost_size=8, evaluate_every_epochs=0.5)


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adam"])
def test_equal_specs_give_equal_bits_and_another_seed_others(random_spec, tmp_path, optimizer):
    runs = []
    for seed in (1, 1, 2):
        rows, _ = finish(start(replace(random_spec, optimizer=optimizer, seed=seed), tmp_path / f"{len(runs)}.pt"))
        runs.append((unclocked(rows), checkpoint_bits(tmp_path / f"{len(runs)}.pt")))
    assert runs[0] == runs[1]
    assert runs[0][1]["model"] != runs[2][1]["model"]


def test_how_often_a_run_is_evaluated_and_saved_changes_nothing_in_it(random_spec, tmp_path):
    seldom = replace(random_spec, evaluate_every_epochs=9.0)
    assert bits(weights(tmp_path, seldom, EAGER)) == bits(weights(tmp_path, random_spec))


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
        steps = [torch.optim.SGD.step] * (-moment - 1)
        with monkeypatch.context() as patch, pytest.raises(IndexError):
            patch.setattr(torch.optim.SGD, "step", lambda self: steps.pop()(self))
            seen.extend(rows)
    torch.manual_seed(99)
    again, status = finish(start(random_spec, checkpoint, seen, machine))
    assert (again[: len(seen)], status) == (seen, "finished")
    assert unclocked(again) == unclocked(unbroken)
    assert checkpoint_bits(checkpoint) == checkpoint_bits(tmp_path / "unbroken.pt")


def test_rows_of_the_journal_are_handed_out_as_they_stand_and_the_clock_goes_on_from_them(tmp_path):
    spec, checkpoint = made_spec(evaluate_every_epochs=0.5), tmp_path / "checkpoint.pt"
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
    now, step, evaluate = [0.0], torch.optim.SGD.step, training._Run.evaluate

    def passing(seconds, call):
        return lambda self: (now.append(now[-1] + seconds), call(self))[1]

    monkeypatch.setattr(training.time, "perf_counter", lambda: now[-1])
    monkeypatch.setattr(torch.optim.SGD, "step", passing(1, step))
    monkeypatch.setattr(training._Run, "evaluate", passing(1000, evaluate))
    rows = []
    for row in start(made_spec(evaluate_every_epochs=0.5)):
        rows.append(row)
        now.append(now[-1] + 1e6)
    assert [row["train_seconds"] for row in rows] == [2, 3, 5, 6]
    assert [row["examples_per_second"] for row in rows] == [40, 20, 40, 20]


@pytest.mark.parametrize(
    ("changes", "updates"),
    [
        ({"batch_size": 4, "epochs": 4.0, "evaluate_every_epochs": 3.0}, range(2, 18)),  # of 100: found between rows
        ({"evaluate_every_epochs": 0.5}, range(2, 3)),  # found at a row
        ({"epochs": 0.4}, range(1, 2)),  # found by the test loss alone: the only update spoilt the weights
    ],
)
def test_a_run_that_diverges_ends_with_a_row_that_shows_it(tmp_path, changes, updates):
    rows, status = finish(start(made_spec(lr=1e38, **changes), tmp_path / "checkpoint.pt"))
    assert (status, len(rows)) == ("diverged", 1)
    assert rows[0]["updates"] in updates
    assert not np.isfinite(rows[0]["test_loss"])
    assert np.isfinite(rows[0]["train_loss"]) == (updates == range(1, 2))
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_checkpoint_of_another_run_is_refused_and_one_with_code_in_it_too(tmp_path):
    checkpoint, mark = tmp_path / "checkpoint.pt", tmp_path / "executed"
    finish(start(made_spec(seed=2), checkpoint))
    keys = f"checkpoint of {made_spec().key} expected, but got one of {made_spec(seed=2).key}"
    with pytest.raises(ValueError, match=f"run 'made': {keys}"):
        finish(start(made_spec(), checkpoint))

    class Evil:
        def __reduce__(self):
            return Path.touch, (mark,)

    torch.save(torch.load(checkpoint) | {"key": made_spec().key, "rows": Evil()}, checkpoint)
    with pytest.raises(pickle.UnpicklingError):
        finish(start(made_spec(), checkpoint))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("changes", "machine", "message"),
    [
        ({}, {}, "imagefolder:made must have the 100 training examples of the plan, but got 99"),
        ({"model": "vgg"}, {}, "model must be one of .*, but got 'vgg'"),
        ({"model": "resnet8"}, {}, "model resnet8 needs a ghost_size"),
        ({"model": "convnet", "ghost_size": 20}, {"micro_batch": 10}, "micro_batch >= ghost_size must hold"),
    ],
)
def test_what_does_not_fit_the_data_or_the_network_is_known_before_the_first_run(
    monkeypatch, changes, machine, message
):
    data = DATA._replace(train_labels=DATA.train_labels[:99]) if not changes else DATA
    monkeypatch.setattr(training, "load", lambda *_: data)
    with pytest.raises(ValueError, match=f"run 'made': {message}"):
        prepare([made_spec(), made_spec(**changes)][not changes :], replace(MACHINE, **machine))
    if not machine:
        with pytest.raises(ValueError, match=f"run 'made': {message}"):
            finish(start(made_spec(**changes), data=data))


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(Machine(device="auto")) == device_of(Machine(device="cpu")) == torch.device("cpu")
    with pytest.raises(ValueError, match="device cuda:1 needs a CUDA GPU, but torch finds none"):
        device_of(Machine(device="cuda:1"))
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda or cuda:NUMBER, but got 'tpu'"):
        device_of(Machine(device="tpu"))


@pytest.mark.parametrize(
    "settings",
    [{"device": "cpu", "bf16": True}, pytest.param({"device": "cuda", "bf16": True, "compile": True}, marks=cuda)],
    ids=str,
)
def test_bfloat16_leaves_weights_in_float32_and_the_outcome_nearly_the_same(tmp_path, settings):
    spec = made_spec(model="convnet", ghost_size=8)
    rows, status = finish(
        start(spec, tmp_path / "b.pt", machine=Machine(**settings), data=made_data(settings["device"]))
    )
    assert (status, [row["updates"] for row in rows]) == ("finished", [3, 6])
    assert rows[-1]["train_loss"] == pytest.approx(finish(start(spec))[0][-1]["train_loss"], rel=0.02)
    state = torch.load(tmp_path / "b.pt", map_location="cpu", weights_only=True)["model"]
    assert {tensor.dtype for tensor in state.values()} == {torch.float32, torch.int64}


# A process of this file runs one spec as a sweep does, and kills itself at the n-th call of a function.
def main(root, called, times):
    owner, _, name = called.rpartition(".")
    original, left = getattr(eval(owner), name), [None] * int(times)

    def dying(*args, **kwargs):
        left.pop()
        return original(*args, **kwargs) if left else os.kill(os.getpid(), signal.SIGKILL)

    setattr(eval(owner), name, dying)
    spec = made_spec(0.05, 16, model="convnet", ghost_size=8, evaluate_every_epochs=0.5, epochs=3)
    list(sweeping.run(RunFolder.create(Path(root), "made", spec), lambda *what: start(*what, machine=EAGER)))


def test_a_run_killed_again_and_again_ends_in_the_bits_of_one_left_alone(tmp_path):
    def process(root, called="os.abort", times=1):
        return subprocess.Popen([sys.executable, __file__, str(tmp_path / root), called, str(times)])

    alone, told = process("alone"), b""
    # In an update, before a checkpoint replaces the last, in an evaluation, and while a row or checkpoint is written.
    kills = {"torch.optim.SGD.step": 6, "Path.replace": 5, "training._Run.evaluate": 2, "os.fsync": 7}
    for called, times in kills.items():
        assert process("killed", called, times).wait() == -signal.SIGKILL
        (journal,) = tmp_path.glob("killed/made/*/journal.jsonl")
        assert journal.read_bytes().startswith(told)
        told = journal.read_bytes()
        assert Reader(journal).poll().status == "running"
    assert process("killed").wait() == alone.wait() == 0
    (one,), (other,) = tmp_path.glob("alone/made/*"), tmp_path.glob("killed/made/*")
    readers = [Reader(folder / "journal.jsonl").poll() for folder in (one, other)]
    assert [reader.status for reader in readers] == ["finished"] * 2
    assert unclocked(readers[0].rows) == unclocked(readers[1].rows)
    assert len(readers[0].rows) == 6
    assert checkpoint_bits(one / "checkpoint.pt") == checkpoint_bits(other / "checkpoint.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
