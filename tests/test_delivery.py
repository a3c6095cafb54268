"""Delivery of what is not well: runs that ended elsewhere, folders of others, experiments deleted, runs of others."""

import time
from contextlib import closing
from pathlib import Path

import pytest
from made import made_row, made_run, made_spec
from mlflow import MlflowClient

from lrbs_core import store, tracking
from lrbs_core.commands import launching
from lrbs_core.commands.launching import Launch
from lrbs_core.commands.sync import sync
from lrbs_core.journal import METRICS, RunFolder
from lrbs_core.search_launch import find_launch

SEARCH = {
    "sweep": "made", "search": "0123", "objectives": ["test_accuracy"], "seeds": 1, "rungs": [], "space": {},
    "sampler": {"name": "tpe"}, "judged_on": "test", "validation": 0,
}  # fmt: skip
ROWS = [made_row(1), made_row(2)]


@pytest.fixture(scope="module")
def migrated(tmp_path_factory) -> Path:
    """An empty SQLite store, made once: migrating takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    store.connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def client(migrated, tmp_path, monkeypatch) -> MlflowClient:
    (tmp_path / "mlflow.db").write_bytes(migrated.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return store.connect(None)


def deliver(client, *folders):
    """What could not be delivered, and why."""
    with closing(tracking.Delivery(client, folders)) as delivery:
        delivery.deliver()
        return delivery.late, delivery.error


def artifact(client, folder, name):
    run = store.children(client, folder.sweep)[folder.spec.key]
    return next(path for path in Path.cwd().rglob(name) if run.info.run_id in path.parts)


def test_a_run_that_has_ended_elsewhere_is_replaced_by_one_that_has_too_alone(client, tmp_path):
    spec, rows = made_spec(), [made_row(1, 50.0, time_ms=20)]
    there = made_run(tmp_path / "there", spec, ROWS)
    time.sleep(0.01)  # a journal is told from another by the millisecond of its start
    here = made_run(tmp_path / "here", spec, rows, status="running")
    assert deliver(client, there) == (0, "")
    late, error = deliver(client, here)
    assert (late, "seed=0 has ended elsewhere" in error) == (1, True)
    assert store.read(client, "made", [spec.key])[spec.key].rows == ROWS
    assert deliver(client, there) == (0, "")
    made_run(tmp_path / "here", spec, rows)
    assert deliver(client, here) == (0, "")
    assert store.read(client, "made", [spec.key])[spec.key].rows == rows


def test_a_delivery_that_is_over_lets_the_next_one_of_this_process_deliver(client, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "SECONDS_A_PASS", 0.02)
    first, second = (made_run(tmp_path / name, made_spec(seed=seed), ROWS) for seed, name in enumerate("aa"))
    with tracking.Delivery(client, [first]) as over:
        until = time.monotonic() + 20
        while not store.ended(client, "made"):  # which the thread tells, and so it has the lock
            assert time.monotonic() < until
            time.sleep(0.05)
    assert deliver(client, second) == (0, "")
    assert over.late == 0


def test_a_folder_in_which_no_lock_can_be_made_is_delivered_without(client, tmp_path):
    """A folder in the lock's place is what not even root can open; in another's folder that is an OSError too."""
    folder = made_run(tmp_path, made_spec(), ROWS)
    (folder.path.parent / ".delivery.lock").mkdir()
    assert deliver(client, folder) == (0, "")
    assert store.ended(client, "made").keys() == {folder.spec.key}


def test_a_journal_that_cannot_be_read_is_named_and_holds_up_no_other(client, tmp_path):
    bad, good = (made_run(tmp_path, made_spec(seed=seed), ROWS) for seed in range(2))
    bad.journal_path.unlink()
    bad.journal_path.mkdir()
    late, error = deliver(client, bad, good)
    assert (late, str(bad.journal_path) in error) == (0, True)
    assert store.ended(client, "made").keys() == {good.spec.key}


def test_a_deleted_experiment_is_brought_back_by_what_is_said(client, tmp_path):
    folder = made_run(tmp_path, made_spec(), ROWS)
    assert deliver(client, folder) == (0, "")
    experiment = client.get_experiment_by_name("made").experiment_id
    client.delete_experiment(experiment)
    mend = f"mlflow experiments restore -x {experiment}"
    late, error = deliver(client, folder)
    assert (late, mend in error) == (1, True)
    with pytest.raises(ValueError, match=mend):
        find_launch(client, SEARCH)
    client.restore_experiment(experiment)
    assert deliver(client, folder) == (0, "")
    assert find_launch(client, SEARCH)


# --- `lrbs sync`


@pytest.mark.parametrize("within", [".", "runs", "runs/made"])
def test_it_is_the_same_sweep_from_wherever_it_is_delivered(client, tmp_path, monkeypatch, capsys, within):
    folder = made_run(tmp_path / "runs", made_spec(), ROWS)
    RunFolder.create(tmp_path / "runs", "made", made_spec(seed=1))  # never begun, and so not delivered
    monkeypatch.chdir(tmp_path / within)
    sync(Path())
    assert capsys.readouterr().err == "1 run(s) delivered\n"
    assert store.ended(client, "made").keys() == {folder.spec.key}


def test_a_spec_that_cannot_be_read_is_named_and_the_others_are_delivered(client, tmp_path, capsys):
    bad, good = (made_run(tmp_path / "runs", made_spec(seed=seed), ROWS) for seed in range(2))
    (bad.path / "spec.json").write_text("{}")
    with pytest.raises(ValueError, match=r"1 run\(s\) cannot be read"):
        sync(tmp_path / "runs")
    passed, told = capsys.readouterr().err.splitlines()
    assert (passed.startswith(f"passed over: {bad.path}/spec.json: "), told) == (True, "1 run(s) delivered")
    assert store.ended(client, "made").keys() == {good.spec.key}


# --- What the store has of a run


@pytest.mark.parametrize("status", ["finished", "stopped"])
def test_a_run_in_the_store_that_ended_without_rows_is_refused(client, tmp_path, status):
    folder = made_run(tmp_path, made_spec(), ROWS, status=status)
    deliver(client, folder)
    artifact(client, folder, "rows.csv").write_text(",".join(["row", "time_ms", *METRICS]) + "\n")
    with pytest.raises(ValueError, match=r"rows of run \w+ cannot be read \(there are none\): `lrbs sync DIR`"):
        store.read(client, "made", [folder.spec.key])


def test_a_search_reads_of_the_runs_that_have_ended_those_it_asks_for(client, tmp_path):
    mine, others = (made_run(tmp_path / "there", made_spec(seed=seed), ROWS) for seed in range(2))
    assert deliver(client, mine, others) == (0, "")
    artifact(client, others, "rows.csv").unlink()
    with Launch(SEARCH, 2, tmp_path / "here", None, False) as launch:
        record = launch.stored(mine.spec)
        assert (record.status, record.rows) == ("finished", ROWS)
        assert launch.stored(mine.spec) is record
        assert launch.stored(made_spec(seed=2)) is None
        with pytest.raises(ValueError, match=r"rows of run \w+ cannot be read \(.*: `lrbs sync DIR` sends them again"):
            launch.stored(others.spec)


@pytest.mark.parametrize(
    ("uri", "where"),
    [
        ("http://me:secret@127.0.0.1:5000", "browse them at http://...@127.0.0.1:5000, experiment made"),
        ("sqlite:///mlflow.db", "browse them: mlflow ui --backend-store-uri sqlite:///mlflow.db, experiment made"),
    ],
)
def test_a_server_is_browsed_where_it_is_and_a_file_by_a_server_of_one_s_own(capsys, uri, where):
    launching._say_where(MlflowClient(uri), "made")
    assert capsys.readouterr().err == f"{where}\n"
