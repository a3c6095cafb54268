"""Small made-up runs for tests of what comes after training, and real processes of the command `lrbs`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lrbs_core import Policy, RunSpec
from lrbs_core.journal import METRICS, Journal, Reader, Row, RunFolder
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
        until = time.monotonic() + 120
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


def unclocked(rows: Sequence[Row]) -> list[Row]:
    return [{name: value for name, value in row.items() if name not in CLOCKED} for row in rows]


def document(result: subprocess.CompletedProcess[str]) -> dict:
    """The one JSON document on standard output."""
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
