"""Discovery: who follows whom, the outcome, and discoveries cut short."""

import dataclasses
import itertools
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import made_row, made_spec

from lrbs_core import Constant, Piecewise, Policy
from lrbs_core.discovery import Design, Discovery, Member, ranked, source_of
from lrbs_core.figures import settings_numbers
from lrbs_core.figures.lineage import lineage_chart
from lrbs_core.sweeping import Sweep, run_serially


def design(population=8, interval=1.0, sampler_seed=0, **changes):
    source = made_spec(epochs=3.0)
    return Design("made", dataclasses.replace(source, **changes), population, interval, sampler_seed)


def four_digits(value):
    return float(f"{value:.4g}")


SETTINGS = st.tuples(st.floats(0.001, 1), st.floats(0, 0.99))
POPULATIONS = st.integers(2, 12).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(st.tuples(SETTINGS, st.none() | st.integers(0, 5)), min_size=1, max_size=n).filter(
            lambda members: any(accuracy is not None for _, accuracy in members)
        ),
    )
)


@given(POPULATIONS, st.integers(0, 99))
def test_the_worst_quarter_take_over_one_of_the_best_and_change_it(made_up, sampler_seed):
    population, parts = made_up
    members = [Member((setting,), None) for setting, _ in parts]
    accuracies = [None if accuracy is None else float(accuracy) for _, accuracy in parts]
    plan = design(population, sampler_seed=sampler_seed)
    order = sorted(
        (place for place in range(len(members)) if accuracies[place] is not None),
        key=lambda place: (-accuracies[place], place),
    )
    quarter = -(-population // 4)
    stay = order[: population - quarter]
    following = plan.following(members, accuracies)
    kept, children = following[: len(stay)], following[len(stay) :]
    assert kept == [Member((members[place].settings[0],) * 2, place) for place in stay]
    assert len(children) == min(population - len(stay), 4 * min(quarter, len(stay)))
    for child in children:
        assert child.parent in stay[:quarter]
        assert child.settings[0] == members[child.parent].settings[0]
        (lr, momentum), (new_lr, new_momentum) = child.settings
        assert new_lr in [four_digits(lr * factor) for factor in (0.8, 1.2)]
        expected = [max(0.0, 1 - four_digits((1 - momentum) * factor)) for factor in (0.8, 1.2)]
        assert 0 <= new_momentum < 1
        assert any(math.isclose(new_momentum, value, abs_tol=1e-12) for value in expected)
    assert following == plan.following(members, accuracies)
    assert len({(child.parent, child.settings) for child in children}) == len(children)


def test_every_parent_and_change_is_as_likely_as_any_other():
    members = [Member(((0.1 + place, 0.9),), None) for place in range(8)]
    seen, draws = Counter(), 800
    for seed in range(draws):
        seen.update(
            (*child.settings[1], child.parent)
            for child in design(sampler_seed=seed).following(members, [*range(8)])[6:]
        )
    changes = [(four_digits(lr * factor), rest) for lr in (6.1, 7.1) for factor in (0.8, 1.2) for rest in (0.88, 0.92)]
    assert {setting[:2] for setting in seen} == set(changes)
    assert all(abs(count - draws / 4) < 5 * math.sqrt(draws / 4 * 3 / 4) for count in seen.values())


def test_the_first_generation_lies_about_the_policy_evenly_in_the_logarithm():
    plan = design(population=4000, policy=Policy(Piecewise((0.02, 0.1, 0.05), at=(1, 2)), 16, 0.9))
    members = plan.first()
    assert all(len(member.settings) == 1 and member.parent is None for member in members)
    for place, centre, factor in ((0, 0.1, 10), (1, 0.1, 3)):
        values = [abs(place - member.settings[0][place]) for member in members]
        inside = sorted(math.log(value / centre, factor) for value in values)
        assert -1.001 <= inside[0] < -0.99 < 0.99 < inside[-1] <= 1.001
        assert all(abs(inside[1000 * part] - (part / 2 - 1)) < 0.06 for part in (1, 2, 3))
    assert plan.first() == members != design(population=4000, sampler_seed=1).first()
    assert all(0 <= member.settings[0][1] < 1 for member in design(200, policy=Policy(0.1, 16, 0.0)).first())


def test_a_member_is_the_run_of_its_table_and_a_policy_of_equal_intervals_that_of_a_number():
    plan = design(policy=Policy(0.3, Piecewise((16, 32), at=(2,)), 0.5))
    spec = plan.spec(Member(((0.1, 0.9), (0.1, 0.92), (0.08, 0.92)), 3), place=5)
    policy = Policy(Piecewise((0.1, 0.08), at=(2,)), Piecewise((16, 32), at=(2,)), Piecewise((0.9, 0.92), at=(1,)))
    assert spec == dataclasses.replace(plan.source, policy=policy, label="generation 3 member 5")
    short = plan.spec(Member(((0.1, 0.9), (0.1, 0.9)), 3), place=0)
    assert (short.policy.lr, short.policy.momentum, short.epochs) == (Constant(0.1), Constant(0.9), 2.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interval": 0.7}, "--interval must divide the 3 epochs of a run, but got 0.7"),
        *(
            ({"interval": given}, "--interval must divide the 3 epochs")
            for given in (6.0, 5e-324, 0.0, math.inf, math.nan)
        ),
        ({"evaluate_every_epochs": 0.75}, "--interval must be a multiple of the epochs between rows, 0.75, but got 1"),
        ({"partial": "carry"}, "an update must begin where an interval ends, but none does at epoch 1: choose"),
        ({"interval": 0.5, "evaluate_every_epochs": 0.5}, "none does at epoch 0.5"),
        ({"optimizer": "adagrad", "policy": Policy(0.1, 16, 0)}, "an optimizer with momentum, but got adagrad"),
        ({"policy": Policy(0.0, 16, 0.9)}, "lr > 0 somewhere"),
    ],
)
def test_what_cannot_be_cut_or_changed_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        design(**changes)


def test_a_policy_that_is_not_there_is_refused():
    sweep = Sweep("made", "", (), (made_spec("one"), made_spec("other", epochs=4)))
    assert [source_of(sweep, label).label for label in (None, "other")] == ["one", "other"]
    with pytest.raises(ValueError, match="--policy must be one of 'one', 'other', but got 'third'"):
        source_of(sweep, "third")


def train(spec, checkpoint, rows, trained=None):
    """Best at lr = 0.03 at first, and a tenth of that in the end; above 0.5 it diverges."""
    aims = [0.03, 0.01, 0.003][: round(spec.epochs)]
    off = sum(abs(math.log10(spec.policy(epoch).lr / aim)) for epoch, aim in enumerate(aims))
    if trained is not None:
        trained.append(spec.key)
    yield made_row(1, 90 - 10 * off)
    return "diverged" if spec.policy.lr(0.0) > 0.5 else "finished"


def drive(root, most=math.inf, **changes):
    """A discovery with made-up training of so many runs at most, those it trained, and who was extended by whom."""
    trained, extended = [], []
    found = Discovery(design(**changes), root, lambda parent, child: extended.append((parent.spec.key, child.spec.key)))
    for left in found.rounds():
        cut = left[: max(0, min(len(left), most - len(trained)))]
        run_serially(cut, lambda *what: train(*what, trained))
    return found, trained, extended


def test_a_discovery_cut_short_anywhere_goes_on_to_the_same_members_and_trains_none_twice(tmp_path):
    whole, trained, extended = drive(tmp_path / "whole")
    assert len(trained) == len(set(trained)) == 24
    together = []
    for most in (0, 3, 5, 1, 11):
        found, some, _ = drive(tmp_path / "cut", most)
        together += some
        assert (found.best is None) == (len(together) < 24)
    assert drive(tmp_path / "cut")[1] == trained[len(together) :]
    assert together + trained[len(together) :] == trained
    again = drive(tmp_path / "cut")
    assert again[1:] == ([], [])
    assert again[0].document() == whole.document()
    trials = whole.document()["trials"]
    assert extended == [
        (trials[trial["parent"]]["key"], trial["key"]) for trial in trials if trial["parent"] is not None
    ]


def test_diverged_members_are_replaced_and_the_best_of_the_last_generation_is_the_outcome(tmp_path):
    found, _, _ = drive(tmp_path, policy=Policy(0.4, 16, 0.9))
    document = found.document()
    first = [trial for trial in document["trials"] if trial["generation"] == 1]
    lost = [trial["trial"] for trial in first if trial["status"] == "diverged"]
    assert lost
    assert all(first[number]["test_accuracy"]["mean"] is None for number in lost)
    assert not {trial["parent"] for trial in document["trials"]} & set(lost)
    last = [trial for trial in document["trials"] if trial["generation"] == 3]
    (best,) = document["best"]
    assert document["trials"][best["trial"]]["test_accuracy"]["mean"] == max(t["test_accuracy"]["mean"] for t in last)
    spec = found.best.folder.spec
    policy = Policy.from_dict(best["policy"])
    assert dataclasses.replace(found.design.source, policy=policy).key == spec.key
    assert found.best.folder.point["parent"] == document["trials"][document["trials"][best["trial"]]["parent"]]["key"]


def test_all_diverged_is_the_end(tmp_path):
    found, trained, _ = drive(tmp_path, policy=Policy(10.0, 16, 0.9))
    assert (len(found.generations), len(trained), found.best) == (1, 8, None)
    assert {trial["status"] for trial in found.document()["trials"]} == {"diverged"}
    assert ranked([1.0, None, 1.0, 2.0]) == [3, 0, 2]


def test_a_discovery_is_one_process_s_at_a_time(tmp_path):
    first, second, other = (Discovery(design(sampler_seed=n), tmp_path, lambda *_: None) for n in (0, 0, 1))
    rounds = first.rounds()
    assert len(next(rounds)) == 8
    with pytest.raises(ValueError, match="another process runs this discovery: wait for it, or choose another --out"):
        next(second.rounds())
    assert len(next(other.rounds())) == 8
    rounds.close()
    assert len(next(second.rounds())) == 8


def test_what_a_store_knows_is_not_run_again(tmp_path):
    whole, _, _ = drive(tmp_path / "whole")
    records = {
        trial.folder.spec.key: whole.record(trial.folder) for trial in itertools.chain.from_iterable(whole.generations)
    }
    found = Discovery(design(), tmp_path / "here", lambda *_: None, lambda spec: records.get(spec.key))
    assert [*found.rounds()] == [[], [], []]
    assert found.document() == whole.document()


def test_a_run_that_failed_ends_the_round_and_is_tried_again(tmp_path):
    found, broken = Discovery(design(), tmp_path, lambda *_: None), []
    for left in found.rounds():
        run_serially(left[:-1], train)
        run_serially(left[-1:], lambda *what: broken.append(what[0].key) or 1 / 0)
    assert (len(found.generations), found.best, len(broken)) == (1, None, 1)
    assert [trial["status"] for trial in found.document()["trials"]][-1] == "failed"
    assert found.document()["best"] == []
    whole, trained, _ = drive(tmp_path)
    assert trained[0] == broken[0]
    assert whole.best is not None


def test_the_figure_has_every_member_and_the_best_above_them(tmp_path):
    found, _, _ = drive(tmp_path)
    specs = [trial.folder.spec for generation in found.generations for trial in generation]
    numbers, best = settings_numbers(specs, points=1), found.best.folder.spec
    assert set(numbers["policy"]) == {spec.label for spec in specs}
    drawn = numbers[numbers["policy"] == best.label]
    assert [best.policy(epoch)[::2] for epoch in drawn["epoch"]] == [*zip(drawn["lr"], drawn["momentum"], strict=True)]
    assert 0.99 * best.epochs < drawn["epoch"].max() < best.epochs
    for panel, name in zip(lineage_chart(numbers, best.label).to_dict()["concat"], ("lr", "momentum"), strict=True):
        grey, blue = panel["layer"]
        assert {layer["encoding"]["y"]["field"] for layer in panel["layer"]} == {name}
        assert {layer["encoding"]["detail"]["field"] for layer in panel["layer"]} == {"policy"}
        assert "transform" not in grey
        assert best.label in blue["transform"][0]["filter"]
        assert blue["mark"]["strokeWidth"] > grey["mark"]["strokeWidth"]
