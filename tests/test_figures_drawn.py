"""How figures are drawn. The numbers in them: tests/test_figures.py."""

import dataclasses
import html
import itertools
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import made_noise, made_row, made_spec

from lrbs_core import Policy, figures
from lrbs_core.figures.drawing import log_ticks
from lrbs_core.figures.trade import GAP, spread
from lrbs_core.schedules import Triangular, Warmup
from lrbs_core.store import Record

NASTY = ("<b>bold</b> & co", "lr[0].x = 'a'", '\\n {datum.x} | $^2$ "quoted"', "policy:N", "a" + 70 * "x")


def made_pairs(labels, seeds=2, rows=3, lr=None):
    policy = Policy(Triangular(0.01, 0.1, stepsize=0.5) if lr is None else lr, 16, 0.9)
    return [
        (
            dataclasses.replace(made_spec(label, seed), policy=policy),
            Record(
                "", "finished", "", [made_row(n, 80.0 + n + place + seed) | made_noise() for n in range(1, rows + 1)]
            ),
        )
        for place, label in enumerate(labels)
        for seed in range(seeds)
    ]


def every_chart(pairs, policies=None):
    """One of each figure that shows policies, by name."""
    specs, accuracy = [spec for spec, _ in pairs], figures.accuracy_numbers(pairs)
    return {
        "settings": figures.settings_chart(figures.settings_numbers(specs, points=5), policies),
        "accuracy": figures.accuracy_chart(accuracy, policies),
        "loss": figures.metric_chart(figures.metric_numbers(pairs, "train_loss"), "train_loss", policies),
        "seconds": figures.metric_chart(figures.seconds_numbers(pairs, "test_accuracy"), "test_accuracy", policies),
        "noise": figures.noise_chart(figures.noise_numbers(pairs), policies),
        "trade": figures.trade_chart(figures.trade_numbers(pairs), policies),
        "cycles": figures.cycles_chart(accuracy, figures.cycles_numbers(specs), policies),
    }


def parts(document):
    """Every dict within a chart's."""
    if isinstance(document, dict):
        yield document
    if isinstance(document, dict | list):
        for part in document.values() if isinstance(document, dict) else document:
            yield from parts(part)


def styles(chart, channel):
    """Policy -> colour or dash, of all scales of the chart, which must agree."""
    found = {}
    for part in parts(chart.to_dict()):
        scale = part.get(channel, {}).get("scale") if isinstance(part.get(channel), dict) else None
        for policy, style in zip(*(scale["domain"], scale["range"]), strict=True) if scale else ():
            assert found.setdefault(policy, style) == style
    return found


def texts(drawn):
    """What a drawn chart says, as a reader sees it."""
    return [html.unescape(text) for text in re.findall(r"<text[^>]*>(.*?)</text>", drawn)]


def marks(chart, kind):
    """The paths of such marks that are drawn."""
    return re.findall(rf'aria-roledescription="{kind}"[^>]* d="([^"]+)"', figures.svg(chart))


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_a_figure_is_written_as_its_suffix_says_with_each_policy_in_a_colour_of_its_own(suffix, tmp_path):
    path = tmp_path / f"chart{suffix}"
    figures.save(figures.accuracy_chart(figures.accuracy_numbers(made_pairs(["decaying", "growing"]))), path)
    content = path.read_bytes()
    assert content[:4] == (b"<svg" if suffix == ".svg" else b"\x89PNG")
    if suffix == ".svg":
        for expected in ("decaying", "growing", *figures.COLOURS[:2]):
            assert expected in content.decode()


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must be .svg or .png"):
        figures.save(figures.accuracy_chart(figures.accuracy_numbers(made_pairs("a"))), tmp_path / "chart.gif")


def test_a_policy_looks_the_same_in_every_figure_of_a_sweep_also_where_others_lack():
    every, some = every_chart(made_pairs("abc"), list("abc")), every_chart(made_pairs("cb"), list("abc"))
    for name in every.keys() - {"cycles"}:
        assert styles(every[name], "color") == dict(zip("abc", figures.COLOURS, strict=False))
        assert styles(some[name], "color") == {"c": figures.COLOURS[2], "b": figures.COLOURS[1]}
        if name != "trade":
            assert styles(some[name], "strokeDash") == {"c": figures.DASHES[2], "b": figures.DASHES[1]}
    drawn = figures.svg(some["cycles"])
    assert [colour in drawn for colour in figures.COLOURS[:3]] == [False, True, True]


def test_twelve_policies_differ_in_colour_and_dash():
    chart = every_chart(made_pairs("abcdefghijkl", seeds=1))["accuracy"]
    for channel in ("color", "strokeDash"):
        assert len(set(map(str, styles(chart, channel).values()))) == 12


def test_more_policies_have_a_panel_each_and_one_colour():
    labels = [f"policy {number}" for number in range(13)]
    for name, chart in every_chart(made_pairs(labels, rows=2)).items():
        if name in ("settings", "loss", "seconds"):
            continue  # drawn as accuracy is
        drawn = figures.svg(chart)
        assert figures.COLOURS[0] in drawn, name
        assert not any(colour in drawn for colour in figures.COLOURS[1:6]), name
        panels = 2 if name in ("accuracy", "noise") else 1
        assert [texts(drawn).count(label) for label in labels] == 13 * [panels], name


def test_a_label_is_shown_as_it_is():
    for name, chart in every_chart(made_pairs(NASTY, seeds=1)).items():
        drawn = texts(figures.svg(chart))
        assert [label for label in NASTY if label not in drawn] == [], name


def test_a_heat_map_shows_mean_and_n_and_any_title():
    table = pd.DataFrame({"policy.m[0]": [0.9, 0.9, 0.98], "<b>": [2, 2, 10], "value": [80.0, 82.0, float("nan")]})
    names = ("policy.m[0]", "<b>", "value")
    drawn = texts(figures.svg(figures.heat_chart(figures.heat_numbers(table, *names), *names)))
    for expected in (*names, "81", "n = 2", "–", "n = 1", "0.9", "0.98", "10"):
        assert expected in drawn


def test_one_seed_has_a_line_without_a_band_and_one_row_a_point():
    for seeds, bands in ((1, 0), (2, 2)):
        chart = figures.accuracy_chart(figures.accuracy_numbers(made_pairs("a", seeds=seeds)))
        assert len([path for path in marks(chart, "area mark") if "L" in path]) == bands
        assert len(marks(chart, "line mark")) == 2
    single = figures.accuracy_chart(figures.accuracy_numbers(made_pairs("a", seeds=1, rows=1)))
    assert len(marks(single, "point")) == 2


def test_runs_without_a_row_make_an_empty_figure():
    pairs = made_pairs("ab", rows=0)
    for numbers in (figures.accuracy_numbers(pairs), figures.seconds_numbers(pairs, "test_accuracy")):
        assert "<svg" in figures.svg(figures.accuracy_chart(numbers))


def test_a_log_axis_leaves_out_zero():
    specs = [spec for spec, _ in made_pairs("a", seeds=1, lr=Warmup(0.0, epochs=1, then=Triangular(0.1, 1, 1)))]
    numbers = figures.settings_numbers(specs)
    assert numbers["lr"].iloc[0] == 0
    drawn = figures.svg(figures.settings_chart(numbers))
    assert "NaN" not in drawn
    assert "Infinity" not in drawn


def test_cycles_without_rows_have_no_panel_and_none_at_all_no_figure():
    pairs, later = made_pairs("a"), made_pairs("b")
    accuracy, cycles = figures.accuracy_numbers(pairs), figures.cycles_numbers([pairs[0][0], later[0][0]])
    assert set(cycles["policy"]) == {"a", "b"}
    assert "b" not in texts(figures.svg(figures.cycles_chart(accuracy, cycles)))
    with pytest.raises(ValueError, match=r"^a figure of cycles needs rows of a policy whose lr falls and rises again"):
        figures.cycles_chart(figures.accuracy_numbers(made_pairs("c")), cycles)


def test_each_tick_of_a_log_axis_is_a_number_one_reads():
    numbers = pd.DataFrame(
        {"policy": "a", "epoch": range(9), "noise_scale": [10.0 ** (power - 4) for power in range(9)]}
    )
    drawn = texts(figures.svg(figures.settings_chart(numbers.assign(lr=0.1, batch_size=16, momentum=0.9))))
    assert {"10k", "100", "1", "0.01", "0.0001"} <= set(drawn)


@pytest.mark.parametrize("value", [0.9, 0.0])
def test_a_constant_is_read_off_its_axis_as_it_is(value):
    spec = dataclasses.replace(made_spec(), policy=Policy(0.1, 16, value))
    drawn = texts(figures.svg(figures.settings_chart(figures.settings_numbers([spec], points=5))))
    assert any(re.fullmatch(rf"{value:g}[.0]*", text) for text in drawn)


@given(st.floats(1e-12, 1e12), st.floats(1.01, 1e12))
def test_ticks_of_a_log_axis_are_few_rising_and_within_it(low, ratio):
    ticks = log_ticks(low, low * ratio)
    assert 2 <= len(ticks) <= 6
    assert ticks == sorted(set(ticks))
    assert low * (1 - 1e-9) <= ticks[0] <= ticks[-1] <= low * ratio * (1 + 1e-9)


@given(st.lists(st.floats(0, 200), max_size=12))
def test_labels_keep_their_order_and_distance_within_the_panel(wanted):
    places = spread(sorted(wanted), height=200)
    assert all(low + GAP <= high + 1e-9 for low, high in itertools.pairwise(places))
    assert all(GAP / 2 - 1e-9 <= place <= 200 - GAP / 2 + 1e-9 for place in places)
