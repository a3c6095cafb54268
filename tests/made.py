"""Small made-up runs for tests of what comes after training, and real processes of the command `lrbs`."""

from __future__ import annotations

import json
import math
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lrbs_core import Policy, RunSpec
from lrbs_core.journal import MEASURED, METRICS, NOISE_SUMS, Journal, Reader, Row, RunFolder
from lrbs_core.noise import gradient_noise
from lrbs_core.specs import Machine
from lrbs_core.sweeping import run

SWEEP = """
from lrbs_core import Claim, Policy, RunSpec, Steps
SOURCE = "made up"
baseline = Policy(lr=Steps(0.1, at=({at},), factor=1/4), batch_size=16, momentum=0.9)
CLAIMS = (Claim("made up", "growing", "updates", 1000, relation="below"),)
def runs():
    return [
        RunSpec(label=label, policy=policy, dataset="digits", model="convnet", optimizer="sgd", weight_decay=5e-4,
                ghost_size=8, augmentation="none", normalization="channel", epochs={epochs}, partial="keep", seed=seed)
        for label, policy in (("decaying", baseline), ("growing", baseline.grow_batch()))
        for seed in range({seeds})
    ]
if __name__ == "__main__":
    from lrbs_core.cli import run_file
    run_file(__file__)
"""

# What a clock tells: never the same twice.
CLOCKED = ("time_ms", "train_seconds", "examples_per_second")


def write_sweep(path: Path, epochs: float = 3, seeds: int = 2) -> Path:
    path.write_text(SWEEP.format(epochs=epochs, seeds=seeds, at=epochs / 2))
    return path


def made_spec(label: str = "decaying", seed: int = 0, epochs: float = 3) -> RunSpec:
    return RunSpec(
        label=label, policy=Policy(0.1, 16, 0.9), dataset="digits", model="mlp", optimizer="sgd", weight_decay=0.0,
        ghost_size=None, augmentation="none", normalization="channel", epochs=epochs, partial="keep", seed=seed,
    )  # fmt: skip


def made_row(number: int, accuracy: float = 90.0, time_ms: int | None = None) -> Row:
    row: Row = dict.fromkeys(METRICS, float(number))
    row |= {
        "row": number,
        "time_ms": 1_700_000_000_000 + number if time_ms is None else time_ms,
        "test_accuracy": accuracy,
    }
    return row


def made_noise(trace: float = 300.0, square: float = 1.0, spread: float = 0.05, pairs: int = 20) -> Row:
    """What a row holds too where noise was measured: tr(Sigma) and |G|^2 alternate about these, by 5 % and `spread`."""
    x = [trace * (1 + 0.05 * (-1) ** number) for number in range(pairs)]
    y = [square * (1 + spread * (-1) ** (number // 2)) for number in range(pairs)]
    sums = [sum(map(math.prod, zip(*pair, strict=True))) for pair in ((x, x), (x, y), (y, y))]
    moments = [float(pairs), sum(x), sum(y), *sums]
    return dict(zip((*MEASURED, *NOISE_SUMS), (*gradient_noise(moments), *moments), strict=True))


def made_run(
    root: Path, spec: RunSpec, rows: Sequence[Row], status: str = "finished", sweep: str = "made"
) -> RunFolder:
    """The folder of a run that reported these rows and ended so; "running" is a run cut short."""
    folder = RunFolder.create(root, sweep, spec)

    def train(*_: object) -> Iterator[Row]:
        yield from rows
        if status == "failed":
            raise OSError("out of paper")
        return status

    if status == "running":
        with Journal(folder.journal_path) as journal:
            journal.set_status("running")
            for row in rows:
                journal.append(row)
        return folder
    try:
        list(run(folder, train, machine="an abacus"))
    except OSError:
        assert status == "failed"
    return folder


def lrbs(*arguments: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        command(*arguments), cwd=cwd, env=os.environ | env, capture_output=True, text=True, timeout=300
    )


def command(*arguments: object) -> list[str]:
    return [str(Path(sys.executable).with_name("lrbs")), *map(str, arguments)]


def kill_at_row(rows: int, arguments: Sequence[object], cwd: Path) -> None:
    """Starts the command and SIGKILLs all of it once the journals below `cwd` hold so many rows."""
    process = subprocess.Popen(
        command(*arguments), cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        until = time.monotonic() + 300
        while sum(map(len, journal_rows(cwd).values())) < rows:
            assert process.poll() is None, "the sweep ended before it could be killed"
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def journal_rows(root: Path) -> dict[str, list[Row]]:
    """The rows of every run below a folder by key."""
    return {path.parent.name: Reader(path).poll().rows for path in root.rglob("journal.jsonl")}


def unclocked(rows: Sequence[Row]) -> list[dict[str, float | None]]:
    """Rows without what a clock told; NaN, which equals nothing, is None."""
    return [
        {name: None if value != value else value for name, value in row.items() if name not in CLOCKED} for row in rows
    ]


def document(result: subprocess.CompletedProcess[str]) -> dict:
    """The one JSON document on standard output."""
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


# Of training. Imported where it is used: most tests need no torch.
N, TESTS = 100, 300  # examples of `made_data`
MACHINE = Machine(device="cpu", checkpoint_seconds=1e9)  # one checkpoint, at the end
EAGER = replace(MACHINE, checkpoint_seconds=0)  # one after every update


def made_data(device: str = "cpu"):
    """Grey 8 x 8 images of noise in four classes, on the device."""
    import numpy as np
    import torch

    from lrbs_core.data import to_device
    from lrbs_core.decoding import Arrays

    random, sizes = np.random.default_rng(0), (N, TESTS)
    train_pixels, test_pixels = (random.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8) for n in sizes)
    train_labels, test_labels = (random.integers(0, 4, n) for n in sizes)
    arrays = Arrays(train_pixels, train_labels, test_pixels, test_labels, tuple("abcd"))
    return to_device(arrays, torch.device(device))


def noise_spec(lr=0.05, batch_size=40, momentum=0.9, **changes) -> RunSpec:
    """A run on `made_data`."""
    fields = {"label": "made", "dataset": "imagefolder:made", "examples": N, "model": "mlp", "optimizer": "sgd",
              "weight_decay": 0.01, "ghost_size": None, "augmentation": "flip_crop", "normalization": "channel",
              "epochs": 2.0, "partial": "keep", "seed": 1}  # fmt: skip
    return RunSpec(policy=Policy(lr, batch_size, momentum), **fields | changes)


def start(spec, checkpoint=None, journalled=(), machine=MACHINE, data=None):
    """The rows to come of a run on `made_data`."""
    from lrbs_core.training import train

    return train(spec, checkpoint, journalled, machine=machine, data=data or made_data())


def finish(rows):
    """All rows of a run, and what it ends as."""
    seen = []
    while True:
        try:
            seen.append(next(rows))
        except StopIteration as end:
            return seen, end.value


def train_by_hand(spec, data):
    """v <- m v + g + decay w, w <- w - lr v with the gradient of the mean loss over each update's examples at once."""
    import torch

    from lrbs_core import models
    from lrbs_core.data import Stream
    from lrbs_core.draws import use_draws

    torch.manual_seed(spec.seed)
    model = models.build(spec.model, data.classes, data.channels, data.image_size, spec.ghost_size)
    draws = use_draws(model, spec.seed, torch.device("cpu"))
    stream = Stream(data, spec.seed, spec.augmentation, spec.normalization, spec.validation_examples)
    velocity = [0.0 for _ in model.parameters()]
    for update in spec.walk():
        lr, _, momentum = spec.policy(update.start / spec.train_examples)
        images, labels = stream.batch(update.start, update.size)
        draws.at(update.start, update.size, update.start)
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        for i, (p, g) in enumerate(
            zip(model.parameters(), torch.autograd.grad(loss, [*model.parameters()]), strict=True)
        ):
            velocity[i] = momentum * velocity[i] + g + spec.weight_decay * p.detach()
            p.data -= lr * velocity[i]
    return dict(model.state_dict())


def bits(value):
    """The same for tensors of equal bits only, whatever they lie in."""
    if hasattr(value, "numpy"):
        return value.dtype, value.shape, value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: bits(part) for key, part in value.items()}
    return [*map(bits, value)] if isinstance(value, list | tuple) else value


def checkpoint_bits(path: Path):
    """All that a checkpoint holds but what a clock told."""
    import torch

    content = torch.load(path, weights_only=True)
    return bits(content | {"rows": unclocked(content["rows"]), "seconds": None})


def ends(root: Path) -> dict[str, tuple]:
    """What the runs below a folder came to, by key: rows and the last checkpoint, without what a clock told."""
    rows = journal_rows(root)
    checkpoints = {path.parent.name: path for path in root.rglob("checkpoint.pt")}
    return {key: (unclocked(rows[key]), checkpoint_bits(path)) for key, path in checkpoints.items()}


def scratch_files(root: Path) -> list[str]:
    """What writers left below a folder."""
    return sorted(path.name for path in root.rglob(".*") if path.name != ".delivery.lock")


def kill_itself_in(function: str, times: int) -> None:
    """From now on SIGKILLs this process at the n-th call of the function."""
    owner, name = pkgutil.resolve_name(function.rpartition(".")[0]), function.rpartition(".")[2]
    original, left = getattr(owner, name), [None] * times

    def dying(*args, **kwargs):
        left.pop()
        return original(*args, **kwargs) if left else os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, dying)


def run_again_and_again(root: Path, kills: Sequence[str]) -> None:
    """One spec as a sweep runs it: in a process for each FUNCTION:TIMES, where it kills itself, or here to its end.

    Prints how each process ended. Torch is imported but once, with what an optimizer asks for later: it takes seconds.
    """
    import torch._dynamo  # noqa: F401

    import lrbs_core.training  # noqa: F401

    spec = noise_spec(0.05, 16, model="convnet", ghost_size=8, evaluate_every_epochs=0.5, epochs=3.0)
    folder = RunFolder.create(root, "made", spec)
    for kill in kills:
        process = os.fork()
        if process == 0:
            function, times = kill.split(":")
            kill_itself_in(function, int(times))
            list(run(folder, lambda *what: start(*what, machine=EAGER)))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), Reader(folder.journal_path).poll().status)
    if not kills:
        list(run(folder, lambda *what: start(*what, machine=EAGER)))


def train_apart(root: Path, *kills: str) -> subprocess.Popen[str]:
    """`run_again_and_again` in a process of its own."""
    return subprocess.Popen([sys.executable, __file__, root, *kills], stdout=subprocess.PIPE, text=True)


if __name__ == "__main__":
    run_again_and_again(Path(sys.argv[1]), sys.argv[2:])
