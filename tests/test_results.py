import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from made import made_noise, made_row, made_spec

from lrbs_core import Policy, Steps
from lrbs_core.claims import Claim, verdict
from lrbs_core.noise import NOT_TOLD
from lrbs_core.results import accuracy_resolution, curves, measure, mixed_precision, noise_by_phase, run_table
from lrbs_core.store import Record


def pair(label: str, seed: int, accuracy: float, status: str = "finished", rows: int = 2):
    spec = made_spec(label, seed)
    return spec, Record(spec.key, status, "an abacus", [made_row(n, accuracy - (rows - n)) for n in range(1, rows + 1)])


def test_a_line_a_run_with_its_last_row():
    pairs = [pair("a", 0, 90.5), pair("b", 1, 80.0, rows=3)]
    table = run_table(pairs)
    assert table["policy"].tolist() == ["a", "b"]
    assert table["test_accuracy"].tolist() == [90.5, 80.0]
    assert table["updates"].tolist() == [2, 3]
    assert table["key"].tolist() == [spec.key for spec, _ in pairs]
    assert table["machine"].tolist() == ["an abacus"] * 2


def test_the_noise_of_a_phase_is_that_of_the_rows_that_lie_in_it():
    spec = dataclasses.replace(made_spec(epochs=4), policy=Policy(Steps(0.1, at=(1.5, 3), factor=0.2), 16, 0.9))
    end = 3 + 16 / 1437 / 2  # the update that passes epoch 3 began before it
    records = [
        Record("", "finished", "", [
            made_row(number) | {"epoch": epoch, "batch_size": 16} | made_noise(trace * (1 + seed))
            for number, (epoch, trace) in enumerate([(1.0, 10.0), (2.0, 999.0), (end, 40.0), (4.0, 50.0)], start=1)
        ])
        for seed in range(3)
    ]  # fmt: skip
    found = noise_by_phase(spec, spec.plan().phases, records)
    assert [noise.scale for noise in found] == pytest.approx([20, 80, 100])
    assert noise_by_phase(spec, spec.plan().phases, []) == [NOT_TOLD] * 3


BF16, FULL = "a GPU, torch 2, bf16, compile", "a CPU called bf16-ish, torch 2"
MIXED = [
    ([BF16, BF16, BF16, BF16], None),
    ([FULL, FULL, FULL, FULL], None),
    # Nothing is known of what has not told, or has no row.
    ([BF16, "", "", ""], None),
    ([BF16, FULL, "", ""], "a (seed 0)"),
    ([BF16, BF16, FULL, BF16], "a (seeds 0, 1), b (seed 1)"),
]


@pytest.mark.parametrize(("machines", "says"), MIXED)
def test_runs_in_bf16_beside_others_are_named(machines, says):
    runs = [pair(label, seed, 90.0) for label in "ab" for seed in range(2)]
    pairs = [(spec, run._replace(machine=machine)) for (spec, run), machine in zip(runs, machines, strict=True)]
    begun = pair("c", 0, 90.0, status="running", rows=0)
    sentence = f"Not of one precision, which may be what differs: in bf16 are {says}, the others in float32."
    expected = None if says is None else sentence
    assert mixed_precision([*pairs, (begun[0], begun[1]._replace(machine=BF16))]) == expected


def test_what_was_judged_by_is_a_column_and_missing_where_nothing_was_set_aside():
    (spec, record), other = pair("a", 0, 90.5), pair("b", 1, 80.0)
    rows = [row | {"validation_accuracy": 70.0 + row["row"], "validation_loss": 1.0} for row in record.rows]
    pairs = [(spec, record._replace(rows=rows)), other]
    for frame, expected in ((run_table(pairs), [72.0, math.nan]), (curves(pairs), [71.0, 72.0, math.nan, math.nan])):
        np.testing.assert_array_equal(frame["validation_accuracy"], expected)


def test_a_run_without_rows_is_there_and_empty():
    table = run_table([pair("a", 0, 90.0, status="failed", rows=0)])
    assert table["status"].tolist() == ["failed"]
    assert math.isnan(table["test_accuracy"][0])
    assert table["updates"].isna().all()


def test_no_runs_make_an_empty_table_with_all_columns():
    assert list(run_table([]).columns) == list(run_table([pair("a", 0, 90.0)]).columns)
    assert len(curves([])) == 0


def test_curves_hold_every_row():
    frame = curves([pair("a", 0, 90.0, rows=3), pair("b", 1, 80.0)])
    assert frame[["policy", "seed", "row", "test_accuracy"]].values.tolist() == [
        ["a", 0, 1, 88.0], ["a", 0, 2, 89.0], ["a", 0, 3, 90.0], ["b", 1, 1, 79.0], ["b", 1, 2, 80.0],
    ]  # fmt: skip


@pytest.fixture
def table() -> pd.DataFrame:
    return run_table(
        [
            *(pair("a", seed, accuracy) for seed, accuracy in enumerate((90.0, 91.0, 95.0))),
            *(pair("b", seed, accuracy) for seed, accuracy in ((2, 94.0), (1, 91.5), (7, 10.0))),
            pair("b", 0, 0.0, status="diverged"),
        ]
    )


def test_a_claim_is_measured_over_finished_runs(table):
    measured = measure(table, Claim("here", "a", "test_accuracy", 92.0))
    assert measured is not None
    assert (measured.mean, measured.n) == (92.0, 3)
    assert measure(table, Claim("here", "nobody", "test_accuracy", 92.0)) is None


def test_a_difference_is_paired_by_seed(table):
    # Seeds 1 and 2 are finished on both sides: 91 - 91.5 and 95 - 94.
    measured = measure(table, Claim("here", "a", "test_accuracy", 0.0, versus="b"))
    assert measured is not None
    assert (measured.mean, measured.n) == (0.25, 2)


@pytest.mark.parametrize(("policy", "versus"), [("b", None), ("a", "b"), ("b", "a")])
def test_what_is_left_of_runs_that_diverged_has_a_mean_and_no_interval(table, policy, versus):
    claim = Claim("here", policy, "test_accuracy", 50.0, tolerance=100.0, versus=versus)
    measured = measure(table, claim)
    assert measured is not None
    assert math.isnan(measured.low)
    assert math.isnan(measured.high)
    assert verdict(claim, measured) == "too few runs"


def test_one_example_of_the_test_set_is_known_of_a_data_set_and_told_by_the_accuracies_of_a_folder():
    assert accuracy_resolution([]) == 0
    assert accuracy_resolution([pair("a", 0, 97.5)]) == pytest.approx(100 / 360)
    folder = [
        (dataclasses.replace(spec, dataset="imagefolder:mine", examples=1000), record)
        for spec, record in (
            pair("a", seed, 100 * right / 1250, rows=1) for seed, right in enumerate((1000, 1001, 999))
        )
    ]
    assert accuracy_resolution(folder) == pytest.approx(100 / 1250)
    assert accuracy_resolution([*folder, pair("a", 0, 97.5)]) == pytest.approx(100 / 360)


def test_equal_accuracies_have_an_interval_of_one_example_either_way_and_counts_none():
    pairs = [pair("a", seed, 97.5) for seed in range(6)]
    table, resolution = run_table(pairs), accuracy_resolution(pairs)
    measured = measure(table, Claim("here", "a", "test_accuracy", 97.0, tolerance=1.0), resolution)
    assert measured == pytest.approx((97.5, 97.5 - 100 / 360, 97.5 + 100 / 360, 6))
    assert measure(table, Claim("here", "a", "updates", 2), resolution) == (2, 2, 2, 6)
    # As near to the border as that, they do not settle it.
    close = Claim("here", "a", "test_accuracy", 97.0, tolerance=0.6)
    assert verdict(close, measure(table, close, resolution)) == "too few runs"


@pytest.mark.parametrize(("n", "expected"), [(2, "too few runs"), (5, "too few runs"), (6, "reproduced")])
def test_equal_accuracies_of_few_runs_settle_nothing_but_equal_updates_do(n, expected):
    table = run_table([pair("a", seed, 97.5) for seed in range(n)])
    claim = Claim("here", "a", "test_accuracy", 97.0, tolerance=1.0)
    assert verdict(claim, measure(table, claim)) == expected
    updates = Claim("here", "a", "updates", int(table["updates"][0]))
    assert verdict(updates, measure(table, updates)) == "reproduced"
