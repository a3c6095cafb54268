"""`lrbs discover` as a user meets it: real processes, real kills, a real Ray cluster, and its outcome as a sweep."""

import json
from collections import Counter
from pathlib import Path

import pytest
from made import document, journal_rows, kill_at_row, lrbs, unclocked
from mlflow import MlflowClient

from lrbs_core import Policy

SWEEP = """
from lrbs_core import *
SOURCE, CLAIMS = "made up", ()
def runs():
    policy = {policy}
    return [RunSpec(label="begins here", policy=policy, dataset="digits", model="convnet", optimizer="sgd",
                    weight_decay=5e-4, ghost_size=8, augmentation="flip", normalization="channel", epochs=3,
                    partial="{partial}", seed=seed, evaluate_every_epochs=0.5) for seed in range(2)]
"""
GROWING = "Policy(Piecewise((0.1, 0.05), at=(1,)), Piecewise((16, 32), at=(1,)), 0.9)"


def sweep(folder, policy=GROWING, partial="keep"):
    folder.mkdir(exist_ok=True)
    (folder / "tiny.py").write_text(SWEEP.format(policy=policy, partial=partial))
    return folder / "tiny.py"


def arguments(folder, *more):
    return ["discover", sweep(folder), "--interval", 1, "--population", 4, *more]


def all_unclocked(folder):
    return {key: unclocked(rows) for key, rows in journal_rows(folder).items()}


def require_told(folder, found):
    """That the store has every member once, where it comes from, and the outcome on their one launch."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tiny-discovery").experiment_id])
    keys = Counter(run.data.tags["lrbs.key"] for run in runs if "lrbs.key" in run.data.tags)
    assert keys == Counter(trial["key"] for trial in found["trials"])
    assert set(keys.values()) == {1}
    (launch,) = (run for run in runs if "lrbs.key" not in run.data.tags)
    assert {run.info.status for run in runs} == {"FINISHED"}
    told = {run.data.tags["lrbs.key"]: run.data for run in runs if run is not launch}
    assert {data.tags["mlflow.parentRunId"] for data in told.values()} == {launch.info.run_id}
    for trial in found["trials"]:
        params = told[trial["key"]].params
        assert params["search.generation"] == str(trial["generation"])
        parent = None if trial["parent"] is None else found["trials"][trial["parent"]]["key"]
        assert params.get("search.parent") == parent
        assert told[trial["key"]].metrics["test_accuracy"] == trial["test_accuracy"]["mean"]
    assert launch.data.tags["lrbs.search"] == found["search"]
    assert launch.data.tags["lrbs.search.best"] == found["best"][0]["label"]
    stored = client.download_artifacts(launch.info.run_id, "discovery.json", folder)
    assert json.loads(Path(stored).read_text()) == found
    assert "<svg" in Path(client.download_artifacts(launch.info.run_id, "discovery.svg", folder)).read_text()


@pytest.mark.slow
def test_a_killed_discovery_goes_on_to_the_same_members_and_its_outcome_is_a_sweep_of_the_same_rows(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = arguments(killed, "--serial")
    for rows in (5, 13, 35):  # of 48: in the first generation, the second, the third
        kill_at_row(rows, command, cwd=killed)
    found = document(lrbs(*command, "--json", cwd=killed))
    undisturbed = lrbs(*arguments(whole, "--offline", "--json"), cwd=whole)
    assert document(undisturbed) == found
    assert all_unclocked(killed) == all_unclocked(whole)
    assert sorted(map(len, all_unclocked(whole).values())) == [2] * 4 + [4] * 4 + [6] * 4
    for journal in killed.rglob("journal.jsonl"):
        entries = [json.loads(line) for line in journal.read_text().splitlines()]
        assert Counter(entry["status"] for entry in entries if "status" in entry)["finished"] == 1
        numbers = [entry["row"]["row"] for entry in entries if "row" in entry]
        assert numbers == list(range(1, len(numbers) + 1))
    require_told(killed, found)

    before = {path: path.read_bytes() for path in (killed / "lrbs-runs").rglob("*") if path.is_file()}
    again = lrbs(*command, "--figure", "lines.svg", cwd=killed)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count(", 0 run(s) to do") == 3
    assert {path: path.read_bytes() for path in before} == before
    assert "<svg" in (killed / "lines.svg").read_text()

    policy, (best,) = again.stdout.splitlines()[-1], found["best"]
    shown = [line.split() for line in again.stdout.splitlines() if line.endswith("finished")]
    last = [trial for trial in found["trials"] if trial["generation"] == 3]
    assert "judged by validation data, set aside of the training set" in again.stdout
    assert found["validation"] == 0.1
    assert {(line[0], line[1], *line[3:6]) for line in shown} == {
        (
            str(t["member"]),
            f"{t['lr']:g}",
            f"{t['validation_accuracy']['mean']:.2f}",
            f"{t['test_accuracy']['mean']:.2f}",
            str(found["trials"][t["parent"]]["member"]),
        )
        for t in last
    }
    assert shown[0][0] == str(found["trials"][best["trial"]]["member"])
    assert eval(policy, vars(__import__("lrbs_core"))) == Policy.from_dict(best["policy"])
    accuracies = [trial["validation_accuracy"]["mean"] for trial in last]
    assert found["trials"][best["trial"]]["validation_accuracy"]["mean"] == max(accuracies)
    pasted = ("run", sweep(tmp_path / "pasted", policy), "--validation", 0.1, "--seeds", 1, "--offline")
    ordinary = lrbs(*pasted, cwd=tmp_path / "pasted")
    assert ordinary.returncode == 0, ordinary.stderr
    key = found["trials"][best["trial"]]["key"]
    assert all_unclocked(tmp_path / "pasted") == {key: all_unclocked(killed)[key]}


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_ray_trains_what_one_process_does(tmp_path):
    serial, ray = tmp_path / "serial", tmp_path / "ray"
    expected = document(lrbs(*arguments(serial, "--offline", "--json"), cwd=serial))
    found = document(lrbs(*arguments(ray, "--json"), cwd=ray))
    assert found == expected
    assert all_unclocked(ray) == all_unclocked(serial)
    require_told(ray, found)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--interval", 0.75), "--interval must be a multiple of the epochs between rows, 0.5, but got 0.75"),
        (("--interval", 2), "--interval must divide the 3 epochs of a run, but got 2"),
        (("--policy", "other"), "--policy must be one of 'begins here', but got 'other'"),
        (("--model", "nonesuch"), "model"),
    ],
)
def test_what_cannot_be_discovered_is_one_line(options, says, tmp_path):
    result = lrbs(*arguments(tmp_path, "--offline", *options), cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert says in result.stderr.splitlines()[-1]
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("journal.jsonl"))


def test_batches_over_the_end_of_an_interval_and_a_discovery_that_diverges_are_one_line(tmp_path):
    cut = ["discover", sweep(tmp_path, partial="carry"), "--interval", 1, "--offline"]
    result = lrbs(*cut, cwd=tmp_path)
    assert result.returncode == 2
    assert "an update must begin where an interval ends, but none does at epoch 1" in result.stderr
    sweep(tmp_path, "Policy(1e30, 16, 0.9)")
    result = lrbs(*cut, "--population", 2, "--json", cwd=tmp_path)
    assert result.returncode == 2
    assert [trial["status"] for trial in json.loads(result.stdout)["trials"]] == ["diverged"] * 2
    assert result.stderr.splitlines()[-1].endswith("but all diverged: begin from a policy of lower lr")
