"""What a search has found: the best, in one order everywhere, the front, and what mattered."""

import pytest
from made import made_row
from optuna.trial import TrialState
from test_search import accuracy, design, drive, told

from lrbs_core import Policy, tables
from lrbs_core.search import Search, importances


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


def test_importances_name_what_alone_matters(tmp_path):
    search = Search(design("random", trials=60), tmp_path)
    drive(search)
    shares = search.document()["importances"]["test_accuracy"]
    assert next(iter(shares)) == "lr"
    assert shares["lr"] > 0.9
    assert sum(shares.values()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    "values", [[], [5.0], [97.2222222] * 4, [0.0] * 3, [(0.1 + 0.2 + 0.3) / 3, (0.3 + 0.2 + 0.1) / 3]]
)
def test_nothing_mattered_where_all_that_finished_are_equal(values):
    plan = design()
    points = [{"lr": lr, "momentum": 0.5 + lr / 4, "growth": 1} for lr in (0.1, 0.2, 0.4, 0.7)]
    trials = [told(plan, point, value=value) for point, value in zip(points, values, strict=False)]
    diverged = told(plan, points[0], state=TrialState.PRUNED)
    assert importances(plan.study([*trials, diverged]), 0) == {}
