"""Exact trades: with exact=N they keep g = lr (N/B - 1)/(1 - m) at every epoch, which here has its own formula."""

import json
import math
import pickle

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lrbs_core.policies import Policy
from lrbs_core.schedules import Constant, Linear, Piecewise, Polynomial, Schedule, Steps, Triangular

N = 50_000
BASELINE = Policy(lr=Steps(0.1, at=(60, 120, 160), factor=1 / 5), batch_size=128, momentum=0.9)


def g(lr, batch_size, momentum):
    return lr * (N - batch_size) / (batch_size * (1 - momentum))


def at(policy, epoch):
    return policy.lr(epoch), policy.batch_size(epoch), policy.momentum(epoch)


def test_figure_1_grows_to_12145_rather_than_16000():
    twin = BASELINE.grow_batch(exact=N)
    assert twin.lr == Constant(0.1)
    # By hand: 50000/128 - 1 = 389.625; divided by 5, 25, 125: 50000/(1 + 3.117) = 12144.8.
    assert [twin(epoch).batch_size for epoch in (0, 60, 120, 160)] == [128, 634, 3015, 12_145]
    for epoch in (0, 60, 120, 160):
        assert g(*at(twin, epoch)) == pytest.approx(g(*at(BASELINE, epoch)), rel=1e-9)
        assert g(*twin(epoch)) == pytest.approx(g(*BASELINE(epoch)), rel=1e-3)  # in whole batches
    assert g(*BASELINE.grow_batch()(160)) == pytest.approx(g(*BASELINE(160)) * 2.125 / 3.117)


def test_past_the_maximum_lr_takes_the_rest_of_g():
    twin = BASELINE.scale(5, exact=N).raise_momentum(0.98, exact=N).grow_batch(max_batch_size=5120, exact=N)
    # 5 times the odds for lr, and 5 times for the momentum: 50000/(1 + 389.625/25) = 3014.8.
    assert [twin(epoch).batch_size for epoch in (0, 60, 120, 160)] == [3015, 5120, 5120, 5120]
    for epoch, share in ((60, 5), (120, 25), (160, 125)):
        expected = 0.1 * 389.625 / (0.1 * share) * 0.02 / (N / 5120 - 1)
        assert twin(epoch).lr == pytest.approx(expected, rel=1e-9)


TRADES = {
    "scale": lambda policy, x: policy.scale(0.5 + 10 * x, exact=N),
    "grow": lambda policy, _: policy.grow_batch(exact=N),
    "grow to a maximum": lambda policy, x: policy.grow_batch(policy.batch_size(0) * (1 + 20 * x), exact=N),
    "grow to a maximum until": lambda policy, x: policy.grow_batch(policy.batch_size(0) * 5, 0.01 + 10 * x, exact=N),
    "decay": lambda policy, _: policy.decay_lr(exact=N),
    "raise momentum": lambda policy, x: policy.raise_momentum(0.51 + 0.48 * x, exact=N),
    "lower momentum": lambda policy, x: policy.lower_momentum(0.49 * x, exact=N),
    "several": lambda policy, x: policy.scale(1 + x, exact=N).raise_momentum(0.9, exact=N).grow_batch(exact=N),
}
sizes = st.from_type(Constant).map(lambda size: size.scaled(500))
simple = st.builds(Policy, st.from_type(Schedule), sizes, st.just(0.5))
policies = simple | st.builds(
    lambda lr, size: Policy(lr, size.scaled(500), 0.5),
    st.from_type(Schedule),
    st.one_of(*map(st.from_type, (Piecewise, Linear, Triangular))),
)
epochs = st.integers(0, 120).map(lambda n: n / 10) | st.floats(0, 12)
fractions = st.floats(0, 1)


@pytest.mark.parametrize("trade", TRADES.values(), ids=list(TRADES))
@given(policy=policies, x=fractions, epoch=epochs)
def test_an_exact_trade_keeps_the_noise_scale_at_every_epoch(trade, policy, x, epoch):
    traded = trade(policy, x)
    lr, batch_size, momentum = at(traded, epoch)
    # Close to N the difference N - B holds fewer digits.
    assume(batch_size < N * (1 - 1e-6))
    assert g(lr, batch_size, momentum) == pytest.approx(g(*at(policy, epoch)), rel=1e-11 * N / (N - batch_size) + 1e-9)
    assert traded(epoch).batch_size == math.floor(batch_size + 0.5)


@pytest.mark.parametrize(
    "there_and_back",
    [
        lambda policy, x: policy.scale(0.5 + x, exact=N).scale(1 / (0.5 + x), exact=N),
        lambda policy, x: policy.raise_momentum(0.51 + 0.4 * x, exact=N).lower_momentum(0.5, exact=N),
        lambda policy, _: policy.grow_batch(exact=N).decay_lr(exact=N),
    ],
    ids=["scale", "momentum", "grow, decay"],
)
@given(policy=simple, x=fractions, epoch=epochs)
def test_the_inverse_of_an_exact_trade_gives_the_policy_back(there_and_back, policy, x, epoch):
    assume(all(abs(epoch - edge) > 1e-9 for edge in policy.edges(13)))  # at a jump rounding may pick the side
    back = there_and_back(policy, x)
    assert at(back, epoch) == pytest.approx(at(policy, epoch), rel=1e-9)


@given(policy=policies, x=fractions, epoch=epochs)
def test_an_exact_growth_keeps_lr_at_its_highest_so_far_and_the_batch_below_n(policy, x, epoch):
    traded, plain = policy.grow_batch(exact=N), policy.grow_batch()
    assert traded.lr(epoch) == pytest.approx(plain.lr(epoch), rel=1e-9)
    assert traded.batch_size(epoch) <= min(N, plain.batch_size(epoch) * (1 + 1e-9))
    capped = policy.grow_batch(max_batch_size=policy.batch_size(0) * (1 + 20 * x), exact=N)
    assert capped.batch_size(epoch) <= policy.batch_size(0) * (1 + 20 * x) * (1 + 1e-9)


@given(policy=policies, x=fractions, epoch=epochs)
def test_exact_twins_survive_json_and_pickle_and_stretch_and_scale(policy, x, epoch):
    for one in (TRADES["grow to a maximum until"](policy, x), TRADES["several"](policy, x)):
        copy = Policy.from_dict(json.loads(json.dumps(one.to_dict(), allow_nan=False)))
        assert {copy, pickle.loads(pickle.dumps(one))} == {one}
        assert copy(epoch) == one(epoch)
        # `scale` without exact=N multiplies the batch that came of it, as it does any other.
        lr, batch_size, _ = at(one.scale(2), epoch)
        assert (lr, batch_size) == pytest.approx((2 * one.lr(epoch), 2 * one.batch_size(epoch)), rel=1e-9)
        assume(all(abs(epoch - edge) > 1e-9 for edge in one.edges(13)))
        assert at(one.stretched(4), 4 * epoch) == pytest.approx(at(one, epoch), rel=1e-6)


FALLING = Policy(Polynomial(0.1, 0, 10, power=2), 128, 0.9)


def test_where_lr_falls_to_0_an_exact_growth_wants_a_maximum_too():
    with pytest.raises(ValueError, match="lr > 0 must hold where the batch grows in its stead"):
        FALLING.grow_batch(exact=N)(10)
    capped = FALLING.grow_batch(max_batch_size=5000, exact=N)
    assert capped(10) == (0, 5000, 0.9)
    assert g(*at(capped, 9.5)) == pytest.approx(g(0.1 * 0.05**2, 128, 0.9), rel=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BASELINE.grow_batch(exact=128), "batch_size < 128 .the training examples. .* got batch_size=128"),
        (lambda: BASELINE.scale(5, exact=100), "must hold where a trade is exact, but got batch_size=128"),
        (lambda: BASELINE.grow_batch(max_batch_size=N, exact=N), "batch_size < 50000 .* but got batch_size=50000"),
        (lambda: BASELINE.raise_momentum(0.95, exact=-1), "examples > 0 must hold, but got examples=-1"),
    ],
)
def test_bad_input_is_refused_with_the_rule_and_the_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()
