"""Nothing lost on a full disk: a small tmpfs, which only root may mount."""

import json
import random
import subprocess
from contextlib import suppress

import pytest
from made import (
    EAGER,
    MACHINE,
    checkpoint_bits,
    ends,
    finish,
    lrbs,
    made_data,
    made_row,
    noise_spec,
    scratch_files,
    start,
    unclocked,
    write_sweep,
)

from lrbs_core.journal import Journal, Reader, RunFolder
from lrbs_core.sweeping import run

EPOCHS = 12


class Disk:
    """A folder with so much room, and no more until it is given more."""

    def __init__(self, path):
        self.path = path

    def resize(self, size):
        subprocess.run(["mount", "-o", f"remount,size={size}", self.path], check=True)

    def fill(self, spare=0):
        """Leaves so many bytes, in whole pages of memory, free."""
        with (self.path / "filling").open("wb", buffering=0) as file:
            with suppress(OSError):
                while True:
                    file.write(bytes(4096))
            file.truncate(max(0, file.tell() - spare))


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    path.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", path], capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs the command mount")
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield Disk(path)
    subprocess.run(["umount", path], check=True)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A small run as it is on a disk with room."""
    path, spec, data = tmp_path_factory.mktemp("unbroken"), noise_spec(evaluate_every_epochs=0.4, epochs=6), made_data()
    rows, _ = finish(start(spec, path / "checkpoint.pt", data=data))
    return spec, data, unclocked(rows), checkpoint_bits(path / "checkpoint.pt")


@pytest.mark.parametrize("_", range(20))
def test_full_at_any_moment_it_says_so_in_a_line_and_goes_on_once_there_is_room(disk, unbroken, _):
    """It fails in a journal's line or in a checkpoint, whichever the room that is left ends in."""
    spec, data, rows, end = unbroken
    chance = random.Random(seed := random.randrange(10**6))
    print(f"seed {seed}")
    machine, full_at = chance.choice([EAGER, MACHINE]), chance.randrange(len(rows))
    folder = RunFolder.create(disk.path, "made", spec)
    # A line of no meaning, so that a page of memory may end anywhere in the lines to come.
    folder.journal_path.write_text("x" * chance.randrange(4096) + "\n")

    def train(*what):
        for number, row in enumerate(start(*what, machine=machine, data=data)):
            if number == full_at:
                disk.fill(chance.choice([0, 0, 4096]))
            yield row
        return "finished"

    with pytest.raises(OSError, match=rf"no space left to write {folder.path}/\S+: make room there") as caught:
        list(run(folder, train))
    assert "\n" not in str(caught.value)
    assert scratch_files(disk.path) == []
    reader = Reader(folder.journal_path).poll()
    assert unclocked(reader.rows) == rows[: len(reader.rows)]
    assert (reader.status, reader.note) in (("running", ""), ("failed", str(caught.value)))
    (disk.path / "filling").unlink()
    list(run(folder, lambda *what: start(*what, machine=machine, data=data)))
    reader = Reader(folder.journal_path).poll()
    assert (unclocked(reader.rows), reader.status) == (rows, "finished")
    assert checkpoint_bits(folder.checkpoint_path) == end
    assert scratch_files(disk.path) == []


def test_a_line_that_did_not_fit_does_not_follow_of_itself(disk):
    path = disk.path / "journal.jsonl"
    path.write_text("x" * 4000 + "\n")
    disk.fill()
    with Journal(path) as journal:
        with pytest.raises(OSError, match=r"no space left to write .*journal\.jsonl"):
            journal.append(made_row(1))
        assert (path.stat().st_size, journal.rows) == (4096, [])
        (disk.path / "filling").unlink()
        journal.append(made_row(1, 50.0))
    assert path.stat().st_size == 4096 + len("\n" + json.dumps({"row": made_row(1, 50.0)}) + "\n")
    assert Reader(path).poll().rows == [made_row(1, 50.0)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What the sweep comes to on a disk with room."""
    folder = tmp_path_factory.mktemp("whole")
    result = lrbs("run", write_sweep(folder / "tiny.py", EPOCHS, seeds=1), "--offline", cwd=folder)
    assert result.returncode == 0, result.stderr
    return ends(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "seconds", "file"), [("100k", 0.1, "checkpoint.pt"), ("12k", 1e6, "journal.jsonl")])
def test_the_command_names_the_full_disk_once_a_run_and_goes_on_with_room(disk, whole, tmp_path, size, seconds, file):
    sweep = write_sweep(tmp_path / "tiny.py", EPOCHS, seeds=1)
    arguments = ("run", sweep, "--offline", "--checkpoint-seconds", seconds)
    disk.resize(size)
    full = lrbs(*arguments, "--out", disk.path, cwd=tmp_path)
    assert full.returncode == 1
    assert "Traceback" not in full.stderr
    lines = [line for line in full.stderr.splitlines() if "no space left" in line]
    for label, line in zip(("decaying", "growing"), lines, strict=True):
        assert f"{label} seed=0: " in line
        assert f"no space left to write {disk.path}/tiny/" in line
        assert f"/{file}: make room there, and the same command goes on" in line
    assert scratch_files(disk.path) == []

    disk.resize("1m")
    result = lrbs(*arguments, "--out", disk.path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert ends(disk.path) == whole


@pytest.mark.slow
def test_a_disk_that_is_full_from_the_start_is_one_line_and_exit_code_2(disk, tmp_path):
    disk.fill()
    result = lrbs("run", write_sweep(tmp_path / "tiny.py", 1, seeds=1), "--offline", "--out", disk.path, cwd=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"lrbs: [Errno 28] no space left to write {disk.path}/tiny/")


def test_scratch_files_of_killed_writers_are_cleared_by_the_one_who_holds_the_journal(tmp_path):
    left, others = tmp_path / ".checkpoint.pt.1", tmp_path / "checkpoint.pt"
    others.touch()
    with Journal(tmp_path / "journal.jsonl"):
        left.touch()
        with pytest.raises(BlockingIOError):
            Journal(tmp_path / "journal.jsonl")
        assert left.exists()
    with Journal(tmp_path / "journal.jsonl"):
        assert (left.exists(), others.exists()) == (False, True)
