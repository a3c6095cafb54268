"""Products and growths of curves that move both: walked over densely, nothing lies beyond what their edges tell."""

import dataclasses
import functools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made import made_spec

from lrbs_core import Policy, make_plan
from lrbs_core.schedules import (
    Constant,
    Cosine,
    Exponential,
    ExpRange,
    Growth,
    Hann,
    Linear,
    Polynomial,
    Power,
    Product,
    Schedule,
    Shrinkage,
    Stages,
    Triangular,
    extreme,
)

END = 9.9
HUMP = Product(Linear(0.1, 1, 10), Polynomial(1, 0.01, 10, 2))
moving = st.one_of(*map(st.from_type, (Linear, Polynomial, Cosine, Exponential, Triangular, Hann, ExpRange, Schedule)))
products = st.builds(Product, moving, moving)
nested = st.one_of(
    products,
    st.builds(Product, products, products),
    st.builds(Product, products, st.builds(Power, products, st.floats(-1, 2).filter(bool))),
    st.builds(Growth, products, moving, st.none() | st.floats(0.1, 8), st.floats(0.05, 10)),
    st.builds(lambda lr, size: Product(size, Growth(lr, size, None, 10.0)), products, products),
    st.builds(lambda size: Product(size, Shrinkage(size)), products),
    st.lists(st.tuples(st.floats(0.1, 4), products), min_size=1, max_size=3).map(Stages),
)


def dense(end, edges):
    """1500 places, and more where a curve may turn unseen: close to its edges."""
    near = [edge + side * 10.0**-power for edge in (0.0, *edges, end) for side in (-1, 1) for power in range(1, 9)]
    return sorted({*np.linspace(0, end, 1500, endpoint=False).tolist(), *(at for at in near if 0 <= at < end)})


@given(schedule=nested, end=st.floats(0.05, 12))
@settings(max_examples=60)
def test_no_value_on_a_dense_walk_lies_beyond_the_extremes(schedule, end):
    values = [schedule(epoch) for epoch in dense(end, schedule.edges(end))]
    assert extreme(schedule, end, highest=True) >= max(values) * (1 - 1e-9)
    assert extreme(schedule, end, highest=False) <= min(values) * (1 + 1e-9)


@given(lr=products, size=st.one_of(st.from_type(Constant), products), cap=st.floats(1, 50))
@settings(max_examples=60)
def test_a_batch_grows_by_the_highest_lr_of_a_dense_walk_over_the_lr_now(lr, size, cap):
    policy = Policy(lr, size.scaled(1e6), 0.9)
    grown = policy.grow_batch(max_batch_size=policy.batch_size(0.0) * cap)
    epochs = dense(END, lr.edges(END))
    rates, batches = (np.array([schedule(epoch) for epoch in epochs]) for schedule in (lr, policy.batch_size))
    limit = batches[0] * cap / batches
    growth = np.minimum(np.maximum.accumulate(rates) / rates, limit)
    found = np.array([grown.batch_size(epoch) for epoch in epochs]) / batches
    assert (found >= growth * (1 - 1e-9)).all()
    # The true height lies above that of the walk by at most its largest change in a place.
    slack = np.maximum.accumulate(np.abs(np.diff(rates, append=rates[-1])))
    assert (
        found <= np.minimum((np.maximum.accumulate(rates) + slack) / rates, batches[0] * cap / batches) * 1.000001
    ).all()


@pytest.mark.parametrize(("partial", "updates"), [("carry", 2538), ("keep", 2542), ("drop", 2532)])
def test_the_updates_of_a_hump_that_becomes_growth_are_those_of_a_plain_loop(partial, updates):
    n, start, counted, highest = 50_000, 0, 0, 0.0
    while start < round(END * n):
        epoch = start / n
        lr = (0.1 + 0.09 * epoch) * (0.01 + 0.99 * (1 - epoch / 10) ** 2)
        highest = max(highest, lr)
        batch = math.floor(min(128 * highest / lr, 12_800) + 0.5)
        left = round(END * n) - start
        size = min(batch, left if partial == "carry" else min(left, n - start % n))
        counted += partial != "drop" or size == batch
        start += size
    policy = Policy(HUMP, 128, 0.9).grow_batch(12_800)
    assert make_plan(policy, n, END, partial).updates == counted == updates


def test_turns_known_in_closed_form():
    # x (1 - x)^2 peaks at 1/3; e^-x (1 + x)^2 at 1; sin of a half circle, from two cosines, in its middle.
    cubic = Product(Linear(0, 1, 1), Polynomial(1, 0, 1, 2))
    assert cubic.edges(1) == pytest.approx((1 / 3, 1), rel=1e-7)
    fading = Product(Exponential(1, math.exp(-1)), Power(Linear(1, 21, 20), 2))
    assert fading.edges(20) == pytest.approx((1, 20), rel=1e-7)
    assert Product(Cosine(1, 0, 4), Cosine(0, 1, 4)).edges(4) == pytest.approx((2, 4), rel=1e-7)
    # A power below 1 rises again in the last part in a million: (1 + x)(1 - sqrt(x)) with x = 1 - epoch.
    late = Product(Linear(1, 0.5, 1), Polynomial(1e-3, 1, 1, power=0.5))
    x = min((1 - 0.5 * e) * (1 - 0.999 * (1 - e) ** 0.5) for e in np.linspace(0, 1, 10_001))
    assert extreme(late, 1, highest=False) == pytest.approx(x, rel=1e-6)


def test_a_search_for_turns_made_for_one_end_holds_for_another():
    cycling = Product(Triangular(0.1, 1, 1.5), Cosine(1, 0.1, 12))
    whole = cycling.edges(12)
    for end in (0.7, 1.5, 3.3, 8.0, 11.99):
        assert cycling.edges(end) == tuple(edge for edge in whole if edge <= end)
    # Where a hundred thousand rises are as many as there may be, those up to the end still count.
    fine = Product(Triangular(0.1, 1, 1e-3), Linear(1, 0.5, 90))
    assert len(fine.edges(2)) >= 2000
    with pytest.raises(ValueError, match="at most 100,000 stepsizes"):
        fine.edges(102)


@given(size=nested, peak=st.floats(0.97, 1.03))
@settings(max_examples=60)
def test_a_batch_that_a_spec_takes_is_met_by_its_walk_and_one_it_refuses_is_too_large(size, peak):
    n, epochs = made_spec().examples, 3.0
    places = dense(epochs, size.edges(epochs))
    highest = max(map(size, places))
    scaled = size.scaled(peak * n / highest)
    assume(scaled(0.0) >= 1)  # which no policy takes
    policy = Policy(0.1, scaled, 0.9)
    sizes = [policy(epoch).batch_size for epoch in places]
    make = functools.partial(dataclasses.replace, made_spec(epochs=epochs), policy=policy)
    if max(sizes) > n or min(sizes) < 1:
        with pytest.raises(ValueError, match="batch_size"):
            make()
    elif max(*sizes, policy(epochs).batch_size) < n:  # at N the height between the places may be just above
        assert sum(1 for _ in make().walk()) == make().plan().updates
