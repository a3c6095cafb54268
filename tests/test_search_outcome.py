"""What a search has found: the best, in one order everywhere, the front, and what mattered."""

import pytest
from made import made_row
from test_search import accuracy, design, drive

from lrbs_core import Choice, Policy, tables
from lrbs_core.importances import importances
from lrbs_core.search import Search


def test_an_objective_is_the_mean_over_the_seeds_of_a_candidate(tmp_path):
    search = Search(design(trials=3, seeds=3), tmp_path)
    assert len(drive(search)) == 9
    for trial, line in zip(search.trials, search.document()["trials"], strict=True):
        assert [folder.spec.seed for folder in trial.folders] == [0, 1, 2]
        expected = accuracy(trial.folders[0].spec) + 1
        assert search.values(trial) == [pytest.approx(expected)]
        assert (line["test_accuracy"]["mean"], line["test_accuracy"]["n"]) == (pytest.approx(expected), 3)
        assert {folder.point["lr"] for folder in trial.folders} == {trial.point["lr"]}


def test_the_front_is_of_the_trials_that_none_beats(tmp_path):
    search = Search(design("random", trials=40, objectives=("test_accuracy", "updates")), tmp_path)
    drive(search)
    values = [search.values(trial) for trial in search.trials]
    front = {
        number
        for number, (high, low) in enumerate(values)
        if not any(a >= high and b <= low and (a, b) != (high, low) for a, b in values)
    }
    best = [best["trial"] for best in search.document()["best"]]
    assert len(front) > 1
    assert set(best) == front
    assert [values[number][0] for number in best] == sorted((values[number][0] for number in front), reverse=True)


@pytest.mark.parametrize("objectives", [("test_accuracy",), ("test_accuracy", "updates")])
def test_of_equals_the_first_leads_the_table_and_is_the_one_to_paste(objectives, tmp_path, capsys):
    def level(spec, checkpoint, rows, trained):
        trained.append(spec.key)
        yield made_row(1, 90.0 if len(trained) == 1 else 97.22)
        return "finished"

    search = Search(design("random", trials=5, objectives=objectives), tmp_path)
    drive(search, train=level)
    document = search.document()
    assert [best["trial"] for best in document["best"]] == [1, 2, 3, 4]
    tables.print_search(document)
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown if line[:1].isdigit()][:4] == ["1", "2", "3", "4"]
    assert shown[-2:] == ["trial 1:", repr(search.trials[1].folders[0].spec.policy)]
    assert document["best"][0]["policy"] == Policy.to_dict(search.trials[1].folders[0].spec.policy)


def test_importances_name_what_alone_matters_and_no_point_counts_twice(tmp_path):
    search = Search(design("random", trials=60), tmp_path)
    drive(search)
    shares = search.document()["importances"]["test_accuracy"]
    assert next(iter(shares)) == "lr"
    assert shares["lr"] > 0.95
    assert sum(shares.values()) == pytest.approx(1, abs=0.01)

    few = {"lr": Choice(0.1, 0.2, 0.4), "momentum": Choice(0.8, 0.9), "growth": Choice(1, 2)}
    search = Search(design("random", trials=60, space=few), tmp_path)
    drive(search)
    document = search.document()
    apart = {line["label"]: line for line in document["trials"]}.values()
    assert len(apart) == 12
    points, values = [line["point"] for line in apart], [line["test_accuracy"]["mean"] for line in apart]
    assert document["importances"]["test_accuracy"] == importances(few, points, values)


def test_what_mattered_is_told_with_the_rest(tmp_path, capsys):
    search = Search(design("random", trials=20, objectives=("test_accuracy", "updates")), tmp_path)
    drive(search)
    tables.print_search(document := search.document())
    shown = capsys.readouterr().out
    for name, shares in document["importances"].items():
        *parts, rest = (f"{part} {share:.0%}" for part, share in shares.items())
        assert f"variance of {name.replace('_', ' ')} over 20 trials: {', '.join(parts)}; the rest, {rest}\n" in shown
        assert rest.startswith("interaction and noise ")
