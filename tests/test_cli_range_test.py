"""`lrbs range-test` as a user meets it: real processes."""

import json
from pathlib import Path

import pytest
from made import document, journal_rows, kill_at_row, lrbs, unclocked, write_sweep
from mlflow import MlflowClient

from lrbs_core import Policy, Triangular


@pytest.fixture
def sweep(tmp_path):
    return write_sweep(tmp_path / "tiny.py", epochs=2, seeds=2)


def test_range_test_gives_a_policy_its_chart_and_tells_mlflow(sweep, tmp_path):
    arguments = ("range-test", sweep, "--low", 1e-4, "--high", 3, "--geometric", "--epochs", 2, "--seeds", 2)
    found = document(lrbs(*arguments, "--json", "--figure", "t.png", cwd=tmp_path))
    assert (found["sweep"], found["batch_size"], found["momentum"]) == ("tiny-range-test", 16, 0.9)
    assert [seed["seed"] for seed in found["seeds"]] == [0, 1]
    assert 1e-4 < found["low"]["mean"] < found["high"]["mean"] < 3
    assert (tmp_path / "t.png").read_bytes()[:4] == b"\x89PNG"
    rows = journal_rows(tmp_path)
    assert rows.keys() == {seed["key"] for seed in found["seeds"]}

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny-range-test")
    runs = [run for run in client.search_runs([experiment.experiment_id]) if "lrbs.key" in run.data.tags]
    assert {run.data.tags["lrbs.key"] for run in runs} == rows.keys()
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in runs}
    tags = client.get_run(parent).data.tags
    for bound in ("low", "high"):
        assert float(tags[f"lrbs.range_{bound}"]) == pytest.approx(found[bound]["mean"], rel=1e-3)
    stored = client.download_artifacts(parent, "range_test.json", tmp_path)
    assert json.loads(Path(stored).read_text()) == found
    assert "<svg" in Path(client.download_artifacts(parent, "range_test.svg", tmp_path)).read_text()

    # Policy to spec, as it stands, and the same command elsewhere: all is read back from the store.
    (tmp_path / "lrbs-runs").rename(tmp_path / "away")
    again = lrbs(*arguments, cwd=tmp_path)
    assert "2 run(s) have ended already" in again.stderr
    schedule = again.stdout.splitlines()[-1]
    assert Policy.from_dict(found["policy"]).lr == eval(schedule, {"Triangular": Triangular})
    assert not journal_rows(tmp_path / "lrbs-runs")


def test_a_killed_range_test_goes_on_to_the_same_rows_and_bounds(sweep, tmp_path):
    arguments = ["range-test", sweep, "--low", 1e-4, "--high", 10, "--geometric", "--epochs", 2, "--seeds", 1,
                 "--offline"]  # fmt: skip
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    for rows in (5, 40):
        kill_at_row(rows, arguments, cwd=tmp_path / "killed")
    killed, whole = (document(lrbs(*arguments, "--json", cwd=tmp_path / name)) for name in ("killed", "whole"))
    assert killed == whole
    assert killed["seeds"][0]["status"] in ("stopped", "finished")  # whether it is lost hangs on the machine's rounding
    one, other = (journal_rows(tmp_path / name) for name in ("killed", "whole"))
    assert {key: unclocked(rows) for key, rows in one.items()} == {key: unclocked(rows) for key, rows in other.items()}


ALONE = ("--dataset", "digits", "--model", "mlp", "--optimizer", "sgd", "--weight-decay", 0, "--augmentation", "none",
         "--normalization", "channel", "--batch-size", 16, "--momentum", 0.9)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--low", 0.1, "--high", 0.01, *ALONE), "0 <= low < high must hold, but got low=0.1, high=0.01"),
        (("--low", 0.1, "--high", 1, *ALONE[2:]), "must be told all of what it trains: --dataset missing"),
        (("--low", 0.1, "--high", 1, *ALONE, "--model", "convnet"), "model convnet needs a ghost_size"),
        (("--low", 1e-9, "--high", 1e-8, *ALONE), "no bounds for any seed: accuracy must rise within the ramp, but"),
        (("tiny.py", "--low", 0.1, "--high", 1, "--policy", "best"), "policy must be one of 'decaying', 'growing'"),
        (("tiny.py", "--low", 0.1, "--high", 1, "--epochs", 0.1), "a ramp must have at least 50 updates"),
    ],
)
def test_a_range_test_that_finds_nothing_is_one_line(options, says, sweep, tmp_path):
    result = lrbs("range-test", *options, "--offline", "--seeds", 1, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert says in result.stderr.splitlines()[-1]
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
