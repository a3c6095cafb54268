"""How far twins' noise scales are apart, against g worked out here, and whose noise scale is told at all."""

import dataclasses
import json
import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import made_spec

from lrbs_core import Policy, RunSpec, Steps, Triangular, documents, tables
from lrbs_core.schedules import Constant, Schedule
from lrbs_core.sweeping import Sweep
from lrbs_core.twins import deviations, notes

BASELINE = Policy(lr=Steps(0.1, at=(60, 120, 160), factor=1 / 5), batch_size=128, momentum=0.9)
LADDER = {  # Smith et al. 2018, Figures 1 and 5
    "decaying lr": BASELINE,
    "increasing batch": BASELINE.grow_batch(),
    "increased momentum": BASELINE.scale(5).raise_momentum(0.98).grow_batch(max_batch_size=5120),
    "exact": BASELINE.grow_batch(exact=50_000),
    "other": Policy(lr=0.1, batch_size=128, momentum=0.95),
}
OPTIMIZERS = {"sgd": True, "nesterov": True, "adam": False, "adamw": False, "rmsprop": False, "lars": False}


def run(policy, label="made", **changes) -> RunSpec:
    fields = {"policy": policy, "dataset": "cifar10", "examples": 50_000, "epochs": 204.8, "partial": "carry"}
    return dataclasses.replace(made_spec(label), **fields | changes)


RUNS = {label: run(policy, label) for label, policy in LADDER.items()}


def test_the_deviations_of_the_paper_s_ladder_by_hand():
    first = RUNS["decaying lr"]
    # (1 - B/N) of the one over that of 128.
    by_hand = {size: (1 - size / 50_000) / (1 - 128 / 50_000) - 1 for size in (128, 640, 3200, 5120, 16_000)}
    assert by_hand[16_000] == pytest.approx(2.125 / 3.117 - 1)
    assert deviations(RUNS["increasing batch"], first) == pytest.approx(
        [by_hand[size] for size in (128, 640, 3200, 16_000)], abs=1e-9
    )
    assert deviations(RUNS["increased momentum"], first) == pytest.approx(
        [by_hand[size] for size in (3200, 5120, 5120, 5120)], abs=1e-9
    )
    assert deviations(RUNS["other"], first) == pytest.approx([math.nan] * len(RUNS["other"].plan().phases), nan_ok=True)


def test_what_is_told_of_the_paper_s_ladder():
    first = RUNS["decaying lr"]
    told = {label: " | ".join(notes(spec, first)) for label, spec in RUNS.items()}
    assert told["decaying lr"] == told["other"] == ""
    assert "6.2 % from epoch 120, 32 % from epoch 160: trades keep lr/(B (1 - m)), not g" in told["increasing batch"]
    assert "6.2 % below decaying lr's from epoch 0, 10 % from epoch 60:" in told["increased momentum"]
    assert "batch up to 5,120, from epoch 60 above N/10 = 5,000" in told["increased momentum"]
    # The exact twin is off by whole batch sizes alone, but past N/10 all the same.
    assert told["exact"] == (
        "batch up to 12,145, from epoch 160 above N/10 = 5,000: "
        "Smith et al. (section 3) grow it to about that, and decay lr from there"
    )
    # Seen from the larger batch the noise is larger: 3.117/2.125 - 1 = 47 %.
    assert "47 % from epoch 160" in " ".join(notes(first, RUNS["increasing batch"]))


lrs = st.from_type(Schedule)
sizes = st.from_type(Constant).map(lambda size: size.scaled(300))


@settings(max_examples=40)
@given(lr=lrs, size=sizes, cap=st.floats(1, 8), x=st.floats(0, 1))
def test_of_any_twins_the_deviation_is_the_largest_at_the_ends_of_a_phase(lr, size, cap, x):
    policy = Policy(lr, size.scaled(10), 0.5)
    first, larger = run(policy, "first", epochs=5.0), policy.scale(1 + x)
    twin = run(larger.grow_batch(max_batch_size=larger.batch_size(0) * cap), epochs=5.0)
    for phase, found in zip(twin.plan().phases, deviations(twin, first), strict=True):
        worked_out = []
        for epoch in (phase.epoch_start, math.nextafter(phase.epoch_end, 0)):
            (a, b, m), (c, d, n) = twin.policy(epoch), first.policy(epoch)
            worked_out.append((a * (50_000 - b) / (b * (1 - m))) / (c * (50_000 - d) / (d * (1 - n))) - 1)
        assert abs(found) >= max(map(abs, worked_out)) - 1e-9


def test_of_many_phases_the_largest_deviation_is_told():
    policy = Policy(Triangular(0.001, 0.006, stepsize=2), 2000, 0.9)
    one, two = run(policy, "cycling", epochs=40), run(policy.grow_batch(), epochs=40)
    (told, past) = notes(two, one)
    # At the highest rate, 6 times the lowest: 12000 of 50000 against 2000: 0.76/0.96 - 1 = -21 %, where the rate falls.
    assert told.startswith("noise scale up to 21 % below cycling's between epochs 2 and 40:")
    assert "batch up to 11,982, from epoch 2 above N/10" in past


def test_runs_of_other_data_or_past_the_baseline_s_end_are_no_twins():
    first, growing = RUNS["decaying lr"], RUNS["increasing batch"]
    assert all(map(math.isnan, deviations(dataclasses.replace(growing, examples=60_000), first)))
    assert list(map(math.isnan, deviations(growing, run(BASELINE, epochs=100)))) == [False, False, True, True]


@pytest.mark.parametrize(("optimizer", "has"), OPTIMIZERS.items())
def test_a_noise_scale_is_told_of_sgd_alone(optimizer, has, capsys):
    coefficient = {"trust_coefficient": 0.001} if optimizer == "lars" else {}
    runs = tuple(
        dataclasses.replace(RUNS[label], optimizer=optimizer, **coefficient)
        for label in ("decaying lr", "increasing batch")
    )
    document = documents.plan_document(Sweep("made", "", (), runs))
    last = json.loads(json.dumps(document, allow_nan=False))["runs"][1]["phases"][-1]
    assert document["baseline"] == "decaying lr"
    assert last["noise_scale"] == (2.125 if has else None)
    assert last["noise_scale_deviation"] == (pytest.approx(2.125 / 3.117 - 1) if has else None)
    tables.print_plan(Sweep("made", "", (), runs), {}, micro_batch=16_000)
    shown = capsys.readouterr().out
    assert ("no noise scale: lr (N/B - 1)/(1 - m) is that of SGD's update" in shown) is not has
    assert ("32 % from epoch 160" in shown) is has
    assert math.isnan(runs[0].noise_scale(runs[0].policy(0))) is not has


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize(
    "trade",
    [
        lambda: BASELINE.raise_momentum(0.98),
        lambda: BASELINE.lower_momentum(0.5),
        lambda: BASELINE.raise_momentum(0.98).scale(2).grow_batch(max_batch_size=5120).stretched(0.5),
        lambda: BASELINE.raise_momentum(0.95, exact=50_000).decay_lr().linear_scaling(640),
        lambda: BASELINE.raise_momentum(0.95).raise_momentum(0.98).lower_momentum(0.95),
        lambda: pickle.loads(pickle.dumps(BASELINE.raise_momentum(0.98))),
    ],
)
def test_momentum_is_not_traded_where_the_update_is_a_mean(trade, optimizer):
    with pytest.raises(
        ValueError, match=r"must not have raise_momentum .* normalised mean of gradients: .* for 0.9: make"
    ):
        run(trade(), optimizer=optimizer)
    for other in ("sgd", "nesterov", "rmsprop"):
        run(trade(), optimizer=other)
    run(trade(), optimizer="lars", trust_coefficient=0.001)


def test_a_trade_of_momentum_is_no_part_of_what_a_policy_is():
    raised, plain = BASELINE.raise_momentum(0.98), Policy(BASELINE.lr, 640, 0.98)
    assert (raised, hash(raised), repr(raised), raised.to_dict()) == (plain, hash(plain), repr(plain), plain.to_dict())
    assert run(raised).key == run(plain).key
    assert run(plain, optimizer="adam").policy == raised
    # There and back is as if nothing had been traded.
    run(raised.lower_momentum(0.9), optimizer="adam")
    assert Policy.from_dict(raised.to_dict()).traded_momentum is None
