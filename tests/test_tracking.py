import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from made import made_row, made_run, made_spec
from mlflow import MlflowClient
from mlflow.entities import ViewType

from lrbs_core import store, tracking
from lrbs_core.journal import MEASURED, METRICS, NOISE_SUMS, VALIDATED, Journal


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A real MLflow server with a store of its own."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", "--backend-store-uri",
               f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    uri = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            store.connect(uri)
            break
        except ValueError:
            time.sleep(0.1)
    yield uri
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def migrated(tmp_path_factory) -> Path:
    """An empty SQLite store, made once: migrating takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    store.connect(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite", pytest.param("server", marks=pytest.mark.xdist_group("server"))])
def client(request, tmp_path, monkeypatch) -> MlflowClient:
    if request.param == "server":
        return store.connect(request.getfixturevalue("server"))
    (tmp_path / "mlflow.db").write_bytes(request.getfixturevalue("migrated").read_bytes())
    monkeypatch.chdir(tmp_path)
    return store.connect(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def sweep(request) -> str:
    """A name of its own for each test's experiment: the server's store is shared."""
    return request.node.name


def deliver(client, *folders):
    delivery = tracking.Delivery(client, folders)
    delivery.deliver()
    assert delivery.error == ""
    delivery.close()
    return delivery


def children(client, sweep):
    experiment = client.get_experiment_by_name(sweep)
    runs = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
    return [run for run in runs if "lrbs.key" in run.data.tags]


def points(client, run):
    return [
        (name, point.step, point.timestamp, point.value)
        for name in METRICS
        for point in client.get_metric_history(run.info.run_id, name)
    ]


def test_a_run_is_told_as_the_design_says(client, sweep, tmp_path):
    rows = [made_row(1, 80.0), made_row(2, 85.5)]
    folder = made_run(tmp_path, made_spec(seed=3), rows, sweep=sweep)
    deliver(client, folder)

    (run,) = children(client, sweep)
    assert run.info.run_name == "decaying seed=3"
    assert run.info.status == "FINISHED"
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("lrbs.")}
    assert tags.pop("lrbs.started_ms").isdigit()
    assert tags == {
        "lrbs.key": folder.spec.key, "lrbs.sweep": sweep, "lrbs.policy": "decaying", "lrbs.seed": "3",
        "lrbs.status": "finished", "lrbs.machine": "an abacus", "lrbs.overrides": "",
    }  # fmt: skip
    assert run.data.params["policy.lr"] == "0.1"
    assert run.data.params["dataset"] == "digits"
    assert {artifact.path for artifact in client.list_artifacts(run.info.run_id)} == {
        "spec.json",
        "plan.csv",
        "rows.csv",
    }
    assert sorted(points(client, run)) == sorted(
        (name, row["row"], row["time_ms"], row[name]) for row in rows for name in METRICS
    )
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["lrbs.sweep"] == sweep


def test_delivering_again_adds_nothing(client, sweep, tmp_path):
    folders = [
        made_run(tmp_path, made_spec(seed=seed), [made_row(n) for n in (1, 2, 3)], sweep=sweep) for seed in (0, 1)
    ]
    for _ in range(3):
        deliver(client, *folders)
    runs = children(client, sweep)
    assert Counter(run.data.tags["lrbs.key"] for run in runs) == Counter(folder.spec.key for folder in folders)
    for run in runs:
        told = points(client, run)
        assert len(told) == len(set(told)) == 3 * len(METRICS)
    assert len({run.data.tags["mlflow.parentRunId"] for run in runs}) == 1


def test_a_run_that_goes_on_stays_one_run(client, sweep, tmp_path):
    spec = made_spec()
    deliver(client, made_run(tmp_path, spec, [made_row(1)], status="running", sweep=sweep))
    (run,) = children(client, sweep)
    assert run.info.status == "RUNNING"
    assert store.ended(client, sweep) == {}

    deliver(client, made_run(tmp_path, spec, [made_row(1), made_row(2), made_row(3)], sweep=sweep))
    (again,) = children(client, sweep)
    assert again.info.run_id == run.info.run_id
    assert again.info.status == "FINISHED"
    assert sorted({step for _, step, _, _ in points(client, again)}) == [1, 2, 3]
    assert store.ended(client, sweep).keys() == {spec.key}


def test_a_failed_run_says_why_and_may_succeed_later(client, sweep, tmp_path):
    spec = made_spec()
    deliver(client, made_run(tmp_path, spec, [made_row(1)], status="failed", sweep=sweep))
    (run,) = children(client, sweep)
    assert run.info.status == "FAILED"
    assert "OSError: out of paper" in run.data.tags["lrbs.error"]

    deliver(client, made_run(tmp_path, spec, [made_row(1), made_row(2)], sweep=sweep))
    (run,) = children(client, sweep)
    assert (run.info.status, run.data.tags["lrbs.status"]) == ("FINISHED", "finished")


def test_a_run_begun_anew_does_not_mix_with_the_old_points(client, sweep, tmp_path):
    deliver(client, made_run(tmp_path / "lost", made_spec(), [made_row(1, time_ms=10)], status="running", sweep=sweep))
    time.sleep(0.01)  # a journal is told from another by the millisecond of its start
    deliver(client, made_run(tmp_path / "new", made_spec(), [made_row(1, time_ms=20)], sweep=sweep))
    active = [run for run in children(client, sweep) if run.info.lifecycle_stage == "active"]
    (run,) = active
    assert {stamp for _, _, stamp, _ in points(client, run)} == {20}


def test_what_is_read_back_is_what_was_journalled(client, sweep, tmp_path):
    rows = [made_row(1, 1 / 3), made_row(2, 98.7654321)]
    ended, running = made_spec(seed=0), made_spec(seed=1)
    deliver(
        client,
        made_run(tmp_path, ended, rows, status="diverged", sweep=sweep),
        made_run(tmp_path, running, rows, status="running", sweep=sweep),
    )
    records = store.read(client, sweep, [ended.key, running.key, "no such key"])
    assert records.keys() == {ended.key, running.key}
    assert records[ended.key].status == "diverged"
    assert records[running.key].status == "running"
    assert records[ended.key].rows == records[running.key].rows == rows


def test_a_thousand_points_and_more_arrive(client, sweep, tmp_path):
    rows = [made_row(number) for number in range(1, 201)]
    deliver(client, made_run(tmp_path, made_spec(), rows, sweep=sweep))
    (run,) = children(client, sweep)
    assert Counter(points(client, run)) == Counter(
        (name, row["row"], row["time_ms"], row[name]) for row in rows for name in METRICS
    )


def test_nan_is_kept(client, sweep, tmp_path):
    row = made_row(1) | {"train_loss": float("nan")}
    deliver(client, made_run(tmp_path, made_spec(), [row], status="diverged", sweep=sweep))
    (point,) = client.get_metric_history(children(client, sweep)[0].info.run_id, "train_loss")
    assert point.value != point.value


@pytest.mark.parametrize("client", ["sqlite"], indirect=True)
def test_a_store_that_is_away_costs_only_lateness(client, sweep, tmp_path, monkeypatch):
    folder = made_run(tmp_path, made_spec(), [made_row(1)], sweep=sweep)
    delivery = tracking.Delivery(client, [folder])
    with monkeypatch.context() as away:
        for call in ("log_batch", "search_experiments"):
            away.setattr(client, call, lambda *_, **__: (_ for _ in ()).throw(ConnectionError("gone fishing")))
        delivery.deliver()
        assert (delivery.late, delivery.error) == (1, "gone fishing")
    delivery.deliver()
    assert (delivery.late, delivery.error) == (0, "")
    (run,) = children(client, sweep)
    assert len(points(client, run)) == len(METRICS)
    assert run.data.params["dataset"] == "digits"
    assert {artifact.path for artifact in client.list_artifacts(run.info.run_id)} >= {"spec.json", "plan.csv"}


@pytest.mark.parametrize("client", ["sqlite"], indirect=True)
def test_of_two_who_deliver_at_once_one_waits(client, sweep, tmp_path):
    folder = made_run(tmp_path, made_spec(), [made_row(1)], sweep=sweep)
    first, second = tracking.Delivery(client, [folder]), tracking.Delivery(client, [folder])
    first.deliver()
    second.deliver()
    assert (first.late, second.late) == (0, 1)
    assert second.error == "another lrbs process delivers this sweep"
    first.close()
    second.deliver()
    assert second.late == 0
    assert len(children(client, sweep)) == 1


@pytest.mark.parametrize("client", ["sqlite"], indirect=True)
def test_the_thread_delivers_while_a_run_goes_on(client, sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "SECONDS_A_PASS", 0.02)
    folder = made_run(tmp_path, made_spec(), [made_row(1)], status="running", sweep=sweep)
    with tracking.Delivery(client, [folder]), Journal(folder.journal_path) as journal:
        for number in (2, 3):
            journal.append(made_row(number))
            until = time.monotonic() + 20
            while len(store.read(client, sweep, [folder.spec.key]).get(folder.spec.key, ("", "", "", []))[3]) < number:
                assert time.monotonic() < until, "the row never came"
                time.sleep(0.05)
        journal.set_status("finished")
    assert children(client, sweep)[0].info.status == "FINISHED"


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("http://user:secret@127.0.0.1:9", "http://...@127.0.0.1:9 cannot be reached"),
        ("sqlite:////dev/null/mlflow.db", "cannot be reached"),
        ("gopher://nowhere", "cannot be reached"),
    ],
)
def test_an_unreachable_store_is_one_line_without_the_password(uri, says, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ValueError, match="cannot be reached") as error:
        store.connect(uri)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("status", ["finished", "running"])
@pytest.mark.parametrize("names", [(*MEASURED, *NOISE_SUMS), VALIDATED])
def test_what_only_some_rows_hold_is_told_and_read_back_where_a_row_has_it(client, sweep, tmp_path, names, status):
    rows = [made_row(1), made_row(2) | dict.fromkeys(names, 7.5)]  # measured from the second row on
    folder = made_run(tmp_path, made_spec(), rows, status=status, sweep=sweep)
    deliver(client, folder)
    (run,) = children(client, sweep)
    told = client.get_metric_history(run.info.run_id, names[0])
    assert [(point.step, point.value) for point in told] == [(2, 7.5)]
    assert not client.get_metric_history(run.info.run_id, "noise_x")
    # While a run goes on, its histories are all there is to read.
    expected = (
        rows if status == "finished" else [rows[0], {name: rows[1][name] for name in rows[1] if name not in NOISE_SUMS}]
    )
    assert store.read(client, sweep, [folder.spec.key])[folder.spec.key].rows == expected
