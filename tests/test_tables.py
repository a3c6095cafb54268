import dataclasses
import json
import math

import pytest
from made import made_row, made_spec

from lrbs_core import Claim, Linear, Policy, Stages, Triangular, documents, range_test, tables
from lrbs_core.store import Record
from lrbs_core.sweeping import Sweep

DIGITS = {
    "dataset": "digits", "model": "convnet", "optimizer": "sgd", "weight_decay": 5e-4, "ghost_size": 8,
    "augmentation": "none", "normalization": "channel", "batch_size": 8, "momentum": 0.9,
}  # fmt: skip
RISE, PLATEAU, FALL = [10.0, 20.0, 40.0, 60.0], [80.0] * 6, [60.0, 30.0, 10.0, 10.0, 10.0]


def made_ramps(*curves):
    """A ramp to lr 1, and each seed's run with such accuracies at lr 0.02, 0.04 ..."""
    sweep = range_test.sweep(None, DIGITS, 0.0, 1.0, epochs=4, seeds=len(curves))
    rows = [
        [made_row(n, a) | {"lr": n / 50, "train_loss": 1.0, "test_loss": 1.0} for n, a in enumerate(curve, start=1)]
        for curve in curves
    ]
    return sweep, [(spec, Record(spec.key, "finished", "", part)) for spec, part in zip(sweep.runs, rows, strict=True)]


def test_over_seeds_bounds_have_a_geometric_mean_and_a_seed_without_them_its_reason():
    early, late = [10.0] * 4 + RISE + PLATEAU + FALL, [10.0] * 9 + RISE + PLATEAU + FALL
    sweep, pairs = made_ramps(early, late, [10.0] * 50)
    document = documents.range_document(sweep, pairs)
    first, second, never = document["seeds"]
    # Rows 5 and 10 are the last at 10 %, and rows 9 and 14 the first at 80 %.
    assert [(seed["low"], seed["high"]) for seed in (first, second)] == [(0.1, 0.18), (0.2, 0.28)]
    assert (never["low"], never["high"]) == (None, None)
    assert "accuracy must rise" in never["reason"]
    for name in ("low", "high"):
        a, b = first[name], second[name]
        assert document[name]["mean"] == pytest.approx(math.sqrt(a * b))
        # Student's t at 97.5 % and 1 degree of freedom is 12.706; two values lie s/sqrt(2) = half their distance off.
        assert document[name]["high"] / document[name]["mean"] == pytest.approx((b / a) ** (12.7062 / 2), rel=1e-4)
        assert document[name]["n"] == 2
    assert Policy.from_dict(document["policy"]) == Policy(Triangular(0.14, 0.22, stepsize=4), 8, 0.9)
    assert json.loads(json.dumps(document)) == document
    with pytest.raises(ValueError, match="no bounds for any seed: accuracy must rise within the ramp"):
        documents.range_document(sweep, pairs[2:])


def test_equal_seeds_have_an_interval_of_a_row_of_the_ramp_either_way():
    curve = [10.0] * 4 + RISE + PLATEAU + FALL
    document = documents.range_document(*made_ramps(curve, curve, curve))
    assert document["low"]["mean"] == pytest.approx(0.1)
    # Rows are 0.02 apart.
    assert [document["low"][end] for end in ("low", "high")] == pytest.approx([0.1 * 0.1 / 0.12, 0.12])
    assert document["high"]["high"] == pytest.approx(0.18 + 0.02)


@pytest.mark.parametrize(
    ("curve", "says"),
    [
        ([10.0] * 5 + RISE + PLATEAU[:3], "high is no bound: a seed still learns at the end of its ramp. End higher."),
        (RISE + PLATEAU + FALL, "low is no bound: accuracy rises from the first rows on. Begin lower"),
    ],
)
def test_a_bound_that_is_none_is_said_to_be_none(curve, says, capsys):
    one = documents.range_document(*made_ramps(curve))
    assert (one["low"]["low"], one["high"]["high"]) == (None, None)  # one seed has no interval
    document = documents.range_document(*made_ramps(curve, curve))
    for name in ("low", "high"):
        assert (document[name]["low"] is None, document[name]["high"] is None) == (not document[f"{name}_found"],) * 2
    tables.print_range(document)
    shown = capsys.readouterr().out
    assert says in shown
    assert shown.count("is no bound") == 1
    # What is no bound is marked so, and nothing is there to paste.
    assert ("< 0.04" in shown, "> 0.24" in shown) == (not document["low_found"], not document["high_found"])
    assert document["policy"] is None
    assert "Triangular" not in shown
    assert shown.endswith("No schedule to paste: it takes both bounds.\n")
    assert "Triangular" not in shown


def test_a_phase_in_which_lr_moves_shows_both_its_ends(capsys):
    falling = Policy(Stages(((2, Triangular(0.1, 0.3, stepsize=1)), (2, Linear(0.3, 0.0, epochs=2)))), 8, 0.9)
    spec = dataclasses.replace(made_spec(epochs=4), policy=falling)
    tables.print_plan(Sweep("made", "", (), (spec,)), {}, micro_batch=128)
    shown = capsys.readouterr().out.split()
    for ends in ("0.1 → 0.3", "0.3 → 0.1", "0.3 → 0"):
        first, _, last = ends.split()
        assert [first, "→", last, "8", "0.9"] in [shown[i : i + 5] for i in range(len(shown))]


@pytest.mark.parametrize(("asked", "says"), [
    (None, "peak batch 6,000 in 2 micro-batches of at most 3,000 (its ghost size, above the default of 2,048), 1 run"),
    (6000, "peak batch 6,000, 1 run"),
    (4000, "peak batch 6,000 in 2 micro-batches of at most 4,000, 1 run"),
])  # fmt: skip
def test_a_plan_says_where_the_default_micro_batch_gives_way_to_the_ghost_size(capsys, asked, says):
    fields = {"policy": Policy(0.1, 6000, 0.9), "ghost_size": 3000, "dataset": "cifar10", "examples": 0}
    spec = dataclasses.replace(made_spec(), model="convnet", **fields)
    tables.print_plan(Sweep("made", "", (), (spec,)), {}, asked)
    assert says in capsys.readouterr().out


def test_a_sweep_of_runs_of_several_lengths_tells_the_shortest_and_the_longest(capsys):
    runs = tuple(dataclasses.replace(made_spec(f"of {epochs}"), epochs=epochs) for epochs in (84, 50, 140))
    tables.print_plan(Sweep("made", "", (), runs), {}, micro_batch=128)
    assert ": 3 runs, 1,437 examples, 50 to 140 epochs, " in capsys.readouterr().out


def test_in_a_pipe_a_table_is_as_wide_as_it_needs_to_be_and_equal_values_are_told_whole(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    equal, some = {"low": 1_234_567.0, "mean": 1_234_567.0, "high": 1_234_567.0}, {"low": 0.5, "mean": 1.5, "high": 2.5}
    names = [f"a name of some length {number}" for number in range(9)]
    trial = {"trial": 0, "status": "finished", "point": dict.fromkeys(names, 0.05928)}
    trial |= {"test_accuracy": some, "updates": equal, "train_seconds": some}
    document = {
        "sweep": "made", "sampler": {"name": "tpe"}, "overrides": {}, "objectives": {"test_accuracy": "high"},
        "judged_on": "test", "space": names, "trials": [trial], "importances": {},
        "best": [{"trial": 0, "label": "made", "policy": Policy(0.1, 8, 0.9).to_dict()}],
    }  # fmt: skip
    tables.print_search(document)
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("0 "))
    assert " ".join(row.split()) == "0 " + "0.05928 " * 9 + "1.50 ± 1.00 1234567 1.5 ± 1.0"


@pytest.mark.parametrize(("below", "meets"), [(0, "meets"), (-1000, "does not meet")])
def test_a_claim_on_updates_less_those_of_another_is_held_against_both_plans(capsys, below, meets):
    runs = tuple(dataclasses.replace(made_spec(f"of {epochs}"), epochs=epochs) for epochs in (1, 3))
    claim = Claim("Fig", "of 1", "updates", below, relation="below", versus="of 3")
    tables.print_plan(Sweep("made", "", (claim,), runs), {}, micro_batch=128)
    # 1437 examples in batches of 16 are 90 updates an epoch.
    assert f"Fig: -180 updates planned less those of of 3 {meets} < {below}" in capsys.readouterr().out
