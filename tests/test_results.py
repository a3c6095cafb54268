import dataclasses
import math

import pandas as pd
import pytest
from made import made_row, made_spec

from lrbs_core.claims import Claim, verdict
from lrbs_core.results import accuracy_resolution, curves, measure, run_table
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
