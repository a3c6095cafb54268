"""Nothing lost: what a stop with notice, a kill at any moment, a full disk or a longer sweep leave of the runs."""

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from made import (
    checkpoint_bits,
    command,
    ends,
    finish,
    journal_rows,
    lrbs,
    made_data,
    noise_spec,
    scratch_files,
    start,
    unclocked,
    write_sweep,
)
from servers import POINTS, RUNS

from lrbs_core import preemption
from lrbs_core.journal import METRICS, Reader, RunFolder
from lrbs_core.sweeping import run

slow, ray = pytest.mark.slow, pytest.mark.xdist_group("ray")
EPOCHS = 16
ALONE = ("--checkpoint-seconds", 1e6)  # no checkpoint of itself but the last
TOLD = "lrbs: told to stop (SIGTERM): what was running is kept, and the same command goes on from here"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    result = lrbs("run", write_sweep(folder / "tiny.py", EPOCHS, seeds=1), "--offline", cwd=folder)
    assert result.returncode == 0, result.stderr
    return ends(folder / "lrbs-runs"), time.monotonic() - began


def check(folder, undisturbed):
    """As the undisturbed runs; and one MLflow run a key, with each point once, in one launch."""
    assert ends(folder / "lrbs-runs") == undisturbed[0]
    assert scratch_files(folder / "lrbs-runs") == []
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        points, runs = (database.execute(sql.format("tiny")).fetchall() for sql in (POINTS, RUNS))
    rows = journal_rows(folder)
    assert Counter(points) == Counter(
        (key, name, row["row"], row["time_ms"], row[name]) for key in rows for row in rows[key] for name in METRICS
    )
    assert Counter(key for *_, key in runs) == Counter([*rows, None])
    assert {run[:2] for run in runs} == {("active", "FINISHED")}


class Command:
    """The command as a process; it may be waited for until so many rows are journalled."""

    def __init__(self, *arguments, cwd):
        self.cwd = cwd
        self.process = subprocess.Popen(
            command(*arguments), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def at_rows(self, rows):
        until = time.monotonic() + 200
        while sum(map(len, journal_rows(self.cwd).values())) < rows:
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < until
            time.sleep(0.02)

    def ended(self):
        shown, said = self.process.communicate(timeout=200)
        return self.process.returncode, shown, said


def test_notice_is_waited_for_by_who_looks_at_it_and_else_raised_once():
    code = """if True:
        import os, signal
        from lrbs_core.preemption import Preempted, awaited, given, heed
        def tell(): os.kill(os.getpid(), signal.SIGTERM)
        heed()
        with awaited():
            print(given.is_set()); tell(); print(given.is_set()); given.clear()
        for _ in range(2):
            try: tell()
            except Preempted: print("raised")
        try:
            with awaited(): print("not reached")
        except Preempted: print("begun too late")
        """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split("\n")[:-1] == ["False", "True", "raised", "begun too late"], result.stderr


@pytest.mark.parametrize("updates", [1, 2, 3, 5])
def test_a_run_that_is_told_to_stop_writes_a_checkpoint_after_its_update_and_goes_on_to_the_same_bits(
    tmp_path, monkeypatch, updates
):
    """Updates of 40, 40 and 20 examples an epoch, so that 1, 2 and 5 lie within one and 3 at its end."""
    spec, data = noise_spec(), made_data()
    unbroken, _ = finish(start(spec, tmp_path / "unbroken.pt", data=data))
    folder, looks = RunFolder.create(tmp_path, "made", spec), iter([*[False] * updates, True])  # the first: at all?
    with monkeypatch.context() as patch, pytest.raises(preemption.Preempted):  # noqa: PT012
        patch.setattr(preemption.given, "is_set", lambda: next(looks))
        list(run(folder, lambda *what: start(*what, data=data)))
    assert Reader(folder.journal_path).poll().status == "running"
    assert checkpoint_bits(folder.checkpoint_path)["updates"] == updates
    list(run(folder, lambda *what: start(*what, data=data)))
    reader = Reader(folder.journal_path).poll()
    assert (unclocked(reader.rows), reader.status) == (unclocked(unbroken), "finished")
    assert checkpoint_bits(folder.checkpoint_path) == checkpoint_bits(tmp_path / "unbroken.pt")


@slow
@pytest.mark.parametrize("how", ["--serial", pytest.param("ray", marks=ray)])
def test_sigterm_ends_the_command_with_143_and_the_same_command_goes_on(undisturbed, tmp_path, how):
    arguments = ("run", write_sweep(tmp_path / "tiny.py", EPOCHS, seeds=1), *ALONE, *([] if how == "ray" else [how]))
    lrbs_run = Command(*arguments, cwd=tmp_path)
    lrbs_run.at_rows(4)
    lrbs_run.process.terminate()
    code, _, said = lrbs_run.ended()
    assert (code, said.splitlines()[-1]) == (143, TOLD)
    assert "Traceback" not in said
    stopped = [bits for _, bits in ends(tmp_path / "lrbs-runs").values()]
    assert sum(len(bits["rows"]) for bits in stopped) == sum(map(len, journal_rows(tmp_path).values())) >= 4
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        told = database.execute(POINTS.format("tiny")).fetchall()
    assert len(told) == len(METRICS) * sum(len(bits["rows"]) for bits in stopped)
    result = lrbs(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    check(tmp_path, undisturbed)


@slow
@ray
def test_a_ray_worker_that_gets_sigterm_leaves_a_checkpoint_and_another_goes_on(undisturbed, tmp_path):
    lrbs_run = Command("run", write_sweep(tmp_path / "tiny.py", EPOCHS, seeds=1), *ALONE, cwd=tmp_path)
    lrbs_run.at_rows(4)
    (journal, pid) = next(writers(tmp_path))
    os.kill(pid, signal.SIGTERM)
    while next((other for path, other in writers(tmp_path) if path == journal), 0) in (pid, 0):
        assert lrbs_run.process.poll() is None
        time.sleep(0.02)
    assert journal.with_name("checkpoint.pt").exists()
    assert Counter(journal.read_text().split('"'))["running"] == 2  # begun, and gone on with
    code, _, said = lrbs_run.ended()
    assert code == 0, said
    check(tmp_path, undisturbed)


def writers(folder):
    """(journal, process) of every journal below the folder that a process has open."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = [handle.readlink() for handle in (process / "fd").iterdir()]
        except OSError:
            continue
        yield from (
            (path, int(process.name)) for path in files if path.name == "journal.jsonl" and folder in path.parents
        )


@slow
def test_killed_at_five_random_moments_it_ends_as_if_never_killed(undisturbed, tmp_path):
    chance = random.Random(seed := random.randrange(10**6))
    print(f"seed {seed}")
    arguments = ("run", write_sweep(tmp_path / "tiny.py", EPOCHS, seeds=1), "--serial", "--checkpoint-seconds", 0.2)
    for _ in range(5):
        lrbs_run = Command(*arguments, cwd=tmp_path)
        try:
            lrbs_run.process.wait(chance.uniform(0, undisturbed[1]))
        except subprocess.TimeoutExpired:
            os.killpg(lrbs_run.process.pid, signal.SIGKILL)
        lrbs_run.ended()
    result = lrbs(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    check(tmp_path, undisturbed)


@slow
def test_of_a_sweep_that_has_grown_only_what_is_new_is_run(tmp_path):
    def launched(runs, left):
        files = {path: path.read_bytes() for path in (tmp_path / "lrbs-runs").rglob("*.*")}
        result = lrbs("run", sweep, "--offline", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert f"tiny: {runs} runs, {left} to do" in result.stderr
        assert {path: path.read_bytes() for path in files} == files
        return journal_rows(tmp_path).keys()

    sweep = write_sweep(tmp_path / "tiny.py", epochs=1, seeds=1)
    first = launched(2, 2)
    write_sweep(sweep, epochs=1, seeds=2)
    assert len(launched(4, 2)) == 4
    sweep.write_text(
        sweep.read_text().replace("baseline.grow_batch())", "baseline.grow_batch()), ('held', baseline.scale(2))")
    )
    assert len(launched(6, 2)) == 6
    # Longer runs are other runs, by their keys: the short ones stay beside them.
    write_sweep(sweep, epochs=2, seeds=1)
    assert len(launched(2, 2)) == 8
    write_sweep(sweep, epochs=1, seeds=1)
    assert first <= launched(2, 0)


def test_every_promise_of_the_readme_names_a_test_or_program_that_there_is():
    root = Path(__file__).parents[1]
    promised = (root / "README.md").read_text().partition("## Nothing lost")[2].partition("\n## ")[0]
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", promised)
    assert len(named) == promised.count("\n| ") - 1, "a line of the table names none"
    for path, test in named:
        assert not test or f"def {test}(" in (root / path).read_text(), test
        assert (root / path).exists()
