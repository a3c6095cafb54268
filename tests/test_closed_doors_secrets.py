"""No secret of a store's address is told: by an error, a log, a journal, a report."""

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import lrbs, made_row, made_run, made_spec, write_sweep
from mlflow.store.db import utils as mlflow_database
from servers import Forgetful, free_port, mlflow

from lrbs_core import store

SECRET = "s3cr3t"
ADDRESSES = (
    "http://me:{}@host:5000", "https://me:{}@host/path", "postgresql://me:{}@host:5432/db", "http://host:5000?password={}",
    "postgresql+psycopg2://me@host/db?sslmode=require&password={}&x=1", "https://host/?access_token={}", "http://{}@host",
    "mysql://host/db?ssl_key=/k&PWD={}", "http://h:1/?api_key={}",
    "mssql+pyodbc://host/?odbc_connect=DRIVER%3D%7BODBC%7D%3BPWD%3D{}",
)  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("secret", [SECRET, f"p/{SECRET}", f"p@{SECRET}", f"{SECRET}:5", f"1{SECRET}", f"a%40{SECRET}"])
@pytest.mark.parametrize("text", ["{}", "store {} cannot be reached: API request to {} failed\nat {}", "'{}', \"{}\""])
def test_no_address_is_shown_with_its_secret(address, secret, text):
    address = address.format(secret)
    shown = store.without_password(text.format(*[address] * 3))
    assert SECRET not in shown
    assert "host" in shown or "h:1" in shown


def test_what_is_cut_short_is_cut_after_its_secret_was_taken_out():
    for before in range(400):
        assert SECRET not in store.first_line(OSError("x" * before + f" http://me:{SECRET}{'y' * 50}@host"))


@given(st.text(min_size=4).filter(lambda text: not text.isspace()))
def test_any_text_is_a_password(text):
    text = quote(f"{SECRET}{text}", safe="")
    assert SECRET not in store.without_password(f"tracking store postgresql://me:{text}@host/db is away")


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:5000 is away", "sqlite:////home/me@work/mlflow.db", "http://[::1]:5000/", "mlflow.db"]
)
def test_an_address_without_a_secret_stays_as_it_is(address):
    assert store.without_password(address) == address


def test_an_unreachable_database_is_told_without_its_password(caplog, monkeypatch, capfd):
    monkeypatch.setattr(mlflow_database, "MAX_RETRY_COUNT", 2)
    for address in (f"me:{SECRET}", f"me:p@{SECRET}:w", f"me:{SECRET} x"):
        with pytest.raises(ValueError, match="tracking store ") as caught:
            store.connect(f"postgresql+psycopg2://{address}@127.0.0.1:{free_port()}/db")
        assert SECRET not in str(caught.value)
    assert SECRET not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.slow
def test_real_commands_tell_no_secret_of_a_store_that_is_away(tmp_path):
    sweep = write_sweep(tmp_path / "tiny.py", epochs=1, seeds=1)
    made_run(tmp_path / "lrbs-runs", made_spec(), [made_row(1)])
    ramp = ("range-test", sweep, "--low", 0.01, "--high", 1, "--seeds", 1)
    port = free_port()
    http, query = f"http://me:{SECRET}@127.0.0.1:{port}", f"http://127.0.0.1:{port}/?token={SECRET}"
    for arguments, environment in (
        (("run", sweep), {"MLFLOW_TRACKING_URI": query}),
        (("report", sweep, "--tracking-uri", http), {}),
        (("sync", "lrbs-runs", "--tracking-uri", http), {}),
        (ramp, {"MLFLOW_TRACKING_URI": http}),
        (("doctor", "--tracking-uri", http, "--address", f"127.0.0.1:{free_port()}"), {}),
    ):
        quick = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_TRACKING_PASSWORD": SECRET} | environment
        result = lrbs(*arguments, cwd=tmp_path, **quick)
        assert result.returncode in (1, 2)
        assert "cannot be reached" in result.stderr + result.stdout
        assert "Traceback" not in result.stderr
        assert SECRET not in result.stderr + result.stdout
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.mark.slow
@pytest.mark.xdist_group("stores")
def test_real_commands_tell_no_secret_of_a_store_that_answers_and_then_does_not(tmp_path):
    sweep = write_sweep(tmp_path / "tiny.py", epochs=1, seeds=1)
    server, uri = mlflow(f"sqlite:///{tmp_path}/mlflow.db", f"{tmp_path}/artifacts")
    environment = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_TRACKING_PASSWORD": SECRET}
    with server, Forgetful(uri).serving() as between:
        secret = between.uri.replace("//", f"//me:{SECRET}@")
        ramp = ("range-test", sweep, "--low", 0.01, "--high", 1, "--seeds", 1, "--epochs", 1, "--json")
        ends = []
        for arguments in (
            ("run", sweep, "--serial"),
            ("report", sweep, "--html", "report.html", "--markdown", "page.md", "--csv", "runs.csv"),
            ("sync", "lrbs-runs"),
            ramp,
            ("doctor", sweep, "--address", f"127.0.0.1:{free_port()}"),
        ):
            result = lrbs(*arguments, "--tracking-uri", secret, cwd=tmp_path, **environment)
            ends.append(result.returncode)
            assert SECRET not in result.stderr + result.stdout
            assert arguments is not ramp or json.loads(result.stdout)  # which MLflow prints nothing into
        assert ends == [0, 0, 0, 0, 1]  # the doctor finds no cluster
        between.asked = 0
        between.loses = lambda number, _: number > 1
        result = lrbs("report", sweep, "--tracking-uri", secret, cwd=tmp_path, **environment)
        assert (result.returncode, "does not answer" in result.stderr) == (2, True)
        assert SECRET not in result.stderr + result.stdout
    assert (tmp_path / "report.html").exists()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
