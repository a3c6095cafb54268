"""Searches driven in this process with made-up training: what is tried, told, repeated and found."""

import dataclasses
import itertools
import json
import math
import time
from collections import Counter
from functools import partial

import numpy as np
import pytest
from made import made_row, made_spec
from optuna.trial import TrialState, create_trial

from lrbs_core import Choice, Policy, Range
from lrbs_core.journal import Reader
from lrbs_core.search import Design, Search, suggest
from lrbs_core.spaces import Candidates
from lrbs_core.sweeping import run_serially

SPACE = {"lr": Range(0.001, 1, log=True), "momentum": Range(0.5, 0.95), "growth": Choice(1, 2, 5)}


def candidate(seed, *, lr, momentum, growth):
    return dataclasses.replace(made_spec(seed=seed), policy=Policy(lr, 16 * growth, momentum))


def design(sampler="tpe", trials=14, seeds=1, objectives=("test_accuracy",), space=SPACE, make=candidate, **other):
    settings = {"sampler_seed": 0, "early_stop": False} | other
    return Design(
        Candidates("made", space, make), sampler, trials=trials, seeds=seeds, objectives=objectives, **settings
    )


def accuracy(spec):
    """Highest at lr = 0.1, whatever the rest; a seed adds as much as it says."""
    return 90 - 10 * abs(math.log10(spec.policy(0).lr) + 1) + spec.seed


def train(spec, checkpoint, rows, trained):
    trained.append(spec.key)
    yield made_row(1, accuracy(spec)) | {"updates": float(3000 // spec.policy(0).batch_size)}
    return "finished"


def drive(search, most=math.inf, train=train, trained=None):
    """Runs what the search hands out, at most so many; gives the keys that were trained."""
    trained = [] if trained is None else trained
    with search:
        while len(trained) < most and (folder := search.next()):
            run_serially([folder], search.until_stopped(partial(train, trained=trained), folder))
    return trained


def told(plan, point, **what):
    return create_trial(params=point, distributions=plan.distributions, **what)


def points(search):
    return [trial.point for trial in search.trials]


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_a_search_cut_short_anywhere_goes_on_to_the_same_candidates_and_trains_none_twice(sampler, tmp_path):
    undisturbed = Search(design(sampler, seeds=2), tmp_path / "whole")
    trained = drive(undisturbed)
    assert set(Counter(trained).values()) == {1}
    together = []
    for most in (1, 4, 23, math.inf):
        search = Search(design(sampler, seeds=2), tmp_path / "cut")
        together += drive(search, most)
    assert together == trained
    assert points(search) == points(undisturbed)
    assert search.document() == undisturbed.document()
    assert drive(Search(design(sampler, seeds=2), tmp_path / "cut")) == []


def stopping(spec, checkpoint, rows, trained):
    trained.append(spec.key)
    for epoch in (1, 2, 3):
        told = {"examples": epoch * spec.examples, "time_ms": int(time.time() * 1000)}
        yield made_row(epoch, accuracy(spec) + epoch) | told
    return "finished"


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_search_that_stops_early_comes_to_the_same_when_cut_short(seeds, tmp_path):
    plan = design(trials=30, seeds=seeds, early_stop=True)
    whole = Search(plan, tmp_path / "whole")
    drive(whole, train=stopping)
    assert {whole.status(trial) for trial in whole.trials} == {"finished", "stopped"}
    for most in (1, 6, 17, math.inf):
        cut = Search(plan, tmp_path / "cut")
        drive(cut, most, train=stopping)
    assert cut.document() == whole.document()
    best = max(whole.trials, key=lambda trial: accuracy(trial.folders[0].spec))
    assert whole.status(best) == "finished"


def test_a_candidate_of_the_best_third_need_not_be_of_the_best_third_of_that_over_the_next_seed(tmp_path):
    found = []
    for seeds in (1, 3):
        search = Search(design("random", trials=40, seeds=seeds, early_stop=True), tmp_path / f"{seeds}")
        drive(search, train=stopping)
        found.append([search.status(trial) for trial in search.trials])
    assert 40 / 9 < found[0].count("finished") < 20
    assert found[1] == found[0]


def test_more_trials_go_on_from_fewer(tmp_path):
    short, long = Search(design(trials=5), tmp_path / "a"), Search(design(trials=12), tmp_path / "a")
    first, then = drive(short), drive(long)
    assert (len(first), len(then), len(long.trials)) == (5, 7, 12)
    whole = Search(design(trials=12), tmp_path / "b")
    drive(whole)
    assert points(long) == points(whole)


def test_a_candidate_of_an_earlier_search_is_not_trained_again(tmp_path):
    space = {"lr": Choice(0.1, 0.2), "momentum": Choice(0.8, 0.9), "growth": Choice(1, 2)}
    searches = [Search(design(sampler, 40, space=space), tmp_path) for sampler in ("random", "tpe", "grid")]
    trained = [key for search in searches for key in drive(search)]
    assert sorted(trained) == sorted(path.parent.name for path in tmp_path.glob("made-search/*/spec.json"))
    assert [len(search.trials) for search in searches] == [40, 40, 8]
    assert {search.status(trial) for search in searches for trial in search.trials} == {"finished"}


def test_a_grid_is_covered_exactly_in_order(tmp_path):
    search = Search(design("grid", trials=12), tmp_path)
    drive(search)
    expected = itertools.product((0.001, 1.0), (0.5, 0.95), (1, 2, 5))
    assert [tuple(point.values()) for point in points(search)] == list(expected)


def test_a_finer_grid_is_covered_too_with_no_more_trials_than_asked_for_and_none_trained_twice(tmp_path):
    space = {"lr": Range(0.001, 1, log=True), "momentum": Range(0.5, 0.9), "growth": Range(1, 9, whole=True)}
    coarse, same, fine = (Search(design("grid", trials, space=space), tmp_path) for trials in (8, 11, 27))
    first, none, then = drive(coarse), drive(same), drive(fine)
    assert (len(coarse.trials), len(same.trials), len(fine.trials)) == (8, 8, 27)
    assert [tuple(point.values()) for point in points(fine)] == list(
        itertools.product((0.001, 0.03162, 1.0), (0.5, 0.7, 0.9), (1, 5, 9))
    )
    assert (len(first), len(none), len(then)) == (8, 0, 19)
    assert not set(first) & set(then)


def test_what_is_tried_lies_in_the_space_and_tpe_learns_from_what_it_is_told():
    found = {}
    for sampler in ("random", "tpe"):
        plan, trials = design(sampler, trials=60), []
        while len(trials) < 60:
            point = suggest(plan, trials)
            assert 0.001 <= point["lr"] <= 1
            assert 0.5 <= point["momentum"] <= 0.95
            assert point["growth"] in (1, 2, 5)
            assert float(f"{point['lr']:.4g}") == point["lr"] or point["lr"] > 0.1
            value = -abs(math.log10(point["lr"]) + 1)
            trials.append(told(plan, point, value=value))
            assert point == suggest(plan, trials[:-1]), "the same after the same trials"
        found[sampler] = [trial.value for trial in trials]
    assert found["random"][:10] == found["tpe"][:10], "TPE begins at random"
    assert np.mean(found["tpe"][30:]) > np.mean(found["random"][30:]) + 0.2


def test_tpe_takes_notice_of_trials_in_flight():
    plan = design(trials=40)
    known = [told(plan, {"lr": lr, "momentum": 0.9, "growth": 1}, value=-lr) for lr in np.geomspace(0.001, 1, 15)]
    point = suggest(plan, known)
    flying, failed = (told(plan, point, state=state) for state in (TrialState.RUNNING, TrialState.FAIL))
    assert suggest(plan, [*known, flying]) != suggest(plan, [*known, failed])


@pytest.mark.parametrize("objectives", [("test_accuracy",), ("test_accuracy", "updates")])
def test_a_candidate_that_diverges_is_worst_and_not_repeated(objectives, tmp_path):
    def diverging(spec, checkpoint, rows, trained):
        trained.append(spec.key)
        yield made_row(1, 99.0)
        return "diverged" if spec.policy(0).lr > 0.03 else "finished"

    search = Search(design(trials=12, seeds=2, objectives=objectives), tmp_path)
    trained = drive(search, train=diverging)
    found = Counter(map(search.status, search.trials))
    assert min(found["finished"], found["diverged"]) > 3
    assert len(trained) == 2 * found["finished"] + found["diverged"]
    document = search.document()
    assert all(document["trials"][best["trial"]]["status"] == "finished" for best in document["best"])


@pytest.mark.parametrize("objectives", [("test_accuracy",), ("test_accuracy", "updates")])
def test_tpe_keeps_away_from_where_candidates_diverge(objectives):
    asked = []
    for number in range(40):
        plan = design(trials=99, objectives=objectives, sampler_seed=number)
        known = [
            told(plan, {"lr": float(lr), "momentum": 0.7, "growth": 2}, state=TrialState.PRUNED)
            if lr > 0.03
            else told(plan, {"lr": float(lr), "momentum": 0.7, "growth": 2}, values=[90.0] * len(objectives))
            for lr in np.geomspace(0.001, 1, 15)
        ]
        asked.append(suggest(plan, known)["lr"])
    assert sum(lr > 0.03 for lr in asked) < 10, "half of the space diverges"


def test_a_candidate_that_fails_is_tried_again_by_the_next_call_alone(tmp_path):
    def failing(spec, checkpoint, rows, trained):
        trained.append(spec.key)
        yield from ()
        raise OSError("out of paper")

    search = Search(design(trials=3), tmp_path)
    assert len(drive(search, train=failing)) == 3
    assert [line["status"] for line in search.document()["trials"]] == ["failed"] * 3
    again = Search(design(trials=3), tmp_path)
    assert len(drive(again)) == 3
    assert points(again) == points(search)
    assert [line["status"] for line in again.document()["trials"]] == ["finished"] * 3
    for folder in (trial.folders[0] for trial in again.trials):
        assert Reader(folder.journal_path).poll().status == "finished"


def test_what_a_store_knows_of_a_run_is_not_trained_again(tmp_path):
    known = Search(design(trials=12), tmp_path / "here")
    drive(known)
    records = {trial.folders[0].spec.key: known.record(trial.folders[0]) for trial in known.trials}
    elsewhere = Search(design(trials=13), tmp_path / "there", stored=lambda spec: records.get(spec.key))
    assert len(drive(elsewhere)) == 1
    assert points(elsewhere)[:12] == points(known)
    assert elsewhere.document()["trials"][:12] == known.document()["trials"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"objectives": ("accuracy",)}, "an objective must be one of validation_accuracy, .* but got 'accuracy'"),
        ({"objectives": ("updates", "updates")}, "objectives must differ"),
        ({"objectives": ("test_accuracy", "updates"), "early_stop": True}, "--early-stop compares runs by one"),
        ({"objectives": ("updates",), "early_stop": True}, "--early-stop compares runs by one"),
    ],
)
def test_what_cannot_be_sought_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        design(**settings)


@pytest.mark.parametrize("name", ["trial", "updates", "test_accuracy", "train_loss"])
def test_a_name_that_the_table_has_for_another_column_is_refused(name):
    make = eval(f"lambda seed, {name}: None")
    with pytest.raises(ValueError, match=rf"^a name in SPACE must differ from trial, .*, but got {name}: rename it$"):
        design(space={name: Range(8, 64)}, make=make)


def test_a_candidate_that_changed_since_is_refused(tmp_path):
    def another(seed, *, lr, momentum, growth):
        middle = 0.002 < lr < 0.9 and momentum != 0.5
        return candidate(seed, lr=lr, momentum=momentum * 0.5 if middle else momentum, growth=growth)

    changed = design(make=another)
    drive(Search(design(), tmp_path))
    began, now = Search(design(), tmp_path), Search(changed, tmp_path)
    now.path.write_bytes(began.path.read_bytes())
    with pytest.raises(ValueError, match="is another run than when this search began"), now:
        pass


@pytest.mark.parametrize(
    "change", [{"lr": 3}, {"lr": "x"}, {"lr": math.nan}, {"lr": None}, {"growth": 3}, {"growth": []}, {"depth": 1}]
)
def test_a_record_of_a_point_that_is_not_in_the_space_is_refused_in_one_line_and_let_go(change, tmp_path):
    search = Search(design(trials=2), tmp_path)
    drive(search)
    first, second = search.path.read_text().splitlines()
    entry = json.loads(second)
    search.path.write_text(f"{first}\n{json.dumps(entry | {'point': entry['point'] | change})}\n")
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"^{search.path}: the point of line 2 must be one of SPACE.*$"), search:
            pass
    search.path.unlink()
    assert drive(search) == []
