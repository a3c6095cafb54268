import dataclasses

import pytest
from made import made_row, made_spec

from lrbs_core import Policy, Steps, figures
from lrbs_core.tracking import Record


@pytest.fixture
def specs():
    policy = Policy(lr=Steps(0.1, at=(1, 2), factor=0.2), batch_size=16, momentum=0.9)
    policies = {"decaying": policy, "growing": policy.grow_batch()}
    return [
        dataclasses.replace(made_spec(label, seed), policy=policies[label]) for label in policies for seed in range(3)
    ]


@pytest.fixture
def pairs(specs):
    return [
        (spec, Record(spec.key, "finished", "", [made_row(n, 80.0 + 5 * n + spec.seed) for n in (1, 2)]))
        for spec in specs
    ]


def test_settings_are_the_policys_at_every_epoch_and_jump_where_it_jumps(specs):
    numbers = figures.settings_numbers(specs)
    growing = numbers[numbers["policy"] == "growing"]
    assert set(growing["lr"]) == {0.1}
    before, after = growing[growing["epoch"] < 1]["batch_size"], growing[growing["epoch"] >= 1]["batch_size"]
    assert set(before) == {16}
    assert set(after) == {80, 400}
    # Both sides of the jump are there, so that the line is upright: no slope over a grid's cell.
    edge = growing[growing["epoch"].between(1 - 1e-6, 1)]
    assert edge["batch_size"].tolist() == [16, 80]


def test_accuracy_is_mean_and_interval_over_seeds(pairs):
    numbers = figures.accuracy_numbers(pairs)
    first = numbers[(numbers["policy"] == "decaying") & (numbers["row"] == 1)].iloc[0]
    assert (first["mean"], first["n"]) == (86.0, 3)
    assert first["high"] - first["mean"] == pytest.approx(4.302653 / 3**0.5, rel=1e-5)


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_a_figure_is_drawn_with_each_policy_in_a_colour_of_its_own(pairs, specs, suffix, tmp_path):
    for chart in (
        figures.accuracy_chart(figures.accuracy_numbers(pairs)),
        figures.settings_chart(figures.settings_numbers(specs)),
    ):
        path = tmp_path / f"chart{suffix}"
        figures.save(chart, path)
        content = path.read_bytes()
        assert content[:4] in (b"<svg", b"\x89PNG")
        if suffix == ".svg":
            text = content.decode()
            for expected in ("decaying", "growing", *figures.COLOURS[:2]):
                assert expected in text


@pytest.fixture
def ramps():
    """Two seeds whose accuracy turns at the same lr but for a factor 2."""
    curve = [10.0] * 5 + [20.0, 40.0, 60.0] + [80.0] * 10 + [50.0, 10.0, 10.0, 10.0]
    rows = [made_row(n, accuracy) | {"lr": n / 100} for n, accuracy in enumerate(curve, start=1)]
    specs = [made_spec(seed=seed) for seed in range(2)]
    return [(spec, Record(spec.key, "finished", "", rows)) for spec in specs]


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


def test_another_suffix_is_refused(specs, tmp_path):
    with pytest.raises(ValueError, match=r"must be .svg or .png"):
        figures.save(figures.settings_chart(figures.settings_numbers(specs)), tmp_path / "chart.gif")
