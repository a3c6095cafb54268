"""Runs through Ray Tune: a real cluster on this machine, real workers, real kills."""

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from made import command, journal_rows, kill_at_row, lrbs, made_spec, unclocked, write_sweep
from mlflow import MlflowClient
from servers import wait_until

from lrbs_core.cluster import _Telling, run_on_ray
from lrbs_core.journal import METRICS, RunFolder
from lrbs_core.specs import Machine

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]
EPOCHS = 8
# Has Ray miss a node that is killed after seconds.
MISSED_SOON = {
    "RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "4",
}  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The rows of the sweep run one after another in one process."""
    folder = tmp_path_factory.mktemp("serial")
    result = lrbs("run", write_sweep(folder / "tiny.py", EPOCHS, seeds=1), "--offline", cwd=folder)
    assert result.returncode == 0, result.stderr
    return {key: unclocked(rows) for key, rows in journal_rows(folder).items()}


def check(folder, undisturbed):
    """Every row as in the undisturbed run; one MLflow run a key, each point once, one parent."""
    told = journal_rows(folder)
    assert {key: unclocked(rows) for key, rows in told.items()} == undisturbed
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    children = [run for run in runs if "lrbs.key" in run.data.tags]
    assert Counter(run.data.tags["lrbs.key"] for run in children) == Counter(list(undisturbed))
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(runs) - len(children) == 1
    for run in children:
        history = [
            (name, p.step, p.timestamp) for name in METRICS for p in client.get_metric_history(run.info.run_id, name)
        ]
        rows = told[run.data.tags["lrbs.key"]]
        assert sorted(history) == sorted((name, row["row"], row["time_ms"]) for row in rows for name in METRICS)


def test_ray_trains_bit_for_bit_what_one_process_does(undisturbed, tmp_path):
    result = lrbs("run", write_sweep(tmp_path / "tiny.py", EPOCHS, seeds=1), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    check(tmp_path, undisturbed)
    assert "growing" in result.stdout
    assert "ray" not in result.stdout.lower()


def test_a_killed_driver_is_gone_on_from(undisturbed, tmp_path):
    arguments = ["run", write_sweep(tmp_path / "tiny.py", EPOCHS, seeds=1), "--checkpoint-seconds", 0.2]
    kill_at_row(5, arguments, cwd=tmp_path)
    result = lrbs(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    check(tmp_path, undisturbed)


def test_a_killed_worker_is_started_again(undisturbed, tmp_path):
    with at_rows(4, tmp_path) as (process, _):
        killed = [pid for pid in holders(tmp_path) if not os.kill(pid, signal.SIGKILL)]
        shown, complaints = process.communicate(timeout=200)
    assert killed
    assert process.returncode == 0, complaints
    assert complaints.count(" seed=0: lost its worker (The actor died unexpectedly") == len(killed)
    assert complaints.count("; it goes on from its checkpoint\n") == len(killed)
    assert "Traceback" not in complaints
    assert shown.startswith("tiny\n"), "what Ray says does not mix with the tables"
    check(tmp_path, undisturbed)


def test_without_its_raylet_the_command_ends_and_given_again_goes_on(undisturbed, tmp_path):
    with at_rows(4, tmp_path) as (process, arguments):
        (raylet,) = (
            child for child in psutil.Process(process.pid).children(recursive=True) if child.name() == "raylet"
        )
        raylet.kill()
        for worker in holders(tmp_path):  # which might else come to their end before they miss it
            os.kill(worker, signal.SIGKILL)
        _, complaints = process.communicate(timeout=200)
    assert process.returncode == 1, complaints
    assert "2 run(s) not at their end" in complaints
    assert "Traceback" not in complaints
    assert len(complaints.splitlines()) < 12, complaints
    result = lrbs(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    check(tmp_path, undisturbed)


@contextmanager
def at_rows(rows: int, folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[object]]]:
    """The command in a process of its own, once the journals hold so many rows; and its arguments."""
    arguments = ["run", write_sweep(folder / "tiny.py", EPOCHS, seeds=1), "--checkpoint-seconds", 0.2]
    process = subprocess.Popen(
        command(*arguments), cwd=folder, env=os.environ | MISSED_SOON,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        try:
            wait_until(lambda: sum(map(len, journal_rows(folder).values())) >= rows)
            yield process, arguments
        finally:
            process.kill()


def holders(folder: Path) -> list[int]:
    """Processes that have a journal below the folder open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = [str(handle.readlink()) for handle in (process / "fd").iterdir()]
        except OSError:
            continue
        if any(name.startswith(str(folder)) and name.endswith("journal.jsonl") for name in files):
            found.append(int(process.name))
    return found


def test_an_unreachable_cluster_is_one_line(tmp_path):
    result = lrbs("run", write_sweep(tmp_path / "tiny.py", 1, seeds=1), "--address", "127.0.0.1:9", cwd=tmp_path)
    assert result.returncode == 2
    assert "Ray cluster 127.0.0.1:9 cannot be reached" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_cluster_of_another_python_is_one_line(monkeypatch):
    import ray

    def differ(**_):
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.12.1\n")

    monkeypatch.setattr(ray, "init", differ)
    with pytest.raises(ValueError, match=r"cannot be joined: Version mismatch: .* Ray: 2\.60\.0 Python: 3\.12\.1$"):
        run_on_ray([made_spec()], Machine())


def test_of_a_run_that_could_not_begin_the_reason_is_told(tmp_path, caplog):
    from ray import cloudpickle
    from ray.exceptions import RayTaskError

    error = RayTaskError("train", "Traceback", ModuleNotFoundError("No module named 'torch'"))
    (tmp_path / "error").write_bytes(cloudpickle.dumps(error))
    folder = RunFolder.create(tmp_path, "made", made_spec())
    trial = SimpleNamespace(config={"folder": str(folder.path)}, pickled_error_file=str(tmp_path / "error"))
    _Telling().on_trial_error(1, [], trial)
    assert caplog.messages[0].startswith("decaying seed=0: lost its worker (No module named 'torch'); it is left")
