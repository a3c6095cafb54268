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


RISING = dataclasses.replace(made_spec(epochs=8), policy=Policy(Cosine(0.1, 0.0, 10), 8, 0.9).grow_batch())
CASES = {
    "constant lr": (spec_of(), 2.5, 2.5),
    "a large batch": (spec_of(batch_size=512), 2.5, 2.5),
    "steps": (spec_of(Steps(0.1, at=(2, 4), factor=0.1)), 2.5, 2.5),
    "mid-cycle": (spec_of(Triangular(0.01, 0.1, stepsize=1)), 2.5, 4.0),
    "at a cycle's end": (spec_of(Triangular(0.01, 0.1, stepsize=1)), 4.0, 4.0),
    "its twin of cycling batch size": (spec_of(0.1, Triangular(16, 160, stepsize=1)), 2.5, 3.0),
    "a decay within a rise": (spec_of(Triangular(0.01, 0.1, 2), Steps(16, at=(9,), factor=4), 16), 8.5, 12.0),
    "a schedule of no sense past the end": (RISING, 2.5, 2.5),
    "a cycle that ends with the run": (spec_of(Triangular(0.01, 0.1, stepsize=4.5)), 2.5, None),
    "a run that is shorter": (spec_of(epochs=2), 2.5, None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_judged_at_the_rung_or_the_next_cycle_end(case):
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
    for loss, stops in ((2.0, True), (0.5, False), (1.0, False), (math.nan, True)):
        assert rungs.stops(folder, [row | {"test_loss": loss} for row in rows_of(poor, range(2))]) is stops


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
