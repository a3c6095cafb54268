"""The doctor finds real faults, says what to do, and leaves all as it was."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import sqlalchemy
from alembic import command as alembic
from made import lrbs, made_row, made_run, made_spec, noise_spec, write_sweep
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base
from PIL import Image
from servers import free_port

from lrbs_core import store, tracking
from lrbs_core.doctor import examine
from lrbs_core.journal import RunFolder

# A schema of MLflow 2: it has all tables of its time, and lacks some of today's.
OLD_SCHEMA = "0584bdc529eb"


@pytest.fixture(scope="module")
def migrated(tmp_path_factory):
    """An empty SQLite store, made once: migrating takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    store.connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def uri(migrated, tmp_path):
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def look(tmp_path, uri):
    """The checks by name. Ray has an address where nothing listens, so that no other cluster is joined."""

    def look(specs=None, dataset=None, uri=uri, out="runs"):
        where = tmp_path / "data", tmp_path / out, uri, f"127.0.0.1:{free_port()}"
        return {check.name: check for check in examine(specs, dataset, *where)}

    return look


@contextmanager
def tmpfs(folder, options):
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("needs to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def answering(seconds_ahead=0.0, redirect=None):
    """An HTTP server that lies about its Date, and the paths that it was asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(302 if redirect and self.path == "/health" else 200)
            self.send_header("Location", f"{redirect}")
            self.end_headers()
            self.wfile.write(b"{}")

        do_POST = do_GET  # noqa: N815

        def date_time_string(self, timestamp=None):
            return formatdate(time.time() + seconds_ahead, usegmt=True)

        def log_message(self, *_):
            """Says nothing."""

    asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with closing(server.socket):
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def schema(path):
    with closing(sqlalchemy.create_engine(f"sqlite:///{path}").connect()) as connection:
        return connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).scalar()


def test_where_nothing_is_wrong_all_is_ok_and_nothing_is_left_behind(look, tmp_path):
    checks = look([made_spec()])
    found = {name: check.status for name, check in checks.items()}
    assert found.pop("ray") == "fault"  # the closed address
    assert {found.pop(name) for name in ("out", "data", "cache", "tmp")} <= {"ok", "warning"}  # of the disk here
    assert set(found) == {"python", "torch", "mlflow", "clock", "dataset digits", "delivery"}
    assert set(found.values()) == {"ok"}
    assert {path.name for path in tmp_path.iterdir()} <= {"mlflow.db", ".mlflow.db.lock"}


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_the_command_says_it_in_lines_or_json_and_by_its_exit_code(tmp_path, uri):
    arguments = ["doctor", write_sweep(tmp_path / "tiny.py"), "--tracking-uri", uri]
    well = lrbs(*arguments, cwd=tmp_path)
    assert well.returncode == 0, well.stdout
    assert "ok       dataset digits: comes with scikit-learn" in well.stdout.splitlines()
    ill = lrbs(*arguments, "--address", f"127.0.0.1:{free_port()}", "--json", cwd=tmp_path)
    document = json.loads(ill.stdout)
    assert (ill.returncode, document["faults"]) == (1, 1)
    assert [check["name"] for check in document["checks"] if check["status"] == "fault"] == ["ray"]
    assert lrbs("doctor", "nothing.py", cwd=tmp_path).returncode == 2


def test_an_old_schema_is_left_alone_and_mended_by_what_is_said(look, tmp_path):
    path = tmp_path / "old.db"
    Base.metadata.create_all(sqlalchemy.create_engine(f"sqlite:///{path}"))
    alembic.upgrade(_get_alembic_config(f"sqlite:///{path}"), OLD_SCHEMA)
    check = look(uri=f"sqlite:///{path}")["mlflow"]
    assert check.status == "fault"
    assert f"has the schema {OLD_SCHEMA}" in check.found
    assert schema(path) == OLD_SCHEMA
    mend = check.fix.partition(": ")[2].split()
    subprocess.run([sys.executable, "-m", *mend], check=True, capture_output=True)
    assert look(uri=f"sqlite:///{path}")["mlflow"].status == "ok"


def test_a_schema_newer_than_mlflow_asks_for_a_newer_mlflow(look, tmp_path, migrated):
    path = shutil.copy(migrated, tmp_path / "new.db")
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    check = look(uri=f"sqlite:///{path}")["mlflow"]
    assert (check.status, check.fix) == ("fault", "pip install --upgrade mlflow")
    assert schema(path) == "ffffffffffff"


def test_a_store_that_cannot_be_reached_is_a_fault_and_one_that_is_to_come_is_not_made(look, tmp_path):
    away = look(uri=f"http://127.0.0.1:{free_port()}")["mlflow"]
    assert away.status == "fault"
    assert "lrbs run --offline" in away.fix
    database = look(uri=f"postgresql+psycopg2://me:secret@127.0.0.1:{free_port()}/mlflow")["mlflow"]
    assert (database.status, "refused" in database.found, "secret" in database.found) == ("fault", True, False)
    assert look(uri=f"sqlite:///{tmp_path}/new.db")["mlflow"].found.endswith("not there yet: the first run makes it")
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize(("ahead", "status"), [(0, "ok"), (3, "ok"), (60, "fault"), (-3600, "fault")])
def test_a_server_s_clock_is_held_against_the_one_here(look, ahead, status):
    with answering(ahead) as (uri, _):
        check = look(uri=uri)["clock"]
    assert check.status == status
    told = float(check.found.removeprefix("the MLflow server ").split()[0])
    assert told == pytest.approx(ahead, abs=1.5)
    assert (check.fix != "") == (status == "fault")


def test_a_file_system_s_clock_is_held_against_the_one_here(look, monkeypatch):
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 30)
    check = look()["clock"]
    assert check.status == "fault"
    assert "runs +30.0 s from the clock here" in check.found


def test_no_redirect_is_followed(look):
    with answering() as (elsewhere, asked), answering(redirect=f"{elsewhere}/health") as (uri, _):
        assert look(uri=uri)["clock"].status == "ok"
    assert asked == []


def test_a_folder_that_cannot_be_written_is_a_fault(look, tmp_path):
    if os.geteuid() != 0:
        (tmp_path / "runs").mkdir(mode=0o500)
        assert "cannot be written: Permission denied" in look()["out"].found
        return
    with tmpfs(tmp_path / "runs", "ro,size=1m"):
        assert "cannot be written: Read-only file system" in look()["out"].found
        assert look()["out"].status == "fault"


def test_a_full_disk_is_a_fault_and_a_small_one_too(look, tmp_path):
    with tmpfs(tmp_path / "runs", "size=4m") as folder:
        small = look()["out"]
        assert (small.status, "of the 0.5 GB needed" in small.found) == ("fault", True)
        (folder / "big").write_bytes(bytes(4 * 2**20))
        full = look(out="runs/new")["out"]
        assert (full.status, "No space left" in full.found) == ("fault", True)
        assert [path.name for path in folder.iterdir()] == ["big"]


def test_an_image_folder_must_be_there_with_the_images_of_the_plan(look, tmp_path):
    def check(examples):
        return look([noise_spec(batch_size=2, dataset="imagefolder:cats", examples=examples)])[
            "dataset imagefolder:cats"
        ]

    assert (check(3).status, "dataset folder missing" in check(3).found) == ("fault", True)
    for split, images in (("train", 2), ("test", 1)):
        (tmp_path / "data" / "cats" / split / "a").mkdir(parents=True)
        for number in range(images):
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / "cats" / split / "a" / f"{number}.png")
    assert (check(3).status, "2 training images" in check(3).found) == ("fault", True)
    assert check(2).status == "ok"
    aside = noise_spec(batch_size=1, dataset="imagefolder:cats", examples=2, validation=1)
    held = look([aside])["dataset imagefolder:cats"]
    assert (held.status, held.found.endswith("of 1 classes, 1 of them set aside for validation")) == ("ok", True)
    crowd = look([replace(aside, examples=9, validation=5)])["dataset imagefolder:cats"]
    assert crowd.status == "fault"
    assert "5 in all are 5 of the 2 of class number 0: set fewer aside" in crowd.found
    assert look(dataset="imagefolder:cats")["dataset imagefolder:cats"].status == "ok"
    for name in ("imagefolder:../data/cats", "imagefolder:nothing", "cats"):
        assert look(dataset=name)[f"dataset {name}"].status == "fault"


def test_cifar_is_known_by_its_checksums_and_never_downloaded(look, tmp_path, monkeypatch):
    monkeypatch.setenv("LRBS_CACHE", str(tmp_path / "cache"))
    assert look(dataset="cifar10")["dataset cifar10"].status == "warning"
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "data_batch_1").write_bytes(b"not it")
    check = look(dataset="cifar10")["dataset cifar10"]
    assert check.status == "fault"
    assert "lacks data_batch_1, data_batch_2" in check.found
    (tmp_path / "cache" / "cifar10-torchvision").mkdir(parents=True)
    assert look(dataset="cifar10")["dataset cifar10"].status == "ok"


def test_what_the_store_was_not_told_is_counted(look, tmp_path, uri):
    def told():
        return look()["delivery"]

    runs = [made_run(tmp_path / "runs", made_spec(seed=seed), [made_row(1)]) for seed in range(2)]
    assert (told().status, told().found.split(" in ")[0]) == ("warning", "2 of 2 run(s)")
    assert told().fix == f"lrbs sync {tmp_path / 'runs'}"
    with closing(tracking.Delivery(store.connect(uri), runs)) as delivery:
        delivery.deliver()
    RunFolder.create(tmp_path / "runs", "made", made_spec(seed=9))  # never begun, and so nothing to tell
    assert (told().status, told().found) == ("ok", f"all 2 run(s) in {tmp_path / 'runs'} told")
    made_run(tmp_path / "runs", made_spec(seed=2), [made_row(1)], "running")
    assert told().found.startswith("1 of 3 run(s)")
    (runs[0].path / "spec.json").write_text("{}")
    assert told().status == "fault"
    assert "1 of 4 run(s)" in told().found


def test_a_token_that_is_asked_for_must_be_there(look, tmp_path, monkeypatch):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert look()["ray"].fix == "ray get-auth-token --generate"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "5e4ret")
    assert "cannot be reached" in look()["ray"].found
    assert "5e4ret" not in f"{look()}"
