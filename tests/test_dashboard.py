"""The dashboard's pages, each run as Streamlit runs it, on stores of every kind."""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from made import made_row, made_run, made_spec, write_sweep
from scipy import stats
from streamlit.testing.v1 import AppTest

import dashboards
from lrbs_core import Policy, Steps, make_plan, store, sweeping, tracking
from lrbs_core.journal import RunFolder

PAGES = Path(dashboards.__file__).parent


@pytest.fixture(scope="module")
def migrated(tmp_path_factory) -> Path:
    """An empty SQLite store, made once: migrating takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    store.connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def client(tmp_path, migrated, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(migrated.read_bytes())
    (tmp_path / "sweeps").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return store.connect(None)


def deliver(client, *folders: RunFolder) -> None:
    delivery = tracking.Delivery(client, folders)
    delivery.deliver()
    assert delivery.error == ""
    delivery.close()


ACCURACIES = {"decaying": [80.0, 82.0, 81.0], "growing": [80.5, 82.2, 81.6]}


def made_sweep(client, root: Path, sweep: str = "made", accuracies=ACCURACIES, **changes) -> None:
    """Finished runs of three rows whose last accuracies these are, by policy and seed."""
    folders = []
    for place, (label, values) in enumerate(accuracies.items()):
        for seed, accuracy in enumerate(values):
            spec = replace(made_spec(label, seed), policy=Policy(0.1 + place / 10, 16, 0.9), **changes)
            rows = [made_row(n, accuracy - 3 + n) | {"epoch": float(n), "updates": 90 * n} for n in (1, 2, 3)]
            folders.append(made_run(root, spec, rows, sweep=sweep))
    deliver(client, *folders)


def page(name: str) -> AppTest:
    shown = AppTest.from_file(str(PAGES / f"{name}.py"), default_timeout=60).run()
    assert not shown.exception
    return shown


def tables(shown: AppTest) -> list[pd.DataFrame]:
    return [table.value for table in shown.table]


@pytest.mark.parametrize("name", ["live", "compare"])
def test_an_empty_store_says_how_to_fill_it(client, name):
    assert "lrbs run SWEEP" in page(name).info[0].value


@pytest.mark.parametrize("name", ["live", "compare", "paper"])
def test_a_store_that_cannot_be_reached_is_one_line_without_its_password(client, monkeypatch, tmp_path, name):
    write_sweep(tmp_path / "sweeps" / "tiny.py")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:1")
    (error,) = page(name).error
    assert "cannot be reached" in error.value
    assert "secret" not in error.value


def test_what_else_is_in_the_store_is_passed_over(client, tmp_path):
    made_sweep(client, tmp_path)
    foreign = client.create_experiment("somebody's")
    client.log_metric(client.create_run(foreign).info.run_id, "loss", 1.0)
    among = client.create_run(client.get_experiment_by_name("made").experiment_id)
    client.log_metric(among.info.run_id, "test_accuracy", 0.0)
    shown = page("compare")
    assert shown.multiselect[0].options == ["made"]
    assert tables(shown)[0]["n"].tolist() == ["3", "3"]


def test_live_tells_what_runs_and_for_how_long(client, tmp_path):
    # Half of its 3 epochs in two rows, half a second a row by the clock: 1.5 epochs to go at 1.5 epochs a second.
    rows = [made_row(n, 70.0, time_ms=1_700_000_000_000 + 500 * n) | {"epoch": 0.75 * n} for n in (1, 2)]
    folders = [
        made_run(tmp_path, made_spec("decaying", 0), rows, status="running"),
        made_run(tmp_path, made_spec("decaying", 1), [made_row(1) | {"epoch": 3.0}]),
    ]
    waiting = RunFolder.create(tmp_path, "made", made_spec("decaying", 2))
    deliver(client, *folders, waiting)
    shown = page("live")
    assert {metric.label: metric.value for metric in shown.metric} == {
        "Runs at their end": "1 of 3", "Running": "1", "Failed": "0",
        "Time to go": "about 0:00:03",  # 1.5 epochs of this run and 3 of the one that waits
    }  # fmt: skip
    (runs,) = (frame.value for frame in shown.dataframe)
    assert runs[["seed", "status", "done"]].values.tolist() == [[0, "running", 0.5], [1, "finished", 1.0]]


def test_compare_shows_the_numbers_of_an_independent_computation(client, tmp_path):
    made_sweep(client, tmp_path)
    first, second = (pd.Series(values) for values in ACCURACIES.values())
    policies, differences = tables(page("compare"))
    half = stats.t.ppf(0.975, 2) * second.std() / math.sqrt(3)
    assert policies.loc[1, "test accuracy (%)"] == f"{second.mean():.2f} ± {half:.2f}".replace(".", r"\.")
    gain = second - first
    half = stats.t.ppf(0.975, 2) * gain.std() / math.sqrt(3)
    assert differences.loc[0, "difference (%)"] == f"{gain.mean():.2f} ± {half:.2f}".replace(".", r"\.")
    assert differences.loc[0, "p (Holm)"] == f"{stats.ttest_rel(second, first).pvalue:.2g}".replace(".", r"\.")


def test_compare_answers_what_is_asked(client, tmp_path):
    made_sweep(client, tmp_path)
    shown = page("compare")
    by_label = {box.label: box for box in shown.selectbox}
    by_label["x-axis"].select("train_seconds")
    by_label["Baseline"].select("growing")
    numbers = {box.label.partition(":")[0]: box for box in shown.number_input}
    numbers["Margin"].set_value(5.0)
    numbers["Target"].set_value(81.0)
    shown.run()
    assert not shown.exception
    _, differences, targets = tables(shown)
    assert differences[["policy", "verdict"]].values.tolist() == [["decaying", "equivalent"]]
    assert targets[["updates to 81 %", "reached"]].values.tolist() == [["270", "2 of 3"], ["270", "2 of 3"]]
    chart = json.loads(shown.get("vega_lite_chart")[0].proto.spec)
    assert {layer["encoding"]["x"]["field"] for layer in chart["layer"]} == {"train_seconds"}


def test_sweeps_side_by_side_keep_their_names_and_a_run_of_both_counts_once(client, tmp_path):
    made_sweep(client, tmp_path, "one")
    made_sweep(client, tmp_path, "two", ACCURACIES | {"else": [70.0, 71.0, 72.0]})
    shown = page("compare")
    shown.multiselect[0].set_value(["one", "two"]).run()
    assert not shown.exception
    policies = tables(shown)[0]
    assert policies["policy"].tolist() == [r"one\: decaying", r"one\: growing", r"two\: else"]


def test_runs_of_other_settings_are_apart(client, tmp_path):
    made_sweep(client, tmp_path)
    made_sweep(client, tmp_path, "made", {"decaying": [97.2222] * 3}, epochs=2.0, overrides=(("scale", "0.5"),))
    shown = page("compare")
    (settings,) = (box for box in shown.selectbox if box.label.startswith("Settings"))
    settings.select("scale=0.5").run()
    assert tables(shown)[0]["test accuracy (%)"].tolist() == [r"97\.22 ± 0\.28"]


def test_a_policy_changed_under_its_label_is_told_apart(client, tmp_path):
    made_sweep(client, tmp_path, accuracies={"decaying": [80.0, 81.0]})
    made_sweep(client, tmp_path, accuracies={"decaying": [60.0, 61.0]}, weight_decay=0.1)
    assert tables(page("compare"))[0]["policy"].tolist() == ["decaying", r"decaying \(2\)"]


def test_names_are_shown_as_they_are(client, tmp_path):
    label = "<script>alert(1)</script> [x](http://y) *b*"
    made_sweep(client, tmp_path, accuracies={label: [80.0, 81.0]})
    (shown,) = tables(page("compare"))[0]["policy"]
    assert shown == r"\<script\>alert\(1\)\</script\> \[x\]\(http\://y\) \*b\*"


def test_more_policies_than_colours(client, tmp_path):
    made_sweep(client, tmp_path, accuracies={f"policy {n}": [50.0 + n, 51.0 + n] for n in range(14)})
    assert len(tables(page("compare"))[0]) == 14
    page("live")


def test_paper_puts_claims_beside_what_was_measured(client, tmp_path):
    write_sweep(tmp_path / "sweeps" / "tiny.py")
    planned = page("paper")
    claims, policies = tables(planned)
    assert claims["verdict"].tolist() == ["not run"]
    assert "lrbs run" in planned.info[0].value
    assert policies["updates"].tolist() == ["270", "170"]  # 1437 digits: 90 + 45 + 12 + 23 with B 64 from 1.5 epochs on


def test_paper_has_the_policies_in_the_order_of_the_file_whichever_began_first(client, tmp_path):
    path = write_sweep(tmp_path / "sweeps" / "tiny.py")
    for spec in reversed(sweeping.load(path).runs):
        deliver(client, made_run(tmp_path, spec, [made_row(1)], sweep="tiny"))
    assert tables(page("paper"))[1]["policy"].tolist() == ["decaying", "growing"]


def test_compare_names_whose_seeds_share_no_time(client, tmp_path):
    specs = [made_spec(seed=0), made_spec(seed=1)]
    rows = [[made_row(n) | {"train_seconds": n + 10.0 * spec.seed} for n in (1, 2)] for spec in specs]
    deliver(client, *map(partial(made_run, tmp_path), specs, rows))
    shown = page("compare")
    next(box for box in shown.selectbox if box.label == "x-axis").select("train_seconds").run()
    assert "do not overlap" in shown.caption[0].value


def test_plan_draws_what_its_python_makes(client):
    shown = page("plan")
    sliders = {slider.label: slider for slider in shown.slider}
    sliders["Scale lr and batch size by"].set_value(5)
    sliders["Epochs"].set_value(205)
    shown.run()
    assert not shown.exception
    names: dict = {}
    exec(shown.code[0].value, names)
    assert names["policy"] == Policy(Steps(0.1, at=(61.5, 123, 164), factor=0.2), 128, 0.9)
    assert names["twin"] == names["policy"].scale(5).grow_batch(max_batch_size=4096)
    updates = [
        make_plan(names[name], examples=50_000, epochs=205, partial="keep").updates
        for name in names
        if name in ("policy", "twin")
    ]
    assert tables(shown)[0]["updates"].tolist() == [f"{number:,}" for number in updates]


def test_plan_says_what_is_kept_and_can_keep_the_noise_scale_itself(client):
    shown = page("plan")
    {slider.label: slider for slider in shown.slider}["Scale lr and batch size by"].set_value(32)
    shown.run()
    assert any("below policy's" in caption.value for caption in shown.caption)
    next(toggle for toggle in shown.toggle if "N/B" in toggle.label).set_value(True).run()
    assert not shown.exception
    assert not any("below policy's" in caption.value for caption in shown.caption)
    names: dict = {}
    exec(shown.code[0].value, names)
    assert names["twin"] == names["policy"].scale(32, exact=50_000).grow_batch(max_batch_size=4096, exact=50_000)


@pytest.mark.parametrize(
    "curve",
    [
        "Constant", "Cosine", "Linear", "Polynomial", "Exponential", "Triangular", "Triangular2", "ExpRange", "Welch",
        "Hann",
    ],
)  # fmt: skip
def test_every_curve_can_be_planned(client, curve):
    shown = page("plan")
    next(box for box in shown.selectbox if box.label == "Learning rate").select(curve).run()
    assert not shown.exception
    assert not shown.error
    names: dict = {}
    exec(shown.code[0].value, names)
    assert type(names["policy"].lr).__name__ == curve


def test_a_policy_that_cannot_be_is_refused_in_one_line(client):
    shown = page("plan")
    next(box for box in shown.text_input).set_value("80, 40").run()
    assert "at" in shown.error[0].value
    assert not shown.exception
