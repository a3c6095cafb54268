"""Plans: the papers' update counts, and that the plan is the walk and the walk is the policy."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrbs_core.noise import noise_scale
from lrbs_core.planning import Phase, make_plan, micro_batches, rate_an_epoch, to_epochs, walk
from lrbs_core.policies import Policy
from lrbs_core.schedules import (
    Constant,
    Cosine,
    Linear,
    Piecewise,
    Polynomial,
    Schedule,
    Stages,
    Steps,
    Triangular,
    Warmup,
    extreme,
)

BASELINE = Policy(lr=Steps(0.1, at=(60, 120, 160), factor=1 / 5), batch_size=128, momentum=0.9)
LADDER = {  # Smith et al. 2018, sections 5.1 and 5.2
    "original": BASELINE,
    "increasing batch": BASELINE.grow_batch(),
    "increased initial lr": BASELINE.scale(5).grow_batch(max_batch_size=5120),
    "increased momentum": BASELINE.scale(5).raise_momentum(0.98).grow_batch(max_batch_size=5120),
}


@pytest.mark.parametrize(
    ("partial", "epochs", "updates"),
    [
        # The paper says 'about 80000', 'about 29000', 'below 6500', 'below 2500'.
        ("carry", 204.8, (80_000, 28_891, 6454, 2352)),
        ("keep", 200, (78_200, 29_000, 6500, 2360)),
        ("drop", 200, (78_000, 28_800, 6300, 2160)),
    ],
)
def test_updates_of_the_cifar_ladder(partial, epochs, updates):
    plans = [make_plan(policy, 50_000, epochs, partial) for policy in LADDER.values()]
    assert tuple(plan.updates for plan in plans) == updates
    assert [plan.peak_batch_size for plan in plans] == [128, 16_000, 5120, 5120]
    lost = {"carry": 0, "keep": 0, "drop": 50_000 % 128 * 200}
    assert plans[0].examples == round(50_000 * epochs) - lost[partial]


IMAGENET = Policy(lr=Steps(3, at=(30, 60, 80), factor=0.1), batch_size=8192, momentum=0.9)


@pytest.mark.parametrize(
    ("policy", "updates", "above", "below"),
    [  # section 5.3: 'just over 14000', 'below 6000', 'just below 6000', 'below 3500', 'below 2500'
        (IMAGENET, 90 * 156, 14_000, 14_100),
        (IMAGENET.grow_batch(until=60), 30 * 156 + 60 * 15, 0, 6000),
        (IMAGENET.grow_batch(65536), 30 * 156 + 60 * 19, 5800, 6000),
        (IMAGENET.raise_momentum(0.95).grow_batch(65536), 30 * 78 + 60 * 19, 0, 3500),
        (IMAGENET.raise_momentum(0.975).grow_batch(65536), 30 * 39 + 60 * 19, 0, 2500),
    ],
)
def test_updates_of_the_imagenet_runs(policy, updates, above, below):
    assert make_plan(policy, 1_281_167, 90, "drop").updates == updates
    assert above < updates < below


def test_the_phases_of_a_plan_by_hand():
    policy = Policy(Steps(0.4, at=(1, 1.5), factor=0.5), Piecewise((10, 25), at=(1,)), 0.5)
    assert make_plan(policy, examples=100, epochs=2, partial="keep").phases == (
        Phase(0.0, 1.0, 0.4, 10, 0.5, 0.4 * 9 / 0.5, 10),
        Phase(1.0, 1.5, 0.2, 25, 0.5, 0.2 * 3 / 0.5, 2),
        Phase(1.5, 2.0, 0.1, 25, 0.5, 0.1 * 3 / 0.5, 2),
    )


def test_a_batch_that_straddles_an_edge_belongs_to_where_it_starts():
    policy = Policy(Steps(0.4, at=(0.5,), factor=0.5), 40, 0)
    assert [phase.updates for phase in make_plan(policy, 100, 1, "keep").phases] == [2, 1]
    assert [update.setting.lr for update in walk(policy, 100, 1, "keep")] == [0.4, 0.4, 0.2]


def test_an_edge_at_the_end_opens_no_phase():
    assert len(make_plan(Policy(Steps(1, at=(1, 2), factor=0.5), 10, 0), 100, 2, "keep").phases) == 2


tenths = st.integers(1, 40).map(lambda n: n / 10)
tables = st.sampled_from([0.05, 0.1, 0.25, 0.3]).map(Constant) | st.from_type(Piecewise)
stages = st.lists(st.tuples(tenths, tables), min_size=1, max_size=4).map(Stages)
curves = st.one_of(
    *map(st.from_type, (Linear, Cosine, Polynomial, Triangular)), st.builds(Warmup, tenths, tenths, stages)
)


@st.composite
def runs(draw):
    """Any lr, any momentum below 1, batches of 1 % to all of N; many breakpoints fall on the start of an update."""
    examples = draw(st.sampled_from([100, 137, 1000]))
    batch_size = draw(tables | stages | curves.filter(lambda curve: extreme(curve, 4, highest=True) <= 1))
    policy = Policy(draw(st.from_type(Schedule)), batch_size.scaled(examples), draw(tables | curves).scaled(0.2))
    return policy, examples, draw(tenths | st.floats(0.01, 4))


@given(run=runs(), partial=st.sampled_from(["keep", "carry", "drop"]))
def test_the_walk_follows_the_policy_and_the_plan_counts_the_walk(run, partial):
    policy, examples, epochs = run
    updates = list(walk(*run, partial))
    assert [update.number for update in updates] == list(range(len(updates)))
    for update in updates:
        assert update.epoch == update.start / examples
        assert update.setting == policy(update.epoch)
    plan = make_plan(*run, partial)
    assert plan.updates == len(updates) == sum(phase.updates for phase in plan.phases)
    assert plan.examples == sum(update.size for update in updates)
    assert plan.peak_batch_size == max((update.setting.batch_size for update in updates), default=0)
    starts = [phase.epoch_start for phase in plan.phases]
    assert starts == [0, *(edge for edge in policy.edges(epochs) if edge < epochs)]
    assert [phase.epoch_end for phase in plan.phases] == [*starts[1:], epochs]
    for phase in plan.phases:
        inside = [update for update in updates if phase.epoch_start <= update.epoch < phase.epoch_end]
        assert phase.updates == len(inside)
        setting = policy(phase.epoch_start)
        assert (phase.lr, phase.batch_size, phase.momentum) == setting
        assert phase.noise_scale == noise_scale(*setting, examples)
        assert all(update.setting == setting for update in inside if update.epoch == phase.epoch_start)


@given(run=runs(), partial=st.sampled_from(["keep", "carry"]))
def test_keep_and_carry_cover_every_example_once(run, partial):
    _, examples, epochs = run
    updates = list(walk(*run, partial))
    total = round(examples * epochs)
    assert [update.start for update in updates] == [0, *itertools.accumulate(u.size for u in updates)][:-1]
    assert sum(update.size for update in updates) == total
    for update in updates:
        left = examples - update.start % examples if partial == "keep" else total
        assert update.size == min(update.setting.batch_size, left, total - update.start)


@given(run=runs())
def test_drop_leaves_out_only_what_does_not_fill_a_batch_at_the_end_of_an_epoch(run):
    policy, examples, epochs = run
    updates = list(walk(*run, "drop"))
    assert all(update.size == update.setting.batch_size for update in updates)
    at = 0
    for start in [*(update.start for update in updates), round(examples * epochs)]:
        while at < start:  # skipped: the rest of an epoch, or of the last part of one
            end_of_epoch = min(start, at - at % examples + examples)
            assert end_of_epoch % examples == 0 or end_of_epoch == round(examples * epochs)
            assert end_of_epoch - at < policy(at / examples).batch_size
            at = end_of_epoch
        assert at == start
        at += next((update.size for update in updates if update.start == start), 0)


def test_a_step_of_a_late_stage_falls_on_its_update():
    policy = Policy(Stages(((0.9, 1), (5, Steps(1, at=(0.3,), factor=0.5)))), 100, 0)  # in floats 1.2 - 0.9 < 0.3
    assert [update.number for update in walk(policy, 1000, 2, "keep") if update.setting.lr == 0.5] == list(
        range(12, 20)
    )


@pytest.mark.parametrize(
    ("policy", "options", "message"),
    [
        (Policy(0.1, 101, 0), {}, "1 <= batch_size <= 100 .* batch_size=101 at epoch 0"),
        (Policy(0.1, Piecewise((10, 101), at=(1,)), 0), {}, "batch_size=101 at epoch 1"),
        (Policy(0.1, Piecewise((10, 0.4), at=(1,)), 0), {}, "batch_size=0 at epoch 1"),
        (Policy(Linear(1, -1, 2), 10, 0), {}, "lr >= 0 must hold at every update, but got lr=-"),
        (Policy(Piecewise((1, -1), at=(1,)), 10, 0), {}, "lr >= 0 .* got lr=-1 at epoch 1"),
        (Policy(0.1, 10, Piecewise((0, 1), at=(1,))), {}, "0 <= momentum < 1 .* got 1 at epoch 1"),
        (Policy(0.1, 10, Linear(0.5, 1.5, 2)), {}, "0 <= momentum < 1 must hold at every update, but got 1"),
        (Policy(0.1, 10, 0), {"partial": "pad"}, "partial must be one of keep, drop, carry, but got 'pad'"),
        (Policy(0.1, 10, 0), {"epochs": 0}, "epochs > 0 must hold, but got examples=100, epochs=0"),
        (Policy(0.1, 10, 0), {"examples": 0}, "examples >= 1 and .* examples=0"),
    ],
)
@pytest.mark.parametrize("count", [make_plan, lambda *run: list(walk(*run))], ids=["make_plan", "walk"])
def test_plan_and_walk_refuse_the_same(count, policy, options, message):
    with pytest.raises(ValueError, match=message):
        count(policy, *({"examples": 100, "epochs": 2, "partial": "keep"} | options).values())


def test_the_smallest_set_is_planned_and_what_is_out_of_range_after_the_end_is_no_matter():
    policy = Policy(*(Piecewise((1, value), at=(0.5,)) for value in (-1, 101)), Piecewise((0, 1), at=(0.5,)))
    assert make_plan(policy, 100, 0.5, "keep").updates == len(list(walk(policy, 100, 0.5, "keep"))) == 50
    assert make_plan(Policy(0.1, 1, 0), 1, 1, "keep").updates == 1


def ghost_batches(parts, ghost_size):
    """Of each part whole ghost batches, the last of them taking the remainder."""
    for part in parts:
        whole = max(1, part // ghost_size)
        yield from [ghost_size] * (whole - 1) + [part - ghost_size * (whole - 1)]


@given(st.integers(1, 2000), st.none() | st.integers(2, 130), st.lists(st.integers(0, 700), min_size=2))
def test_micro_batches_hold_every_example_and_the_same_ghost_batches(size, ghost_size, limits):
    unit = ghost_size or 1
    seen = set()
    for limit in (unit + limit for limit in limits):
        parts = micro_batches(size, limit, ghost_size)
        assert sum(parts) == size
        assert all(part % unit == 0 for part in parts[:-1])
        assert all(0 < part <= limit for part in parts[:-1])
        assert parts[-1] - parts[-1] % unit <= limit
        assert len(parts) == max(1, -(-(size // unit) // (limit // unit)))  # as few as the limit allows
        assert max(parts[:-1], default=0) - min(parts) <= unit
        seen.add(tuple(ghost_batches(parts, unit)))
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("limit", "ghost_size", "message"),
    [
        (0, None, "micro_batch >= 1 must hold, but got micro_batch=0, ghost_size=None"),
        (127, 128, "micro_batch >= ghost_size must hold, but got micro_batch=127, ghost_size=128"),
    ],
)
def test_a_micro_batch_below_one_ghost_batch_is_refused(limit, ghost_size, message):
    with pytest.raises(ValueError, match=message):
        micro_batches(1000, limit, ghost_size)


def test_updates_as_papers_give_them_are_epochs():
    # L. N. Smith's CIFAR-10 stepsize and lengths at B 100; Smith et al.'s 80000 updates at B 128.
    for updates, batch_size, expected in ((2000, 100, 4), (70_000, 100, 140), (25_000, 100, 50), (80_000, 128, 204.8)):
        assert to_epochs(updates, batch_size, 50_000) == expected


def test_a_rate_an_update_is_one_an_epoch():
    # 0.99994 an update fades to .0804 over 42000 of them, 84 epochs.
    assert rate_an_epoch(0.99994, 100, 50_000) ** 84 == pytest.approx(0.99994**42_000, rel=1e-9)
    assert rate_an_epoch(0.99994, 100, 50_000) ** 84 == pytest.approx(0.0804, abs=5e-4)
