"""Policies: every trade keeps lr/(B (1 - m)) at every epoch, and the papers' schedules come out of the trades.

Trades that keep lr (N/B - 1)/(1 - m) itself: tests/test_policies_exact.py.
"""

import json
import math
import pickle

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lrbs_core.policies import Policy, one_cycle, whole
from lrbs_core.schedules import Constant, Linear, Piecewise, Schedule, Stages, Steps, Triangular, Warmup, extreme

BASELINE = Policy(lr=Steps(0.1, at=(60, 120, 160), factor=1 / 5), batch_size=128, momentum=0.9)
BOOSTED = BASELINE.scale(5)
IMAGENET = Policy(lr=Steps(3, at=(30, 60, 80), factor=0.1), batch_size=8192, momentum=0.9)


@pytest.mark.parametrize(
    ("policy", "lr", "batch_size", "momentum"),
    [
        # Smith et al. 2018, section 5.1
        (BASELINE, (0.1, 0.02, 0.004, 0.0008), (128,) * 4, 0.9),
        (BASELINE.grow_batch(until=100), (0.1, 0.1, 0.02, 0.004), (128, 640, 640, 640), 0.9),
        (BASELINE.grow_batch(), (0.1,) * 4, (128, 640, 3200, 16000), 0.9),
        # section 5.2, no batch above 5120
        (BOOSTED.grow_batch(5120), (0.5, 0.5, 0.16, 0.032), (640, 3200, 5120, 5120), 0.9),
        (BOOSTED.raise_momentum(0.98).grow_batch(5120), (0.5, 0.16, 0.032, 0.0064), (3200, 5120, 5120, 5120), 0.98),
        # section 5.3
        (IMAGENET, (3, 0.3, 0.03, 0.003), (8192,) * 4, 0.9),
        (IMAGENET.grow_batch(until=60), (3, 3, 0.3, 0.03), (8192, 81920, 81920, 81920), 0.9),
        (IMAGENET.grow_batch(65536), (3, 2.4, 0.24, 0.024), (8192, 65536, 65536, 65536), 0.9),
        (IMAGENET.raise_momentum(0.95).grow_batch(65536), (3, 1.2, 0.12, 0.012), (16384, 65536, 65536, 65536), 0.95),
        (IMAGENET.raise_momentum(0.975).grow_batch(65536), (3, 0.6, 0.06, 0.006), (32768, 65536, 65536, 65536), 0.975),
        # `until` is the first epoch whose decay stays a decay
        (BASELINE.grow_batch(until=60), (0.1, 0.02, 0.004, 0.0008), (128,) * 4, 0.9),
        (BASELINE.grow_batch(until=math.nextafter(60, 61)), (0.1, 0.1, 0.02, 0.004), (128, 640, 640, 640), 0.9),
        (BASELINE.grow_batch(until=120), (0.1, 0.1, 0.02, 0.004), (128, 640, 640, 640), 0.9),
        (BASELINE.grow_batch(until=121, max_batch_size=1280), (0.1, 0.1, 0.04, 0.008), (128, 640, 1280, 1280), 0.9),
    ],
)
def test_the_papers_schedules_by_phase(policy, lr, batch_size, momentum):
    first, *at = policy.edges(200)
    inside = [first - 1, first, *at, *(math.nextafter(edge, 0) for edge in at), 199]
    phase = [0, 1, 2, 3, 1, 2, 3]
    assert [policy.lr(epoch) for epoch in inside] == pytest.approx([lr[i] for i in phase], rel=1e-9)
    assert [policy(epoch).batch_size for epoch in inside] == [batch_size[i] for i in phase]
    assert {policy(epoch).momentum for epoch in inside} == {momentum}


def test_the_twin_of_a_triangular_rate_is_a_cycling_batch():
    twin = Policy(Triangular(0.1, 0.4, stepsize=2), batch_size=100, momentum=0.9).grow_batch()
    sizes = [twin.batch_size(epoch) for epoch in range(7)]
    assert sizes == pytest.approx([100, 100, 100, 160, 400, 160, 100])
    assert [twin.lr(epoch) for epoch in range(7)] == pytest.approx([0.1, 0.25] + [0.4] * 5)


TRADES = {
    "scale": lambda policy, x: policy.scale(0.5 + 10 * x),
    "grow": lambda policy, _: policy.grow_batch(),
    "grow to a maximum": lambda policy, x: policy.grow_batch(max_batch_size=policy.batch_size(0) * (1 + 20 * x)),
    "grow until": lambda policy, x: policy.grow_batch(until=0.01 + 10 * x),
    "grow to a maximum until": lambda policy, x: policy.grow_batch(policy.batch_size(0) * 5, until=0.01 + 10 * x),
    "decay": lambda policy, _: policy.decay_lr(),
    "raise momentum": lambda policy, x: policy.raise_momentum(0.51 + 0.48 * x),
    "lower momentum": lambda policy, x: policy.lower_momentum(0.49 * x),
}
# Every kind of lr, and a batch that is constant or varies in any way.
policies = st.builds(
    lambda lr, batch_size: Policy(lr, batch_size.scaled(1e5), 0.5),
    st.from_type(Schedule),
    st.from_type(Constant) | st.from_type(Schedule),
)
simple = st.builds(lambda lr, size: Policy(lr, size.scaled(1e5), 0.5), st.from_type(Schedule), st.from_type(Constant))
epochs = st.integers(0, 120).map(lambda n: n / 10) | st.floats(0, 12)
fractions = st.floats(0, 1)


def kept(policy, epoch):
    return policy.lr(epoch) / (policy.batch_size(epoch) * (1 - policy.momentum(epoch)))


def highest_lr(policy, epoch):
    edges = [edge for edge in policy.lr.edges(13) if edge <= epoch]
    return max(map(policy.lr, (0, epoch, *edges, *(math.nextafter(edge, 0) for edge in edges))))


@pytest.mark.parametrize("trade", TRADES.values(), ids=list(TRADES))
@given(policy=policies, x=fractions, epoch=epochs)
def test_a_trade_keeps_lr_over_batch_and_1_less_momentum_at_every_epoch(trade, policy, x, epoch):
    traded = trade(policy, x)
    assert kept(traded, epoch) == pytest.approx(kept(policy, epoch), rel=1e-9)
    assert traded(epoch).lr == traded.lr(epoch)
    assert abs(traded(epoch).batch_size - traded.batch_size(epoch)) <= 0.5 + 1e-9


@given(policy=policies, epoch=epochs)
def test_a_growing_batch_keeps_the_lr_at_its_highest_so_far(policy, epoch):
    assert policy.grow_batch().lr(epoch) == pytest.approx(highest_lr(policy, epoch), rel=1e-9)


@given(policy=policies, epoch=epochs, x=fractions, until=st.none() | epochs)
def test_the_batch_stays_below_its_maximum_and_lr_takes_the_rest(policy, epoch, x, until):
    limit = policy.batch_size(0) * (1 + 20 * x)
    grown = policy.grow_batch(max_batch_size=limit, until=until or None)
    assert grown.batch_size(epoch) <= limit * (1 + 1e-9)
    if not until or epoch < until:
        at_maximum = grown.batch_size(epoch) == pytest.approx(limit, rel=1e-9)
        assert at_maximum or grown.lr(epoch) == pytest.approx(highest_lr(policy, epoch), rel=1e-9)


@given(policy=policies, epoch=epochs, later=epochs, until=epochs.filter(bool))
def test_from_until_on_the_lr_keeps_its_own_course(policy, epoch, later, until):
    whole_way, part_way = policy.grow_batch(), policy.grow_batch(until=until)
    if epoch < until:
        assert part_way.lr(epoch) == pytest.approx(whole_way.lr(epoch), rel=1e-9)
    assume(later >= until)
    growth = part_way.lr(math.nextafter(until, 0)) / policy.lr(math.nextafter(until, 0))
    assert part_way.lr(later) == pytest.approx(policy.lr(later) * growth, rel=1e-9)


@given(policy=policies, epoch=epochs)
def test_decay_lr_keeps_the_batch_at_its_smallest_so_far(policy, epoch):
    edges = [edge for edge in policy.batch_size.edges(13) if edge <= epoch]
    sizes = map(policy.batch_size, (0, epoch, *edges, *(math.nextafter(edge, 0) for edge in edges)))
    assert policy.decay_lr().batch_size(epoch) == pytest.approx(min(sizes), rel=1e-9)


@pytest.mark.parametrize(
    "there_and_back",
    [
        lambda policy, x: policy.scale(0.5 + x).scale(1 / (0.5 + x)),
        lambda policy, x: policy.raise_momentum(0.51 + 0.4 * x).lower_momentum(0.5),
        lambda policy, _: policy.grow_batch().decay_lr(),
        lambda policy, _: policy.stretched(4).stretched(0.25),
    ],
    ids=["scale", "momentum", "grow, decay", "stretch"],
)
@given(policy=simple, x=fractions, epoch=epochs)
def test_the_inverse_of_a_trade_gives_the_policy_back(there_and_back, policy, x, epoch):
    assume(all(abs(epoch - edge) > 1e-9 for edge in policy.edges(13)))  # at a jump rounding may pick the side
    back = there_and_back(policy, x)
    assert back.lr(epoch) == pytest.approx(policy.lr(epoch), rel=1e-9)
    assert back(epoch)[1:] == policy(epoch)[1:]


@given(policy=simple, reference=st.integers(1, 1000), epoch=epochs)
def test_the_scaling_rules_are_a_power_of_the_batch_over_the_reference(policy, reference, epoch):
    ratio = policy.batch_size(epoch) / reference
    for scaled, factor in ((policy.linear_scaling(reference), ratio), (policy.sqrt_scaling(reference), ratio**0.5)):
        assert scaled.lr(epoch) == pytest.approx(policy.lr(epoch) * factor, rel=1e-9)
        assert (scaled.batch_size, scaled.momentum) == (policy.batch_size, policy.momentum)


def test_goyal_s_rule_by_its_own_numbers():
    # 0.1 k for a batch of 256 k, section 5.1; a batch that grows instead of a decay grows from there.
    assert Policy(0.1, 8192, 0.9).linear_scaling(256).lr == Constant(3.2)
    assert Policy(0.1, Stages(((5, 4096), (5, 4096))), 0.9).sqrt_scaling(256).lr == Constant(0.4)
    grown = BASELINE.linear_scaling(64).grow_batch()
    assert (grown.lr, grown.batch_size) == (Constant(0.2), Piecewise((128, 640, 3200, 16_000), at=(60, 120, 160)))


def test_one_cycle_rises_falls_and_ends_low_with_momentum_mirrored():
    policy = one_cycle(low=0.1, high=1.0, stepsize=45, epochs=100, final=0.001, batch_size=512, momentum=(0.95, 0.85))
    assert [(policy(epoch).lr, policy(epoch).momentum) for epoch in (0, 22.5, 45, 67.5, 90, 95, 100)] == [
        pytest.approx(pair, rel=1e-9)
        for pair in ((0.1, 0.95), (0.55, 0.9), (1, 0.85), (0.55, 0.9), (0.1, 0.95), (0.0505, 0.95), (0.001, 0.95))
    ]
    assert policy.batch_size == Constant(512)
    assert policy.edges(100) == (45, 90, 100)


@given(batch_size=st.from_type(Schedule), epoch=epochs)
def test_growing_again_undoes_a_decay_where_the_batch_was_never_smaller_than_at_first(batch_size, epoch):
    policy = Policy(0.1, batch_size.scaled(1e5), 0.5)
    assume(extreme(policy.batch_size, 13, highest=False) == policy.batch_size(0))
    back = policy.decay_lr().grow_batch()
    assert back.lr(epoch) == pytest.approx(0.1, rel=1e-9)
    assert back.batch_size(epoch) == pytest.approx(policy.batch_size(epoch), rel=1e-9)


@given(policy=policies, epoch=epochs, x=fractions)
def test_a_policy_and_its_twin_survive_json_pickle_and_hash(policy, epoch, x):
    for one in (policy, TRADES["grow to a maximum until"](policy, x), policy.decay_lr()):
        copies = (
            Policy.from_dict(json.loads(json.dumps(one.to_dict(), allow_nan=False))),
            pickle.loads(pickle.dumps(one)),
        )
        assert {(copy, hash(copy), copy(epoch)) for copy in copies} == {(one, hash(one), one(epoch))}


def test_stretching_moves_all_three_schedules_and_edges_are_those_of_all():
    policy = Policy(Steps(1, (2, 3), 0.5), Piecewise((1, 2), at=(3,)), Warmup(0.1, 5, then=0.9))
    assert policy.edges(5) == (2, 3, 5)
    assert policy.edges(4.9) == (2, 3)
    assert policy.stretched(0.1).edges(5) == (0.2, 0.3, 0.5)


@pytest.mark.parametrize(
    ("batch_size", "expected"), [(2.5, 3), (3.5, 4), (2.499, 2), (640.0000000001, 640), (639.9999999999, 640), (0.5, 1)]
)
def test_batch_sizes_round_to_the_nearest_halves_up(batch_size, expected):
    assert whole(batch_size) == expected
    assert Policy(0.1, batch_size, 0)(0).batch_size == expected
    assert isinstance(whole(batch_size), int)


RISING = Policy(0.1, 128, Linear(0.5, 0.9, 5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Policy(-0.1, 128, 0.9), "lr >= 0 must hold, but got lr=-0.1 at epoch 0"),
        (lambda: Policy(0.1, 0.4, 0.9), "batch_size >= 1 must hold, but got batch_size=0.4 at epoch 0"),
        (lambda: Policy(0.1, Linear(0.3, 9, 1), 0.9), "batch_size=0.3 at epoch 0"),
        (lambda: Policy(0.1, 128, 1), "0 <= momentum < 1 must hold, but got momentum=1.0 at epoch 0"),
        (lambda: Policy(0.1, 128, -0.1), "momentum=-0.1 at epoch 0"),
        (lambda: Policy(Linear(-1, 1, 5), 128, 0.9), "lr=-1.0 at epoch 0"),
        (lambda: BASELINE.grow_batch(127), "max_batch_size >= batch_size .* max_batch_size=127, batch_size=128"),
        (lambda: Policy(0.1, Linear(9, 1, 1), 0).grow_batch(8), "max_batch_size=8, batch_size=9 at epoch 0"),
        (lambda: BASELINE.grow_batch(until=0), "until > 0 must hold, but got until=0"),
        (lambda: BASELINE.grow_batch(until=math.nan), "until > 0 must hold, but got until=nan"),
        (lambda: BASELINE.scale(0), "factor > 0 must hold, but got factor=0"),
        (lambda: BASELINE.scale(math.inf), "factor > 0 must hold, but got factor=inf"),
        (lambda: BASELINE.scale(0.001), "batch_size >= 1 must hold, but got batch_size=0.128"),
        (lambda: BASELINE.raise_momentum(0.9), "momentum > 0.9 must hold, but got momentum=0.9"),
        (lambda: BASELINE.raise_momentum(1), "momentum > 0.9 must hold, but got momentum=1"),
        (lambda: BASELINE.lower_momentum(0.9), "momentum < 0.9 must hold, but got momentum=0.9"),
        (lambda: BASELINE.lower_momentum(-0.1), "momentum < 0.9 must hold, but got momentum=-0.1"),
        (lambda: RISING.raise_momentum(0.95), "raise_momentum needs a constant momentum, but got Linear"),
        (lambda: RISING.lower_momentum(0.1), "lower_momentum needs a constant momentum, but got Linear"),
        (lambda: BASELINE.linear_scaling(0), "reference_batch >= 1 must hold, but got reference_batch=0"),
        (lambda: BASELINE.grow_batch().linear_scaling(128), "linear_scaling needs a constant .* got Piecewise"),
        (lambda: BASELINE.grow_batch().sqrt_scaling(128), "sqrt_scaling needs a constant .*: scale before growing the"),
        (lambda: one_cycle(0.1, 1, 50, 100, 0.01, 128, (0.9, 0.8)), "2 stepsize < epochs .* stepsize=50, epochs=100"),
        (lambda: one_cycle(0.1, 1, 5, 100, 0.01, 128, (0.8, 0.9)), r"momentum\[1\] must hold.*\(0.8, 0.9\)"),
        (lambda: Policy.from_dict({"lr": 0.1}), "fields lr, batch_size, momentum, but got {'lr': 0.1}"),
        (lambda: Policy.from_dict(0.1), "fields lr, batch_size, momentum, but got 0.1"),
        (lambda: Policy.from_dict({"lr": 1, "batch_size": 1, "momentum": "x"}), "a finite number"),
    ],

)  # fmt: skip
def test_bad_input_is_refused_with_the_rule_and_the_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_lies_on_the_border_is_taken():
    assert Policy(0, 1, 0)(0) == (0, 1, 0)
    assert BASELINE.grow_batch(max_batch_size=128).batch_size == Constant(128)
    assert BASELINE.lower_momentum(0)(0) == (0.1, 13, 0)
