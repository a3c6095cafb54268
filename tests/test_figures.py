"""What the figures show: numbers against known truths. How they are drawn: tests/test_figures_drawn.py."""

import dataclasses
import math
import re

import pandas as pd
import pytest
from made import made_noise, made_row, made_spec

from lrbs_core import Policy, Steps, figures
from lrbs_core.schedules import Polynomial, Triangular
from lrbs_core.store import Record


def pair(label, seed, rows, status="finished"):
    spec = made_spec(label, seed)
    return spec, Record(spec.key, status, "", rows)


@pytest.fixture
def specs():
    policy = Policy(lr=Steps(0.1, at=(1, 2), factor=0.2), batch_size=16, momentum=0.9)
    policies = {"decaying": policy, "growing": policy.grow_batch()}
    return [
        dataclasses.replace(made_spec(label, seed), policy=policies[label]) for label in policies for seed in range(3)
    ]


def test_settings_are_the_policys_at_every_epoch_and_jump_where_it_jumps(specs):
    numbers = figures.settings_numbers(specs)
    growing = numbers[numbers["policy"] == "growing"]
    assert set(growing["lr"]) == {0.1}
    assert set(growing["momentum"]) == {0.9}
    before, after = growing[growing["epoch"] < 1], growing[growing["epoch"] >= 1]
    assert set(before["batch_size"]) == {16}
    assert set(after["batch_size"]) == {80, 400}
    # 0.1 (1437/16 - 1)/(1 - 0.9), and so on, of the 1437 digits.
    assert before["noise_scale"].tolist() == pytest.approx([88.8125] * len(before))
    assert sorted(set(after["noise_scale"].round(9))) == [2.5925, 16.9625]
    # Both sides of the jump are there, so that the line is upright: no slope over a grid's cell.
    edge = growing[growing["epoch"].between(1 - 1e-6, 1)]
    assert edge["batch_size"].tolist() == [16, 80]


@pytest.mark.parametrize("points", [1, 400])
def test_settings_go_to_the_end_but_no_lower_than_an_update(points):
    spec = dataclasses.replace(made_spec(epochs=30), policy=Policy(Polynomial(8, 0.0, epochs=30, power=2), 16, 0.9))
    numbers = figures.settings_numbers([spec], points)
    assert numbers["epoch"].iloc[-1] >= 0.99 * 30
    assert min(update.setting.lr for update in spec.walk()) < numbers["lr"].min() < 1e-3


@pytest.mark.parametrize("metric", ["test_accuracy", "train_loss", "test_loss"])
def test_a_metric_is_mean_and_interval_over_seeds_by_row(metric):
    pairs = [
        pair(label, seed, [made_row(n) | {"updates": 7 * n, metric: value + 5 * n + seed} for n in (1, 2)])
        for label, value in (("b", 80.0), ("a", 1.0))
        for seed in range(3)
    ]
    numbers = figures.metric_numbers(pairs, metric)
    assert numbers[["policy", "row", "epoch", "updates", "mean", "n"]].values.tolist() == [
        ["b", 1, 1.0, 7, 86.0, 3], ["b", 2, 2.0, 14, 91.0, 3], ["a", 1, 1.0, 7, 7.0, 3], ["a", 2, 2.0, 14, 12.0, 3],
    ]  # fmt: skip
    # t of 2 degrees of freedom, deviation 1 over 3 seeds.
    assert (numbers["high"] - numbers["mean"]).tolist() == pytest.approx([4.302653 / 3**0.5] * 4, rel=1e-6)
    if metric == "test_accuracy":
        pd.testing.assert_frame_equal(figures.accuracy_numbers(pairs), numbers)


def test_a_run_that_diverges_between_two_rows_of_the_others_is_in_no_mean_with_them():
    rows = [made_row(n, 90.0 + n) | made_noise() for n in (1, 2, 3)]
    fallen = [*rows[:2], rows[2] | {"epoch": 2.1, "updates": 2.1, "test_accuracy": 10.0}]
    pairs = [pair("a", 0, fallen, "diverged"), pair("a", 1, rows), pair("fallen", 0, fallen, "diverged")]
    numbers = figures.accuracy_numbers(pairs)
    assert numbers[["policy", "epoch", "mean", "n"]].values.tolist() == [
        ["a", 1.0, 91.0, 2], ["a", 2.0, 92.0, 2], ["a", 3.0, 93.0, 1],
        ["fallen", 1.0, 91.0, 1], ["fallen", 2.0, 92.0, 1], ["fallen", 2.1, 10.0, 1],
    ]  # fmt: skip
    assert figures.noise_numbers(pairs)[["epoch", "n"]].values.tolist()[:3] == [[1, 2], [2, 2], [3, 1]]


def timed(label, seed, points):
    rows = [made_row(n, accuracy) | {"train_seconds": time} for n, (time, accuracy) in enumerate(points, start=1)]
    return pair(label, seed, rows)


def test_seconds_are_those_that_all_seeds_span_and_the_mean_of_lines_is_a_line():
    # Both seeds are on lines of slope 2, 4 apart, whatever the times of their rows.
    pairs = [
        timed("a", 0, [(t, 2 * t) for t in (10.0, 20.0, 30.0)]),
        timed("a", 1, [(t, 2 * t + 4) for t in (15.0, 25.0, 40.0)]),
    ]
    numbers = figures.seconds_numbers(pairs, "test_accuracy")
    assert numbers["train_seconds"].tolist() == [15, 20, 25, 30]
    assert numbers["mean"].tolist() == pytest.approx([32, 42, 52, 62])
    # t of 1 degree of freedom times 2 sqrt(2)/sqrt(2).
    assert (numbers["high"] - numbers["mean"]).tolist() == pytest.approx([12.706205 * 2] * 4, rel=1e-6)
    assert set(numbers["n"]) == {2}


def test_seconds_of_one_seed_are_its_rows_without_a_band_and_no_curve_goes_beyond_its_rows():
    points = [(3.0, 10.0), (5.0, 50.0), (6.0, 20.0)]
    alone = figures.seconds_numbers([timed("a", 0, points)], "test_accuracy")
    assert alone[["train_seconds", "mean"]].values.tolist() == [list(point) for point in points]
    assert alone["low"].isna().all()
    apart = [timed("a", 0, points), timed("a", 1, [(7.0, 1.0), (9.0, 2.0)])]
    assert figures.seconds_numbers(apart, "test_accuracy").empty
    pairs = [*apart, timed("b", 0, points), timed("none yet", 0, [])]
    told = figures.left_out(pairs, figures.seconds_numbers(pairs, "test_accuracy"))
    assert told == " Left out, as the times of the seeds do not overlap: a."
    assert figures.left_out(pairs[2:], figures.seconds_numbers(pairs, "test_accuracy")) == ""


def noisy(label, seed, measured, noise_scale=50.0):
    rows = [
        made_row(n) | {"noise_scale": noise_scale} | ({} if noise is None else made_noise(*noise))
        for n, noise in enumerate(measured, start=1)
    ]
    return pair(label, seed, rows)


def test_measured_noise_is_the_ratio_of_the_sums_over_all_seeds():
    numbers = figures.noise_numbers([
        noisy("a", 0, [(100.0, 3.0), (10.0, 1.0), None]),
        noisy("a", 1, [(300.0, 1.0), (10.0, 0.01, 400.0), None]),
        noisy("unmeasured", 0, [None], noise_scale=7.0),
    ])  # fmt: skip
    told = numbers.set_index(["policy", "row"])
    assert told["noise_scale"].tolist() == [50, 50, 50, 7]
    assert told["n"].tolist() == [2, 2, 0, 0]
    # (100 + 300) / (3 + 1), where the mean of the seeds' readings would be 167.
    first = told.loc[("a", 1)]
    assert first["gradient_noise_scale"] == pytest.approx(100)
    assert first["low"] < 100 < first["high"]
    # One seed's |G|^2 hides in its noise: together they tell a lower bound.
    second = told.loc[("a", 2)]
    assert second[["gradient_noise_scale", "high"]].isna().all()
    assert 0 < second["low"] < 20
    assert told["low"].isna().tolist() == [False, False, True, True]


def test_a_measured_noise_scale_without_a_planned_one_has_a_panel_of_its_own():
    for planned, panels in ((50.0, 2), (math.nan, 1)):
        numbers = figures.noise_numbers([noisy("a", seed, [(100.0, 3.0)] * 3, planned) for seed in (0, 1)])
        assert numbers["noise_scale"].isna().all() == (panels == 1)
        assert len(figures.noise_chart(numbers).concat) == panels


@pytest.mark.parametrize("measured", [None, (math.nan, math.nan)])
def test_noise_that_was_never_measured_is_refused(measured):
    with pytest.raises(ValueError, match=r"^a figure of noise .*--measure-noise$"):
        figures.noise_numbers([noisy("a", 0, [measured])])


def test_the_trade_is_of_the_last_row_of_finished_runs():
    def run(label, seed, accuracy, updates, status="finished"):
        return pair(label, seed, [made_row(1, 5.0), made_row(2, accuracy) | {"updates": updates}], status)

    numbers = figures.trade_numbers([
        *(run("slow", seed, 90.0 + seed, 8000) for seed in range(3)), run("slow", 3, 10.0, 4000, "diverged"),
        run("fast", 0, 88.0, 250), run("fast", 1, 1.0, 100, "running"), run("never", 0, 1.0, 1, "failed"),
    ])  # fmt: skip
    assert numbers[["policy", "updates", "mean", "n"]].values.tolist() == [
        ["slow", 8000, 91.0, 3],
        ["fast", 250, 88.0, 1],
    ]
    assert numbers["low"].tolist() == pytest.approx([91 - 4.302653 / 3**0.5, math.nan], nan_ok=True, rel=1e-6)
    with pytest.raises(ValueError, match=r"^a figure of final accuracies needs a finished run"):
        figures.trade_numbers([run("a", 0, 1.0, 1, "running")])


def test_cycles_are_counted_for_cyclical_policies_alone_once_for_all_seeds(specs):
    cyclical = [
        dataclasses.replace(made_spec("c", seed), policy=Policy(Triangular(0.1, 1, 0.5), 16, 0.9)) for seed in (0, 1)
    ]
    numbers = figures.cycles_numbers([*specs, *cyclical])
    assert numbers.values.tolist() == [["c", 1, 1.0], ["c", 2, 2.0], ["c", 3, 3.0]]
    assert figures.cycles_numbers(specs).empty


def test_a_heat_map_has_mean_and_n_of_each_pair_that_was_searched():
    table = pd.DataFrame(
        [(0.9, 2, 80.0), (0.9, 2, 84.0), (0.9, 5, 70.0), (0.98, 5, math.nan), (0.98, 5, 60.0)],
        columns=["policy.m[0]", "growth", "accuracy"],
    )
    numbers = figures.heat_numbers(table, "policy.m[0]", "growth", "accuracy")
    assert numbers[["x", "y", "n"]].values.tolist() == [[0.9, 2, 2], [0.9, 5, 1], [0.98, 5, 2]]
    assert numbers["mean"].tolist() == pytest.approx([82, 70, math.nan], nan_ok=True)


def test_a_heat_map_refuses_what_is_no_grid_of_numbers():
    table = pd.DataFrame({"a": range(25), "b": 1.0, "text": "x"})
    for columns, rule in (
        (("a", "b", "lr"), r"columns of numbers, but got lr: choose from a, b$"),
        (("text", "b", "b"), r"columns of numbers, but got text"),
        (("a", "b", "b"), r"at most 24 values an axis, but got 25 of a"),
    ):
        with pytest.raises(ValueError, match=rule):
            figures.heat_numbers(table, *columns)


@pytest.fixture
def ramps():
    """Two seeds whose accuracy turns at the same lr but for a factor 2."""
    curve = [10.0] * 5 + [20.0, 40.0, 60.0] + [80.0] * 10 + [50.0, 10.0, 10.0, 10.0]
    rows = [made_row(n, accuracy) | {"lr": n / 100} for n, accuracy in enumerate(curve, start=1)]
    return [pair("ramp", seed, rows) for seed in range(2)]


def test_a_range_test_shows_every_row_and_the_running_median_of_each_seed(ramps):
    numbers = figures.range_numbers(ramps)
    assert numbers.groupby("seed").size().tolist() == [22, 22]
    assert numbers["test_accuracy"].tolist() == 2 * [row["test_accuracy"] for row in ramps[0][1].rows]
    first = numbers[numbers["seed"] == 0].set_index("lr")["smoothed"]
    assert (first[0.05], first[0.06], first[0.07], first[0.19]) == (10, 20, 40, 50)


@pytest.mark.parametrize("geometric", [False, True])
def test_a_range_tests_rules_stand_at_the_bounds_and_say_where_they_are_none(geometric, ramps):
    interval = {"mean": 0.06, "low": 0.05, "high": 0.07, "n": 2}
    document = {
        "low": interval, "high": dict.fromkeys(interval) | {"mean": 0.2, "n": 1}, "low_found": True,
        "high_found": False, "ramp": {"geometric": geometric},
    }  # fmt: skip
    chart = figures.range_chart(figures.range_numbers(ramps), document)
    drawn = figures.svg(chart)
    for expected in ("<svg", "low 0.06", "high &gt; 0.2", "learning rate", *figures.COLOURS[:3]):
        assert expected in drawn
    band, points, *_ = chart.to_dict()["layer"]
    assert (points["encoding"]["x"]["scale"].get("type") == "log") == geometric
    bands = chart.to_dict()["datasets"][band["data"]["name"]]
    assert [(part["low"], part["high"]) for part in bands] == [(0.05, 0.07)]


@pytest.mark.parametrize("none", ["low", "high"])
def test_the_bounds_of_a_range_test_keep_their_colours_where_one_has_no_interval(none, ramps):
    interval = {"mean": 0.06, "low": 0.05, "high": 0.07, "n": 2}
    document = {"low": interval, "high": interval, "low_found": True, "high_found": True, "ramp": {"geometric": False}}
    document |= {none: interval | {"low": None, "high": None}, f"{none}_found": False}
    drawn = figures.svg(figures.range_chart(figures.range_numbers(ramps), document))
    colours = {name: colour for colour, name in re.findall(r'fill="(#\w+)"[^>]*>(low|high)[^<]*</text>', drawn)}
    assert colours == {"low": figures.COLOURS[2], "high": figures.COLOURS[1]}
