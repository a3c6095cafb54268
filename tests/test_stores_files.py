"""Real stores of files: SQLite with several writers, artifacts in a folder and in S3, and a server that is away."""

import csv
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from made import command, journal_rows, lrbs, made_row, made_run, made_spec, unclocked, write_sweep
from servers import POINTS, RUNS, Server, answers, free_port, mlflow, together

from lrbs_core import store
from lrbs_core.journal import METRICS

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("stores")]


@pytest.fixture(scope="module")
def bucket():
    """A bucket of a real S3 server, and what its clients need to know."""
    port = free_port()
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    uri = f"http://127.0.0.1:{port}"
    with (
        Server([sys.executable, "-m", "moto.server", "-p", port], answers(f"{uri}/moto-api/")),
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in keys.items():
            patch.setenv(name, value)
        import boto3

        client = boto3.client("s3", endpoint_url=uri)
        client.create_bucket(Bucket="lrbs")
        yield client, keys | {"MLFLOW_S3_ENDPOINT_URL": uri}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    server, uri = mlflow(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"))
    with server:
        yield server, uri, folder / "artifacts"


@pytest.fixture(scope="module")
def s3_server(bucket, tmp_path_factory):
    server, uri = mlflow(f"sqlite:///{tmp_path_factory.mktemp('s3')}/mlflow.db", "s3://lrbs/artifacts", **bucket[1])
    with server:
        yield server, uri, bucket[0]


def held(place, run_id):
    """The names of what an artifact store holds of a run."""
    if isinstance(place, Path):
        return sorted(path.name for path in place.glob(f"*/{run_id}/artifacts/*"))
    paths = [Path(item["Key"]) for item in place.list_objects_v2(Bucket="lrbs")["Contents"]]
    return sorted(path.name for path in paths if run_id in path.parts)


@pytest.mark.parametrize("kind", ["server", "s3_server"], ids=["folder", "s3"])
def test_artifacts_go_through_the_server_and_come_back(kind, request, tmp_path):
    """The one who delivers needs no keys of the store behind the server."""
    _, uri, place = request.getfixturevalue(kind)
    rows = [made_row(1, 1 / 3), made_row(2, 98.7654321)]
    folder = made_run(tmp_path, made_spec(), rows, sweep="artifacts")
    synced = lrbs("sync", tmp_path, "--tracking-uri", uri, cwd=tmp_path, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    assert synced.returncode == 0, synced.stderr

    client = store.connect(uri)
    record = store.read(client, "artifacts", [folder.spec.key])[folder.spec.key]
    assert (record.status, record.machine, record.rows) == ("finished", "an abacus", rows)
    experiment = client.get_experiment_by_name("artifacts").experiment_id
    (run,) = client.search_runs([experiment], "tags.`lrbs.status` = 'finished'")
    assert held(place, run.info.run_id) == ["plan.csv", "rows.csv", "spec.json"]
    spec, plan = (
        Path(client.download_artifacts(run.info.run_id, name, tmp_path)).read_text()
        for name in ("spec.json", "plan.csv")
    )
    assert json.loads(spec) == json.loads((folder.path / "spec.json").read_text())
    assert [float(phase["lr"]) for phase in csv.DictReader(plan.splitlines())] == [0.1]


def test_four_writers_of_one_sqlite_store(tmp_path):
    """None there yet, so that all want to make it; two of them run what the other two deliver."""
    root = tmp_path / "lrbs-runs"
    for seed in range(6):
        rows = [made_row(number) for number in range(1, 151)]
        made_run(root, made_spec(seed=seed), rows, sweep="one" if seed < 3 else "two")
    sweep = write_sweep(tmp_path / "tiny.py", epochs=2, seeds=1)
    commands = [("sync", root), ("sync", root / "two"), ("run", sweep, "--serial"), ("run", sweep, "--serial")]
    for code, said in together(*commands, cwd=tmp_path):
        assert "locked" not in said
        assert "Traceback" not in said
        assert code == 0 or "another" in said, said  # process has this run, or delivers this sweep
    last = lrbs("sync", root, cwd=tmp_path)
    assert last.returncode == 0, last.stderr

    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        points, runs = (database.execute(sql.format("%")).fetchall() for sql in (POINTS, RUNS))
    rows = journal_rows(tmp_path)
    assert len(rows) == 6 + 2
    assert Counter(points) == Counter(
        (key, name, row["row"], row["time_ms"], row[name]) for key in rows for row in rows[key] for name in METRICS
    )
    assert Counter(key for *_, key in runs if key) == Counter(rows.keys())
    assert {run[:2] for run in runs} == {("active", "FINISHED")}


def test_a_server_away_for_a_whole_run_costs_only_lateness(server, tmp_path):
    there, uri, _ = server
    sweep = write_sweep(tmp_path / "away.py", epochs=2, seeds=1)
    process = subprocess.Popen(
        command("run", sweep, "--serial", "--tracking-uri", uri),
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr.readline() == "away: 2 runs, 2 to do\n"
    there.end(signal.SIGKILL)
    shown, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "run `lrbs sync lrbs-runs` later" in said
    assert "decaying" in shown

    whole = lrbs("run", sweep, "--offline", "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    ran, alike = journal_rows(tmp_path / "lrbs-runs"), journal_rows(tmp_path / "whole")
    assert {key: unclocked(rows) for key, rows in ran.items()} == {key: unclocked(alike[key]) for key in alike}

    elsewhere = (tmp_path / "lrbs-runs").rename(tmp_path / "from the cluster")
    there.start()
    synced = lrbs("sync", ".", "--tracking-uri", uri, cwd=elsewhere)
    assert (synced.returncode, synced.stderr) == (0, "2 run(s) delivered\n")
    records = store.read(store.connect(uri), "away", ran)
    assert {key: record.rows for key, record in records.items()} == ran


def test_an_old_copy_found_again_does_not_replace_the_run_begun_anew(server, tmp_path):
    _, uri, _ = server
    spec, rows = made_spec(), [made_row(number, time_ms=20) for number in (1, 2, 3)]
    old = made_run(tmp_path / "old", spec, [made_row(1, time_ms=10)], status="running", sweep="anew")
    time.sleep(0.01)  # a journal is told from another by the millisecond of its start
    made_run(tmp_path / "new", spec, rows, sweep="anew")
    for folder, code in (("new", 0), ("old", 2), ("new", 0)):
        synced = lrbs("sync", folder, "--tracking-uri", uri, cwd=tmp_path)
        assert synced.returncode == code, synced.stderr
        assert ("begun anew" in synced.stderr) == (code == 2)
        record = store.read(store.connect(uri), "anew", [spec.key])[old.spec.key]
        assert (record.status, record.rows) == ("finished", rows)
