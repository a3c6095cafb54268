"""Stopping early: rungs in examples, cyclical policies at cycle ends, the best third goes on."""

import dataclasses
import itertools
import math
from functools import partial

import pytest
from made import made_row, made_run, made_spec

from lrbs_core import Constant, Cosine, Policy, Steps, Triangular
from lrbs_core.journal import Journal, Reader, RunFolder
from lrbs_core.search_record import Asked, SearchRecord
from lrbs_core.search_rungs import Rungs, judged_at, rungs_of
from lrbs_core.sweeping import run_serially, until

N = 1437


def spec_of(lr=0.1, batch_size=16, epochs=9.0, seed=0):
    return dataclasses.replace(made_spec(seed=seed, epochs=epochs), policy=Policy(lr, batch_size, 0.9))


def test_rungs_are_a_ninth_and_a_third_of_the_examples_whatever_the_batch_size():
    assert rungs_of([spec_of(epochs=9), spec_of(epochs=18, batch_size=512)]) == (N, 3 * N)


def cyclic(stepsize, **other):
    return spec_of(Triangular(0.01, 0.1, stepsize), **other)


def test_no_rung_comes_before_each_first_cycle_has_ended():
    for longest, expected in ((0.5, (2, 6)), (1, (2, 6)), (1.5, (3, 9)), (2.5, (5,)), (8.9, (17.8,)), (9.5, (2, 6))):
        runs = [spec_of(epochs=18), cyclic(0.5, epochs=20), cyclic(longest, epochs=18)]
        assert rungs_of(runs) == tuple(pytest.approx(epoch * N) for epoch in expected), longest
    with pytest.raises(
        ValueError, match=r"^--early-stop compares runs once the first cycle .* ends after 25866 examples"
    ):
        rungs_of([spec_of(epochs=18), cyclic(9, epochs=18)])
    with pytest.raises(ValueError, match=r"^--early-stop compares rows that must .* come every 718\.5 to 1437"):
        rungs_of([spec_of(), dataclasses.replace(spec_of(), evaluate_every_epochs=0.5)])


RISING = dataclasses.replace(made_spec(epochs=8), policy=Policy(Cosine(0.1, 0.0, 10), 8, 0.9).grow_batch())
CASES = {
    "constant lr": (spec_of(), 2.5, 2.5),
    "a large batch": (spec_of(batch_size=512), 2.5, 2.5),
    "steps": (spec_of(Steps(0.1, at=(2, 4), factor=0.1)), 2.5, 2.5),
    "mid-cycle": (cyclic(1), 3.5, 2.0),
    "past two cycles": (cyclic(1), 5.5, 4.0),
    "at a cycle's end": (cyclic(1), 4.0, 4.0),
    "before a cycle's end": (cyclic(1), 1.5, None),
    "its twin of cycling batch size": (spec_of(0.1, Triangular(16, 160, stepsize=1)), 2.5, 1.0),
    "a decay within a rise": (spec_of(Triangular(0.01, 0.1, 2), Steps(16, at=(5,), factor=4), 16), 7.5, 4.0),
    "a schedule of no sense past the end": (RISING, 2.5, 2.5),
    "a cycle that ends with the run": (cyclic(4.5), 2.5, None),
    "a cycle that does not end": (cyclic(5), 2.5, 2.5),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_judged_at_its_last_cycle_end_by_the_rung(case):
    spec, rung, expected = CASES[case]
    at = judged_at(spec, rung * N)
    assert at == (None if expected is None else pytest.approx(expected * N))


def rows_of(spec, accuracies):
    """A row an epoch."""
    return [made_row(n, accuracy) | {"examples": n * N} for n, accuracy in enumerate(accuracies, start=1)]


def search(root, specs):
    """The record and folders of a search of these candidates, one seed each."""
    record = root / "made" / "x.search.jsonl"
    with SearchRecord(record) as writer:
        for spec in specs:
            writer.append(Asked({}, [spec.key]))
    return Rungs(record, (1.5 * N, 4 * N), "test_accuracy", up=True)


def train(curves, spec, checkpoint, rows):
    yield from rows_of(spec, curves[spec.policy(0).lr])
    return "finished"


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_the_best_third_so_far_goes_on_from_each_rung_and_others_stop_there(order, tmp_path):
    curves = {0.1: range(10, 19), 0.2: range(20, 29), 0.3: range(30, 39), 0.4: range(40, 49)}
    specs = [spec_of(list(curves)[number]) for number in order]
    rungs = search(tmp_path, specs)
    ended, at_rung = [], []
    for spec in specs:
        folder = RunFolder.create(tmp_path, "made", spec)
        run_serially([folder], until(partial(train, curves), partial(rungs.stops, folder)))
        reader = Reader(folder.journal_path).poll()
        ended.append((reader.status, len(reader.rows)))
        at_rung.append(curves[spec.policy(0).lr][1])
    # By the rule, in the order in which they ran: rows 2 and 4 are the first past 1.5 and 4 epochs.
    expected, second = [], []
    for number, value in enumerate(at_rung):
        seen = at_rung[: number + 1]
        if sum(other > value for other in seen) >= math.ceil(len(seen) / 3):
            expected.append(("stopped", 2))
            continue
        second.append(value)
        stops = sum(other > value for other in second) >= math.ceil(len(second) / 3)
        expected.append(("stopped", 4) if stops else ("finished", 9))
    assert ended == expected
    assert expected[0] == ("finished", 9)


def test_less_is_better_where_it_is(tmp_path):
    good, poor = spec_of(0.1), spec_of(0.2)
    rungs = dataclasses.replace(search(tmp_path, [good, poor]), metric="test_loss", up=False)
    made_run(tmp_path, good, [row | {"test_loss": 1.0} for row in rows_of(good, range(9))])
    folder = RunFolder.create(tmp_path, "made", poor)
    # One that diverged ends of itself.
    for loss, stops in ((2.0, True), (0.5, False), (1.0, False), (math.nan, False)):
        assert rungs.stops(folder, [row | {"test_loss": loss} for row in rows_of(poor, range(2))]) is stops


def judge(root, mine, accuracies, others, **fields):
    """Whether a run of these accuracies, an epoch each, is stopped at the last; `others`: specs and accuracies."""
    rungs = search(root, [mine, *(spec for spec, _ in others)])
    for spec, values in others:
        made_run(root, spec, rows_of(spec, values))
    return dataclasses.replace(rungs, **fields).stops(RunFolder.create(root, "made", mine), rows_of(mine, accuracies))


@pytest.mark.parametrize(
    ("mine", "accuracies", "rung", "stops"),
    [
        # The other run has 50, 60, 70, 80, 90.
        (spec_of(), [10, 10, 71], 3, False),
        (spec_of(), [99, 99, 69], 3, True),
        (cyclic(1), [10, 61, 10], 3, False),
        (cyclic(1), [99, 59, 99], 3, True),
        (cyclic(1.25), [10, 10, 71, 10], 4, False),
        (cyclic(1.25), [99, 99, 69, 99], 4, True),
        (cyclic(2), [10, 10, 10], 3, False),
        (cyclic(2), [10, 10, 10, 79], 4, True),
        (cyclic(2), [10, 10, 10, 81], 4, False),
    ],
)
def test_what_a_run_had_at_its_last_cycle_end_counts_against_what_others_had_at_the_same_examples(
    mine, accuracies, rung, stops, tmp_path
):
    other = (spec_of(0.2), [50, 60, 70, 80, 90])
    assert judge(tmp_path, mine, accuracies, [other], examples=(rung * N,)) is stops


def test_a_sampler_is_told_what_a_run_was_judged_by_at_the_same_number_whatever_its_batch_size(tmp_path):
    judge = search(tmp_path, [])
    for spec, expected in ((spec_of(), [20, 40]), (cyclic(0.75), [20, 30]), (cyclic(1), [40]), (cyclic(3), [])):
        rows = [row | {"examples": row["examples"] + 12} for row in rows_of(spec, [10, 20, 30, 40])]
        assert [*judge.reached(spec, rows).values()] == expected
        assert judge.reached(spec, rows).keys() <= {int(1.5 * N), 4 * N}
        assert len(judge.reached(spec, rows[:3])) <= 1


def test_one_that_diverged_counts_as_worse_and_one_that_did_before_the_rung_never_came(tmp_path):
    mine, good, second, third = (spec_of(lr) for lr in (0.1, 0.2, 0.3, 0.4))
    for number, (rest, stops) in enumerate([([99, 99], True), ([99, math.nan], False), ([math.nan], True)]):
        others = [(good, [99, 99]), (second, [10, 10]), (third, rest)]
        assert judge(tmp_path / f"{number}", mine, [50, 50], others) is stops


def test_a_candidate_stopped_over_another_seed_counts_as_worse_where_it_had_come_to(tmp_path):
    def candidates(lr):
        return [spec_of(lr, seed=seed) for seed in range(2)]

    mine, best, lost, early = map(candidates, (0.1, 0.2, 0.3, 0.4))
    record = tmp_path / "made" / "x.search.jsonl"
    with SearchRecord(record) as writer:
        for candidate in (best, lost, early, mine):
            writer.append(Asked({}, [spec.key for spec in candidate]))
    for spec in best:
        made_run(tmp_path, spec, rows_of(spec, [99] * 9))
    folder, rows = RunFolder.create(tmp_path, "made", mine[1]), rows_of(mine[1], [50] * 4)
    rungs, far = Rungs(record, (1.5 * N,), "test_accuracy", up=True), {"time_ms": 2 * 10**15}
    assert rungs.stops(folder, rows[:2])
    made_run(tmp_path, early[0], rows_of(early[0], [1]), status="stopped")
    made_run(tmp_path, lost[0], rows_of(lost[0], [1, 1]), status="stopped")
    assert rungs.stops(folder, [rows[0], rows[1] | far]), "of 3 one goes on: the fourth never came so far"
    made_run(tmp_path, early[1], rows_of(early[1], [1, 1]))
    assert rungs.stops(folder, rows[:2]), "by then none of it was known"
    assert not rungs.stops(folder, [rows[0], rows[1] | far]), "of 4, two go on"
    assert dataclasses.replace(rungs, examples=(4 * N,)).stops(folder, [*rows[:3], rows[3] | far])


def test_a_run_killed_at_a_rung_is_judged_as_it_was_then_whatever_came_since(tmp_path):
    mine, *others = (spec_of(lr) for lr in (0.1, 0.2, 0.3))
    rungs = search(tmp_path, [mine, *others])
    folder, rows = RunFolder.create(tmp_path, "made", mine), rows_of(mine, [50, 50])
    assert not rungs.stops(folder, rows)
    for other in others:
        made_run(tmp_path, other, [row | {"time_ms": row["time_ms"] + 1} for row in rows_of(other, [99] * 9)])
    assert not rungs.stops(folder, rows)
    assert rungs.stops(folder, [row | {"time_ms": row["time_ms"] + 1} for row in rows])


def test_runs_of_another_seed_or_search_have_no_say(tmp_path):
    mine, other_seed, other_search = spec_of(0.1), spec_of(0.2, seed=1), spec_of(0.3)
    rungs = search(tmp_path, [mine])
    with SearchRecord(rungs.record) as writer:
        writer.append(Asked({}, [spec_of(0.2).key, other_seed.key]))
    for spec in (other_seed, other_search):
        made_run(tmp_path, spec, rows_of(spec, [99] * 9))
    folder = RunFolder.create(tmp_path, "made", mine)
    assert not rungs.stops(folder, rows_of(mine, [1, 1]))
    made_run(tmp_path, spec_of(0.2), rows_of(spec_of(0.2), [99] * 9))
    assert rungs.stops(folder, rows_of(mine, [1, 1]))


def test_rows_that_a_resumed_run_tells_again_were_judged_before_and_a_whole_run_is_not_stopped(tmp_path):
    poor, good = spec_of(0.1), spec_of(0.2)
    rungs = search(tmp_path, [poor, good])
    made_run(tmp_path, good, rows_of(good, [99] * 9))
    folder, rows = RunFolder.create(tmp_path, "made", poor), rows_of(poor, [1] * 9)
    with Journal(folder.journal_path) as journal:
        for row in rows[:3]:
            journal.append(row)
    assert not rungs.stops(folder, rows[:2])
    assert not rungs.stops(folder, rows[:3])
    assert rungs.stops(folder, rows[:4])
    assert not rungs.stops(folder, rows[:5])
    late = dataclasses.replace(rungs, examples=(8.5 * N,))
    assert not late.stops(folder, rows)


def test_a_constant_batch_size_may_be_a_schedule():
    assert judged_at(spec_of(0.1, Constant(16)), N) == N
