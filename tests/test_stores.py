"""Real stores: PostgreSQL behind a server, SQLite, an S3 store; deliveries at once, servers killed, answers lost."""

import os
import shutil
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from made import made_row, made_run, made_spec
from servers import POINTS, RUNS, Forgetful, mlflow, postgres, postgres_folder, together, wait_until

from lrbs_core import store, tracking
from lrbs_core.journal import METRICS, Reader

LET_GO = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("stores")]


@pytest.fixture(scope="module")
def database():
    if postgres_folder() is None:
        pytest.skip("needs PostgreSQL's initdb and postgres")
    with postgres() as both:
        yield both


@pytest.fixture(scope="module")
def server(database, tmp_path_factory):
    server, uri = mlflow(database[1].replace(":", "+psycopg2:", 1), tmp_path_factory.mktemp("artifacts"))
    with server:
        yield server, uri


@pytest.fixture
def ask(database):
    """SQL to the server's database, with the name of a sweep put in."""
    import psycopg2

    def ask(sql, sweep=""):
        with closing(psycopg2.connect(database[1])) as connection, connection, connection.cursor() as cursor:
            cursor.execute(sql.format(sweep))
            return cursor.fetchall() if cursor.description else []

    return ask


@pytest.fixture
def sweep(request):
    return request.node.name.replace("[", "_").rstrip("]")


@pytest.fixture(autouse=True)
def no_disk(monkeypatch):
    """Made-up journals need not outlive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def made_runs(root, sweep, seeds, count):
    rows = [made_row(number) for number in range(1, count + 1)]
    return [made_run(root, made_spec(seed=seed), rows, sweep=sweep) for seed in seeds]


def journalled(*folders):
    """What a store must hold of these runs: every point once."""
    return Counter(
        (folder.spec.key, name, row["row"], row["time_ms"], row[name])
        for folder in folders
        for row in Reader(folder.journal_path).poll().rows
        for name in METRICS
    )


def runs_of(ask, sweep, stages=("active", "deleted")):
    """How many MLflow runs have each key, and what became of them; those without one are launches."""
    return Counter(run for run in ask(RUNS, sweep) if run[0] in stages)


def all_finished(folders, launches=1):
    return Counter({("active", "FINISHED", folder.spec.key): 1 for folder in folders}) + Counter(
        {("active", "FINISHED", None): launches}
    )


def test_eight_deliver_100_000_points_at_once(server, ask, tmp_path):
    """Each a sweep of its own, and a share of one that all of them have to make first."""
    machines = [
        (made_runs(tmp_path / str(n), "a-shared", [n], 240), made_runs(tmp_path / str(n), f"own-{n}", range(3), 241))
        for n in range(8)
    ]
    syncs = [("sync", tmp_path / str(n), "--tracking-uri", server[1]) for n in range(8)]
    for code, said in together(*syncs, cwd=tmp_path):
        assert (code, said) == (0, "4 run(s) delivered\n")
    sweeps = {f"own-{n}": own for n, (_, own) in enumerate(machines)}
    sweeps["a-shared"] = [folder for shared, _ in machines for folder in shared]
    total = 0
    for name, folders in sweeps.items():
        stored = Counter(ask(POINTS, name))
        assert stored == journalled(*folders)
        total += stored.total()
        assert runs_of(ask, name) == all_finished(folders, launches=8 if name == "a-shared" else 1)
    assert total == 13 * (8 * 240 + 24 * 241) > 100_000


def test_copies_of_one_folder_delivered_at_once_make_no_run_twice(server, ask, sweep, tmp_path):
    folders = made_runs(tmp_path / "0", sweep, range(6), 4)
    for copy in "123":
        shutil.copytree(tmp_path / "0", tmp_path / copy)
    syncs = [("sync", tmp_path / copy, "--tracking-uri", server[1]) for copy in "0123"]
    together(*syncs, cwd=tmp_path)
    assert together(syncs[0], cwd=tmp_path) == [(0, "6 run(s) delivered\n")]
    assert Counter(ask(POINTS, sweep)) == journalled(*folders)
    runs = runs_of(ask, sweep, stages=["active"])
    # A launch whose every run was made elsewhere too is left without any.
    assert Counter({run: n for run, n in runs.items() if run[2]}) == all_finished(folders, launches=0)


@pytest.fixture
def stuck(ask):
    """The insert of any row 120 waits, with a part of its batch done, until `LET_GO`."""
    ask("""CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END';
           CREATE TRIGGER wait BEFORE INSERT ON metrics FOR EACH ROW WHEN (NEW.step = 120) EXECUTE FUNCTION wait()""")
    with ThreadPoolExecutor() as pool:
        pool.submit(ask, "SELECT pg_advisory_lock(1), pg_sleep(600)")
        wait_until(lambda: ask("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted"))
        yield lambda: ask("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        ask(LET_GO)
    ask("DROP FUNCTION wait CASCADE")


@pytest.mark.parametrize("victim", ["server", "database"])
def test_killed_in_the_middle_of_a_batch(victim, request, server, ask, stuck, sweep, tmp_path):
    folders = made_runs(tmp_path, sweep, [0, 1], 200)
    delivery = tracking.Delivery(store.connect(server[1]), folders)
    process = request.getfixturevalue(victim)[0]
    with ThreadPoolExecutor() as pool:
        passing = pool.submit(delivery.deliver)
        wait_until(stuck)
        before = Counter(ask(POINTS, sweep))
        process.end(signal.SIGKILL if victim == "server" else signal.SIGQUIT)
        passing.result()
    process.start()
    assert delivery.late == 2
    assert delivery.error != ""
    assert Counter() < before < journalled(folders[0])
    ask(LET_GO)
    delivery.deliver()
    delivery.close()
    assert (delivery.late, delivery.error) == (0, "")
    assert Counter(ask(POINTS, sweep)) == journalled(*folders)
    assert runs_of(ask, sweep) == all_finished(folders)


def test_nothing_is_missed_or_twice_whichever_answer_is_lost(server, ask, sweep, tmp_path, monkeypatch):
    """The server did what it was asked, but the one who asked never hears: at every call of a delivery in turn."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def deliver_but_lose(lost):
        (folder,) = made_runs(tmp_path, f"{sweep}-{lost}", [0], 80)
        delivery, errors = tracking.Delivery(store.connect(between.uri), [folder]), []
        between.asked, between.loses = 0, lambda number, _: number == lost
        for call in (delivery.deliver, delivery.deliver, delivery.close, delivery.close):
            call()
            errors.append(delivery.error)
        assert any(errors) == (lost > 0)
        assert delivery.late == 0
        assert Counter(ask(POINTS, folder.sweep)) == journalled(folder)
        assert runs_of(ask, folder.sweep) == all_finished([folder])
        return between.asked

    with Forgetful(server[1]).serving() as between:
        asked = deliver_but_lose(0)
        assert asked > 15
        for lost in range(1, asked + 1):
            deliver_but_lose(lost)


def test_a_call_that_is_tried_again_makes_no_second_run(server, ask, sweep, tmp_path, monkeypatch):
    """MLflow's own client repeats a call that was not answered, though the server did it."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    asked = []

    def first_of_two(number, path):
        asked.append(path)
        return path.endswith("/create") and asked.count(path) % 2 == 1

    folders = made_runs(tmp_path, sweep, [0], 2)
    with Forgetful(server[1]).serving() as between:
        between.loses = first_of_two
        delivery = tracking.Delivery(store.connect(between.uri), folders)
        delivery.deliver()
        delivery.close()
    assert Counter(path.rsplit("/", 2)[1] for path in asked if path.endswith("/create")) == {
        "experiments": 2,
        "runs": 4,
    }
    assert (delivery.late, delivery.error) == (0, "")
    assert Counter(ask(POINTS, sweep)) == journalled(*folders)
    assert runs_of(ask, sweep, stages=["active"]) == all_finished(folders)
