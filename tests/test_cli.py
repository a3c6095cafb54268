"""The command as a user meets it: real processes, their output and exit codes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from made import (
    bits,
    command,
    document,
    journal_rows,
    kill_at_row,
    lrbs,
    made_row,
    made_spec,
    noise_spec,
    unclocked,
    write_sweep,
)
from mlflow import MlflowClient
from PIL import Image

from lrbs_core import training
from lrbs_core.commands.launching import Launch, prepare
from lrbs_core.journal import METRICS, RunFolder
from lrbs_core.specs import Machine
from lrbs_core.store import Record

FIG1 = "sweeps/smith2018_fig1_cifar10.py"


@pytest.fixture
def sweep(tmp_path):
    return write_sweep(tmp_path / "tiny.py", epochs=2, seeds=2)


def children(folder, sweep="tiny"):
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name(sweep).experiment_id])
    return client, [run for run in runs if "lrbs.key" in run.data.tags]


def test_a_cold_plan_counts_as_the_paper_does_and_imports_nothing_heavy(pytestconfig):
    program = (
        "import sys; from lrbs_core.cli import main\n"
        f"try: main(['plan', {FIG1!r}, '--json'])\n"
        "finally:\n"
        "  heavy = {'torch', 'ray', 'mlflow', 'pandas', 'optuna', 'scipy.stats', 'altair'} & set(sys.modules)\n"
        "  assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=pytestconfig.rootpath, capture_output=True, text=True)
    plan = document(result)
    assert (plan["sweep"], plan["examples"], len(plan["runs"])) == ("smith2018_fig1_cifar10", 50_000, 27)
    assert {run["label"]: run["updates"] for run in plan["runs"]} == {
        "decaying lr": 80_000, "hybrid": 34_751, "increasing batch": 28_891,
    }  # fmt: skip
    growing = next(run for run in plan["runs"] if run["label"] == "increasing batch")
    assert growing["peak_batch_size"] == 16_000
    assert [(phase["epoch_start"], phase["lr"], phase["batch_size"]) for phase in growing["phases"]] == [
        (0, 0.1, 128), (60, 0.1, 640), (120, 0.1, 3200), (160, 0.1, 16_000),
    ]  # fmt: skip
    overlap = next(claim for claim in plan["claims"] if claim["where"] == "Figure 3a, curves overlap")
    assert (overlap["expected"], overlap["seeds"], overlap["power"] >= 0.8) == ("0 ± 0.3", 9, True)
    assert growing["phases"][0]["noise_scale"] == pytest.approx(389.625)
    assert growing["phases"][-1]["noise_scale"] == pytest.approx(2.125)


def test_plan_shows_the_table_and_what_the_paper_counts(pytestconfig):
    result = lrbs("plan", FIG1, "--examples-per-second", 1000, cwd=pytestconfig.rootpath)
    assert result.returncode == 0, result.stderr
    for text in ("80,000 updates", "16,000 in 8 micro-batches", "2.84 h", "120 - 160", "meets 80000 ± 500"):
        assert text in result.stdout
    assert re.search(r"Figure 3a +test accuracy of hybrid +94.35 ± 0.45 +9 +100%", result.stdout)
    assert "if the paper is right" in result.stdout
    assert "if the paper is right" not in lrbs("plan", FIG1, "--scale", 0.5, cwd=pytestconfig.rootpath).stdout


def test_offline_needs_neither_ray_nor_mlflow_and_sync_delivers_it(sweep, tmp_path):
    (tmp_path / "blocked").mkdir()
    for name in ("ray", "mlflow", "optuna"):
        (tmp_path / "blocked" / f"{name}.py").write_text(f"raise ImportError('{name} is not here')")
    offline = lrbs("run", sweep, "--offline", cwd=tmp_path, PYTHONPATH=str(tmp_path / "blocked"))
    assert offline.returncode == 0, offline.stderr
    assert not (tmp_path / "mlflow.db").exists()
    assert "4 runs, 4 to do" in offline.stderr

    moved = (tmp_path / "lrbs-runs").rename(tmp_path / "from-the-other-machine")
    assert lrbs("sync", moved, cwd=tmp_path).returncode == 0
    client, runs = children(tmp_path)
    assert len(runs) == 4
    for run in runs:
        history = [point for name in METRICS for point in client.get_metric_history(run.info.run_id, name)]
        assert len(history) == 2 * len(METRICS)

    again = lrbs("run", sweep, "--serial", cwd=tmp_path)
    assert "4 run(s) have ended already" in again.stderr
    assert "0 to do" in again.stderr


def test_report_gives_the_journals_numbers(sweep, tmp_path):
    assert lrbs("run", sweep, "--serial", "--measure-noise", cwd=tmp_path).returncode == 0
    files = (
        "--csv",
        "t.csv",
        "--figure",
        "t.svg",
        "--noise-figure",
        "noise.svg",
        "--html",
        "t.html",
        "--markdown",
        "T.md",
    )
    report = document(lrbs("report", sweep, "--json", *files, cwd=tmp_path))
    last = {key: rows[-1] for key, rows in journal_rows(tmp_path).items()}
    for policy in report["policies"]:
        keys = [
            run["key"]
            for run in document(lrbs("plan", sweep, "--json", cwd=tmp_path))["runs"]
            if run["label"] == policy["label"]
        ]
        accuracies = [last[key]["test_accuracy"] for key in keys]
        assert policy["test_accuracy"]["mean"] == pytest.approx(sum(accuracies) / 2)
        assert policy["test_accuracy"]["n"] == policy["runs"] == 2
        assert policy["updates"] == last[keys[0]]["updates"]
    assert report["claims"][0]["verdict"] == "reproduced"
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 5
    assert "<svg" in (tmp_path / "t.svg").read_text()
    assert "gradient noise scale" in (tmp_path / "noise.svg").read_text()
    assert "## tiny" in (tmp_path / "T.md").read_text()
    # Read back from MLflow, the sums are those of the journals, over both seeds.
    rows = [row for run_rows in journal_rows(tmp_path).values() for row in run_rows]
    assert report["noise_measured"]
    assert sum(row["noise_n"] for row in rows) > 0
    # The page also opens from the launch, in MLflow.
    client, runs = children(tmp_path)
    stored = client.download_artifacts(runs[0].data.tags["mlflow.parentRunId"], "report.html", tmp_path)
    assert Path(stored).read_text() == (tmp_path / "t.html").read_text()
    assert f"{report['policies'][0]['test_accuracy']['mean']:.2f}" in Path(stored).read_text()


def test_an_overridden_run_is_another_run_whose_numbers_are_not_the_papers(sweep, tmp_path):
    small = ("--scale", 0.5, "--model", "mlp", "--seeds", 1)
    refused = lrbs("run", sweep, *small, "--serial", cwd=tmp_path)
    assert refused.returncode == 2
    assert "model mlp has no batch norm" in refused.stderr

    small = ("--scale", 0.5, "--seeds", 1)
    assert lrbs("run", sweep, *small, "--serial", cwd=tmp_path).returncode == 0
    _, runs = children(tmp_path)
    assert {(run.data.tags["lrbs.overrides"], run.data.params["epochs"]) for run in runs} == {("scale=0.5", "1.0")}
    report = document(lrbs("report", sweep, *small, "--json", cwd=tmp_path))
    assert report["overrides"] == {"scale": "0.5"}
    assert report["claims"][0]["measured"]["n"] == 1
    assert report["claims"][0]["verdict"] == "other settings"
    whole = lrbs("report", sweep, cwd=tmp_path)
    assert "2 run(s) made with scale=0.5" in whole.stderr


def test_killed_and_run_again_is_as_if_never_killed(tmp_path):
    import torch

    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    arguments = ["run", write_sweep(tmp_path / "tiny.py", epochs=12, seeds=1), "--serial",
                 "--checkpoint-seconds", 0.3]  # fmt: skip
    for rows in (3, 9, 16):
        kill_at_row(rows, arguments, cwd=tmp_path / "killed")
    for name in ("killed", "whole"):
        result = lrbs(*arguments, cwd=tmp_path / name)
        assert result.returncode == 0, result.stderr

    killed, whole = (journal_rows(tmp_path / name) for name in ("killed", "whole"))
    assert killed.keys() == whole.keys()
    for key in whole:
        assert len(whole[key]) == 12
        assert unclocked(killed[key]) == unclocked(whole[key])
        states = [
            torch.load(next((tmp_path / name).rglob(f"{key}/checkpoint.pt")), weights_only=True)
            for name in ("killed", "whole")
        ]
        for part in ("model", "optimizer"):
            assert bits(states[0][part]) == bits(states[1][part])

    client, runs = children(tmp_path / "killed")
    assert sorted(run.data.tags["lrbs.key"] for run in runs) == sorted(whole)
    assert all(run.info.status == "FINISHED" for run in runs)
    for run in runs:
        rows = killed[run.data.tags["lrbs.key"]]
        for name in METRICS:
            history = client.get_metric_history(run.info.run_id, name)
            assert sorted((point.step, point.timestamp, point.value) for point in history) == [
                (row["row"], row["time_ms"], row[name]) for row in rows
            ]


def test_a_sweep_run_as_a_script_does_what_lrbs_run_does(sweep, tmp_path):
    result = subprocess.run(
        [sys.executable, sweep, "--offline", "--seeds", "1"], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert len(journal_rows(tmp_path)) == 2
    assert "decaying" in result.stdout


def test_a_failed_run_ends_in_exit_code_1_and_the_others_are_done(sweep, tmp_path):
    first = document(lrbs("plan", sweep, "--json", cwd=tmp_path))["runs"][0]["key"]
    (tmp_path / "lrbs-runs" / "tiny" / first / "checkpoint.pt").mkdir(parents=True)
    result = lrbs("run", sweep, "--offline", cwd=tmp_path)
    assert result.returncode == 1
    assert "decaying seed=0: failed: IsADirectoryError" in result.stderr
    assert "1 run(s) failed" in result.stderr
    assert "Traceback" not in result.stderr
    (tmp_path / "lrbs-runs" / "tiny" / first / "checkpoint.pt").rmdir()
    assert lrbs("run", sweep, "--offline", cwd=tmp_path).returncode == 0


def imagefolder(root, broken=False):
    for split in ("train", "test"):
        for number in range(40):
            path = root / "pictures" / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (number, 0, 0)).save(path)
    if broken:
        (root / "pictures" / "train" / "a" / "2.png").write_bytes(b"not a picture")


SPEC = """
from lrbs_core import Policy, RunSpec, Steps
SOURCE, CLAIMS = "made up", ()
def runs():
    return [RunSpec(label="bad", policy=Policy(0.1, {batch}, {momentum}), dataset={dataset!r}, examples={examples},
            model="convnet", optimizer="sgd", weight_decay=0.0, ghost_size={ghost}, augmentation="none",
            normalization="channel", epochs=1, partial="keep", seed=0)]
"""
GOOD = {"batch": 16, "momentum": 0.9, "dataset": "digits", "examples": 0, "ghost": 8}
PICTURES = {"dataset": "imagefolder:pictures", "examples": 40}


@pytest.mark.parametrize(("asked", "says"), [
    (None, "micro-batches are 150 and 300 examples where the ghost size is, above the default of 128\n"), (512, ""),
])  # fmt: skip
def test_before_it_runs_it_says_where_the_default_micro_batch_gives_way(monkeypatch, capsys, asked, says):
    monkeypatch.setattr(training, "prepare", lambda *_: None)
    specs = [noise_spec(batch_size=300, examples=300, model="convnet", ghost_size=size) for size in (300, 8, 150)]
    prepare(specs, Machine(device="cpu", micro_batch=asked))
    assert capsys.readouterr().err == says


def test_a_search_whose_runs_differ_in_bf16_says_so(tmp_path, capsys):
    launch = Launch({"sweep": "made"}, runs=2, out=tmp_path, tracking_uri=None, offline=True)
    with launch:
        for seed, machine in enumerate(("a CPU, torch 2", "a CPU, torch 2, bf16")):
            spec = made_spec(seed=seed)
            launch.opened(
                RunFolder.create(tmp_path, "made", spec), Record(spec.key, "finished", machine, [made_row(1)])
            )
    assert "in bf16 are decaying (seed 1), the others in float32." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        ({"batch": 0}, [], "batch_size >= 1 must hold, but got batch_size=0"),
        ({"batch": 1438}, [], "1 <= batch_size <= 1437 (the training examples) must hold"),
        ({"ghost": 17}, [], "ghost_size <= batch_size must hold in every epoch, but got ghost_size=17, batch_size=16"),
        ({"ghost": None}, [], "run 'bad': model convnet needs a ghost_size"),
        ({"momentum": 1}, [], "0 <= momentum < 1 must hold, but got momentum=1"),
        ({}, ["--model", "resnet9"], "depth = 6n + 2 must hold"),
        ({}, ["--model", "alexnot"], "model must be one of caffe_quick"),
        (
            {},
            ["--dataset", "mnist"],
            "dataset must be one of digits, cifar10, cifar100, imagenet or imagefolder:NAME, but got 'mnist'",
        ),
        ({}, ["--scale", "0"], "scale > 0 must hold"),
        ({}, ["--device", "abacus"], "device must be auto, cpu, cuda"),
        ({}, ["--out", "bad.py"], ": Not a directory"),
        ({}, ["--micro-batch", "4"], "micro_batch >= ghost_size must hold"),
        ({"dataset": "imagefolder:nothing", "examples": 40}, [], "dataset folder missing: "),
        (PICTURES | {"examples": 41}, [], "must have the 41 training examples of the plan, but got 40"),
        (PICTURES, [], "1 unreadable image(s) of 80 in "),
        ({}, ["--tracking-uri", "http://127.0.0.1:9"], "tracking store http://127.0.0.1:9 cannot be reached"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_bad_input_is_one_line_and_exit_code_2(change, options, says, tmp_path):
    imagefolder(tmp_path, broken="unreadable" in says)
    (tmp_path / "bad.py").write_text(SPEC.format(**GOOD | change))
    result = lrbs(
        "run", "bad.py", "--serial", "--data-dir", ".", *options, cwd=tmp_path,
        LRBS_CACHE=str(tmp_path / "cache"), MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert says in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stdout == ""
    assert journal_rows(tmp_path) == {}


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (["plan", "--figure", "x.pdf"], "a figure must be .svg or .png"),
        (["plan", "--figure", "away/x.svg"], "a file to write must lie in a folder that is there, and not be one"),
        (["report", "--csv", "away/x.csv"], "a file to write must lie in a folder that is there, and not be one"),
        (["report", "--html", "."], "a file to write must lie in a folder that is there, and not be one"),
    ],
)
def test_what_cannot_be_written_is_said_first(sweep, tmp_path, written, says):
    command, *option = written
    result = lrbs(command, sweep, *option, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"lrbs: {says}, but got {option[-1]}\n"


def test_an_unreadable_image_is_named(tmp_path):
    imagefolder(tmp_path, broken=True)
    (tmp_path / "bad.py").write_text(SPEC.format(**GOOD | PICTURES))
    arguments = ("run", "bad.py", "--offline", "--data-dir", ".")
    refused = lrbs(*arguments, cwd=tmp_path, LRBS_CACHE=str(tmp_path / "cache"))
    assert "train/a/2.png" in refused.stderr
    imagefolder(tmp_path)
    assert lrbs(*arguments, cwd=tmp_path, LRBS_CACHE=str(tmp_path / "cache")).returncode == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "a sweep must be a Python file, but got nothing.py: no such file"),
        ("SOURCE = (", "nothing.py:1: SyntaxError"),
        ("SOURCE = ''\nCLAIMS = 1 / 0", "nothing.py:2: ZeroDivisionError: division by zero"),
        ("SOURCE, CLAIMS = '', ()", "runs is missing"),
        ("SOURCE, CLAIMS = '', ()\ndef runs(): return []", "runs() must give at least one run"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "run", "report"])
def test_a_sweep_that_cannot_be_loaded_is_one_line(verb, content, says, tmp_path):
    if content is not None:
        (tmp_path / "nothing.py").write_text(content)
    result = lrbs(verb, "nothing.py", cwd=tmp_path)
    assert result.returncode == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_sync_of_a_folder_without_runs_is_one_line(tmp_path):
    for folder, says in ((".", "must hold runs (spec.json)"), ("nowhere", "no such folder")):
        result = lrbs("sync", folder, cwd=tmp_path)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1)
        assert says in result.stderr


@pytest.mark.parametrize("verb", ["", "plan", "run", "range-test", "sync", "report"])
def test_help_has_an_example(verb, tmp_path):
    result = lrbs(*filter(None, [verb, "--help"]), cwd=tmp_path, COLUMNS="100")
    assert result.returncode == 0
    assert f"Example: lrbs {verb}" in result.stdout or not verb
    for line in result.stdout.splitlines():
        assert len(line) <= 100


def test_json_is_all_there_is_on_standard_output(sweep, tmp_path):
    for arguments in (("plan", sweep, "--json"), ("report", sweep, "--json")):
        result = subprocess.run(
            command(*arguments), cwd=tmp_path, capture_output=True, text=True, env=os.environ, timeout=120
        )
        assert json.loads(result.stdout)["sweep"] == "tiny"
