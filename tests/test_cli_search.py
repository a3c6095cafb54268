"""`lrbs search` as a user meets it: real processes, real kills, a real Ray cluster."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from made import document, journal_rows, kill_at_row, lrbs, unclocked
from mlflow import MlflowClient

from lrbs_core.commands.search import typed_command

SWEEP = """
from lrbs_core import Choice, Policy, Range, RunSpec, Triangular
SPACE = {"high": Range(0.01, 1, log=True), "momentum": Choice(0.5, 0.8, 0.9)}
def candidate(seed, *, high, momentum):
    return RunSpec(label="cycles", policy=Policy(Triangular(high / 10, high, 0.5), 16, momentum), dataset="digits",
                   model="convnet", optimizer="sgd", weight_decay=5e-4, ghost_size=8, augmentation="none",
                   normalization="channel", epochs=2, partial="keep", seed=seed, evaluate_every_epochs=0.25)
"""


@pytest.fixture
def sweep(tmp_path):
    (tmp_path / "tiny.py").write_text(SWEEP)
    return tmp_path / "tiny.py"


@pytest.mark.slow
def test_a_killed_search_goes_on_to_the_same_trials_and_rows_and_runs_none_twice(sweep, tmp_path):
    arguments = ["search", sweep, "--trials", 3, "--seeds", 2, "--offline"]
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    for rows in (3, 29):
        kill_at_row(rows, arguments, cwd=tmp_path / "killed")
    killed, whole = (document(lrbs(*arguments, "--json", cwd=tmp_path / name)) for name in ("killed", "whole"))
    for found in (killed, whole):
        for trial in found["trials"]:
            trial.pop("train_seconds")
    assert killed == whole
    one, other = (journal_rows(tmp_path / name) for name in ("killed", "whole"))
    assert {key: unclocked(rows) for key, rows in one.items()} == {key: unclocked(rows) for key, rows in other.items()}
    assert set(map(len, one.values())) == {8}
    for journal in (tmp_path / "killed").rglob("journal.jsonl"):
        entries = [json.loads(line) for line in journal.read_text().splitlines()]
        assert Counter(entry["status"] for entry in entries if "status" in entry)["finished"] == 1
        numbers = [entry["row"]["row"] for entry in entries if "row" in entry]
        assert numbers == list(range(1, 9))

    before = {path: path.read_bytes() for path in (tmp_path / "killed").rglob("*") if path.is_file()}
    again = lrbs(*arguments, "--figure", "heat.svg", "--html", "found.html", cwd=tmp_path / "killed", COLUMNS="300")
    assert again.returncode == 0, again.stderr
    assert "3 of 3 trials known, 0 run(s) of them to do" in again.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert "<svg" in (tmp_path / "killed" / "heat.svg").read_text()
    assert all(trial["label"].split()[0].split("=")[1] in again.stdout for trial in killed["trials"])

    # A tenth is set aside unless told otherwise, and ranks.
    assert (killed["judged_on"], killed["validation"]) == ("validation", 0.1)
    assert killed["overrides"] == {"validation": "0.1"}
    means = [trial["validation_accuracy"]["mean"] for trial in killed["trials"]]
    assert means[killed["best"][0]["trial"]] == max(means)
    assert re.search(r"validation accuracy +test accuracy \(report alone\)", again.stdout)
    assert "judged by validation data" in again.stdout
    assert all(row["validation_accuracy"] >= 0 for rows in one.values() for row in rows)
    test = lrbs(*arguments[:2], "--trials", 1, "--validation", 0, "--offline", "--html", "test.html", cwd=tmp_path)
    assert "judged by TEST data" in test.stdout
    assert "Judged by TEST data" in (tmp_path / "test.html").read_text()


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_ray_trains_what_one_process_does_and_mlflow_has_one_launch_of_it(sweep, tmp_path):
    arguments = ("search", sweep, "--trials", 2, "--sampler", "random", "--seeds", 2, "--json")
    for name in ("serial", "ray"):
        (tmp_path / name).mkdir()
    serial = document(lrbs(*arguments, "--offline", cwd=tmp_path / "serial"))
    first = lrbs(*arguments, cwd=tmp_path / "ray")
    assert "tracking store" not in first.stderr
    found = document(first)
    assert found == document(lrbs(*arguments, cwd=tmp_path / "ray")), "the same command shows it again"
    assert [trial["keys"] for trial in found["trials"]] == [trial["keys"] for trial in serial["trials"]]
    one, other = (journal_rows(tmp_path / name) for name in ("serial", "ray"))
    assert {key: unclocked(rows) for key, rows in one.items()} == {key: unclocked(rows) for key, rows in other.items()}

    client = MlflowClient(f"sqlite:///{tmp_path}/ray/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tiny-search").experiment_id])
    children = {run.data.tags["lrbs.key"]: run for run in runs if "lrbs.key" in run.data.tags}
    (launch,) = (run for run in runs if "lrbs.key" not in run.data.tags)
    assert children.keys() == one.keys()
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {launch.info.run_id}
    for trial in found["trials"]:
        for key in trial["keys"]:
            told = children[key].data
            assert {name: told.params[f"search.{name}"] for name in trial["point"]} == {
                name: str(value) for name, value in trial["point"].items()
            }
            assert told.tags["lrbs.policy"] == trial["label"]
    assert launch.data.tags["lrbs.search"] == found["search"]
    assert launch.data.tags["lrbs.search.sampler.class"] == "RandomSampler"
    assert launch.data.tags["lrbs.search.best"] == found["best"][0]["label"]
    stored = client.download_artifacts(launch.info.run_id, "search.json", tmp_path)
    assert json.loads(Path(stored).read_text()) == found
    assert "tiny-search" in Path(client.download_artifacts(launch.info.run_id, "search.html", tmp_path)).read_text()


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_early_stopping_is_the_same_rule_through_ray(sweep, tmp_path):
    arguments = ("search", sweep, "--trials", 5, "--early-stop", "--json")
    found = document(lrbs(*arguments, cwd=tmp_path))
    statuses = Counter(trial["status"] for trial in found["trials"])
    assert set(statuses) == {"finished", "stopped"}
    # A ninth is 2/9 epochs, but cycles are of 1: all are judged at the end of the first, and no more in the rest. The
    # digits but a tenth are trained on.
    assert found["rungs"] == [1293]
    rows = journal_rows(tmp_path)
    for trial in found["trials"]:
        (key,) = trial["keys"]
        assert rows[key][-1]["epoch"] == pytest.approx(1.0 if trial["status"] == "stopped" else 2.0, abs=0.02)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--objective", "accuracy"), "an objective must be one of validation_accuracy"),
        (("--objective", "test_accuracy,updates", "--early-stop"), "--early-stop compares runs by one objective"),
        (("--sampler", "grid", "--trials", 5), "a grid of this space has at least 6 points, but got --trials 5"),
        (("--axes", "high,low"), "a heat map needs two of the names that are searched and of numbers (high, momentum)"),
        (("--model", "nonesuch"), "model"),
        (
            ("--validation", 0, "--objective", "validation_accuracy"),
            "needs validation data, but got none: give",
        ),
        (("--validation", 5), "must set aside and leave an example of every class, but 5 in all are 0 of the"),
    ],
)
def test_what_cannot_be_searched_is_one_line(options, says, sweep, tmp_path):
    result = lrbs("search", sweep, "--offline", *options, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert says in result.stderr.splitlines()[-1]
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("journal.jsonl"))


def test_a_sweep_without_a_space_is_one_line(tmp_path):
    (tmp_path / "none.py").write_text("SOURCE, CLAIMS = '', ()\n")
    result = lrbs("search", tmp_path / "none.py", "--offline", cwd=tmp_path)
    assert result.returncode == 2
    assert "a sweep must define SPACE and candidate(), but SPACE, candidate is missing" in result.stderr


def test_where_all_diverged_is_told_in_a_line_and_no_page_is_written(tmp_path):
    (tmp_path / "lost.py").write_text(SWEEP.replace("Range(0.01, 1, log=True)", "Choice(1e29, 1e30)"))
    options = ("--trials", 2, "--offline", "--figure", "heat.svg", "--html", "found.html", "--json")
    result = lrbs("search", tmp_path / "lost.py", *options, cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    assert [trial["status"] for trial in json.loads(result.stdout)["trials"]] == ["diverged"] * 2
    assert result.stderr.splitlines()[-1].startswith("no trial has finished, so that there is no best one, and no fig")
    assert not [*tmp_path.glob("heat.svg"), *tmp_path.glob("found.html")]


@pytest.mark.parametrize(
    "given", [["--tracking-uri", "http://me:secret@host"], ["--tracking-uri=http://me:secret@host"]]
)
def test_the_command_on_the_page_tells_no_password(given):
    typed = typed_command(["search", "my sweep.py", *given, "--trials", "3"])
    assert typed == "lrbs search 'my sweep.py' --trials 3"
