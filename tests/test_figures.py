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


def test_another_suffix_is_refused(specs, tmp_path):
    with pytest.raises(ValueError, match=r"must be .svg or .png"):
        figures.save(figures.settings_chart(figures.settings_numbers(specs)), tmp_path / "chart.gif")
