"""What a search found, as a table, heat map, front and page."""

import base64
import itertools
import re

import numpy as np
import pytest

from lrbs_core import Policy, figures
from lrbs_core.search_report import chosen_axes, front, heat_map, html, table

SPACE = {
    "lr": {"low": 0.001, "high": 1.0, "log": True, "whole": False},
    "momentum": {"values": [0.8, 0.9]},
    "net": {"values": ["mlp", "<b>"]},
}


def document(objectives=("test_accuracy",), trials=20, judged_on="test"):
    draw = np.random.default_rng(0)
    lines = []
    for number in range(trials):
        point = {"lr": float(10 ** draw.uniform(-3, 0)), "momentum": (0.8, 0.9)[number % 2], "net": "<b>"}
        accuracy, updates = draw.uniform(50, 90), float(draw.integers(100, 900))
        lines.append(
            {
                "trial": number, "label": f"lr={point['lr']}", "point": point, "keys": [f"{number}"],
                "status": "stopped" if number == 3 else "finished", "examples": 100,
                **{name: {"mean": None if number == 3 else value, "low": None, "high": None, "n": 1}
                   for name, value in (("test_accuracy", accuracy), ("updates", updates), ("train_seconds", 1.0))},
            }
        )  # fmt: skip
        if judged_on == "validation":
            lines[-1]["validation_accuracy"] = dict.fromkeys(("low", "mean", "high"), 12.34)
    return {
        "sweep": "made-search", "search": "abc", "sampler": {"name": "tpe", "seed": 0},
        "objectives": {name: "high" if name == "test_accuracy" else "low" for name in objectives}, "seeds": 1,
        "judged_on": judged_on, "rungs": [100.0], "space": SPACE, "overrides": {"scale": "0.1"}, "trials": lines,
        "best": [{"trial": 5, "label": "x", "policy": Policy(0.1, 16, 0.9).to_dict()}],
        "importances": {
            name: {"momentum": 0.27, "net": 0.08, "lr": 0.03, "interaction and noise": 0.62} for name in objectives
        }, "importance": "by hand",
    }  # fmt: skip


def test_the_table_has_the_finished_trials():
    found = table(document())
    assert list(found) == ["trial", "lr", "momentum", "net", "test_accuracy", "updates", "train_seconds"]
    assert found["trial"].tolist() == [number for number in range(20) if number != 3]


def test_axes_are_those_asked_for_or_what_mattered_most_among_numbers():
    assert chosen_axes(document(), None) == ("momentum", "lr")
    assert chosen_axes(document(), ["lr", "momentum"]) == ("lr", "momentum")
    for axes in (["lr"], ["lr", "lr"], ["lr", "net"], ["lr", "gamma"], []):
        with pytest.raises(ValueError, match=r"two of the names that are searched and of numbers \(lr, momentum\)"):
            chosen_axes(document(), axes)


def test_the_heat_map_puts_each_trial_at_its_nearest_level(monkeypatch):
    seen = []
    monkeypatch.setattr(figures, "heat_chart", lambda numbers, *names: seen.append((numbers, names)))
    heat_map(document(), ["lr", "momentum"])
    (numbers, names), found = seen[0], table(document())
    assert names == ("lr", "momentum", "test_accuracy")
    levels = np.geomspace(0.001, 1, 6)
    nearest = np.abs(np.log(found["lr"].to_numpy()[:, None] / levels)).argmin(axis=1)
    for (number, level), momentum in itertools.product(enumerate(levels), (0.8, 0.9)):
        expected = found["test_accuracy"][(nearest == number) & (found["momentum"] == momentum)]
        cell = numbers[np.isclose(numbers["x"], level, rtol=1e-3) & (numbers["y"] == momentum)]
        assert len(cell) == (len(expected) > 0)
        if len(expected):
            assert cell[["mean", "n"]].values.tolist() == [[pytest.approx(expected.mean()), len(expected)]]


def test_few_values_stay_as_they_are(monkeypatch):
    seen = []
    monkeypatch.setattr(figures, "heat_chart", lambda *numbers: seen.append(numbers[0]))
    few = document(trials=3)
    heat_map(few, ["lr", "momentum"])
    assert sorted(seen[0]["x"]) == sorted(line["point"]["lr"] for line in few["trials"])


def test_a_front_is_drawn_for_each_further_objective():
    assert list(front(document())) == []
    charts = list(front(document(("test_accuracy", "updates", "train_seconds"))))
    assert [caption.partition(";")[0] for caption, _ in charts] == [
        "Trials by updates and test_accuracy", "Trials by train_seconds and test_accuracy",
    ]  # fmt: skip
    assert all("<svg" in figures.svg(chart) for _, chart in charts)


@pytest.mark.parametrize("objectives", [("test_accuracy",), ("test_accuracy", "updates")])
def test_the_page_has_all_of_it_escaped_and_needs_no_network(objectives):
    page = html(document(objectives), None, "lrbs search 'a <b>.py'")
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    assert "http" not in page
    images = re.findall(r"base64,([\w+/=]+)", page)
    assert len(images) == len(objectives)
    assert all(base64.b64decode(image).startswith(b"<svg") for image in images)
    assert "Policy(lr=Constant(value=0.1), batch_size=Constant(value=16.0), momentum=Constant(value=0.9))" in page
    assert ("Pareto front" in page) == (len(objectives) > 1)
    assert page.count("<tr><td>3</td><td>stopped</td>") == 1
    assert "<tr><td>momentum</td><td>27 %</td></tr>" in page
    assert page.count("<tr><td>interaction and noise</td><td>62 %</td></tr>") == len(objectives)
    assert "Judged by TEST data, so that test numbers flatter what was chosen" in page
    assert "scale=0.1" in page


def test_the_page_of_a_search_by_validation_data_shows_those_and_test_accuracy_for_the_report_alone():
    found = document(("validation_accuracy",), judged_on="validation")
    page = html(found, None, "lrbs search x.py")
    assert "Judged by validation data, set aside of the training set; test data are for the report alone" in page
    assert "<th>validation accuracy, %</th>" in page
    assert "<th>test accuracy, % (report alone)</th>" in page
    assert page.count("<td>12.34</td>") == 21  # the best, and all
    assert "TEST" not in page


def test_a_page_of_nothing_finished_is_still_a_page():
    nothing = document() | {"best": [], "importances": {"test_accuracy": {}}}
    for trial in nothing["trials"]:
        trial["status"] = "diverged"
    page = html(nothing, None, "lrbs search x.py")
    assert "No trial has finished yet" in page
    assert "base64" not in page
    with pytest.raises(ValueError, match="a heat map needs a finished trial"):
        heat_map(nothing)
