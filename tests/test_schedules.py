"""Schedules: whole curves against torch and the papers' formulas, and what holds of every kind."""

import inspect
import itertools
import json
import math
import pickle
import pkgutil

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler as theirs

from lrbs_core import schedules as s

every_kind = pytest.mark.parametrize("kind", s.KINDS.values(), ids=list(s.KINDS))


@pytest.mark.parametrize(
    ("schedule", "scheduler", "options"),
    [
        (s.Steps(0.1, at=(2, 5), factor=0.2), theirs.MultiStepLR, {"milestones": [20, 50], "gamma": 0.2}),
        (s.Linear(0.02, 0.1, 3), theirs.LinearLR, {"start_factor": 0.2, "total_iters": 30}),
        (s.Linear(0.1, 0.03, 3), theirs.LinearLR, {"start_factor": 1, "end_factor": 0.3, "total_iters": 30}),
        (s.Exponential(0.1, gamma=0.9**10), theirs.ExponentialLR, {"gamma": 0.9}),
        (s.Cosine(0.1, 0.001, 9), theirs.CosineAnnealingLR, {"T_max": 90, "eta_min": 0.001}),
        (s.Polynomial(0.1, 0, 7, power=2), theirs.PolynomialLR, {"total_iters": 70, "power": 2}),
        (s.Triangular(0.01, 0.1, 2), theirs.CyclicLR, {"mode": "triangular"}),
        (s.Triangular2(0.01, 0.1, 2), theirs.CyclicLR, {"mode": "triangular2"}),
        (s.ExpRange(0.01, 0.1, 2, 0.99**10, "amplitude"), theirs.CyclicLR, {"mode": "exp_range", "gamma": 0.99}),
    ],
    ids=repr,
)
def test_the_curve_is_that_of_torch_at_every_update(schedule, scheduler, options):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    if scheduler is theirs.CyclicLR:
        options = options | {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 20, "cycle_momentum": False}
    expected, following = [], scheduler(optimizer, **options)
    for _ in range(91):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        following.step()
    assert [schedule(update / 10) for update in range(91)] == pytest.approx(expected, rel=1e-9, abs=1e-12)


# L. N. Smith's CIFAR-10: a stepsize of 2000 updates, 500 updates an epoch; by the text both bounds decline by gamma^it.
@pytest.mark.parametrize(
    ("schedule", "formula"),
    [
        (s.Triangular(0.001, 0.006, 4), "low + (high - low) * max(0, 1 - x)"),
        (s.Triangular2(0.001, 0.006, 4), "low + (high - low) * max(0, 1 - x) / 2 ** (cycle - 1)"),
        (s.Welch(0.001, 0.006, 4), "low + (high - low) * (1 - x**2)"),
        (s.Hann(0.001, 0.006, 4), "low + (high - low) * (1 + cos(pi * x)) / 2"),
        (s.ExpRange(0.001, 0.006, 4, 0.99994**500, "both"), "(low + (high - low) * max(0, 1 - x)) * 0.99994**it"),
        (s.ExpRange(0.001, 0.006, 4, 0.99994**500, "amplitude"), "low + (high - low) * max(0, 1 - x) * 0.99994**it"),
    ],
    ids=repr,
)
def test_a_cyclical_rate_is_the_paper_s_formula_at_every_update(schedule, formula):
    for it in range(0, 42_000, 125):
        cycle = math.floor(1 + it / (2 * 2000))
        x = abs(it / 2000 - 2 * cycle + 1)
        names = {"max": max, "low": 0.001, "high": 0.006, "x": x, "cycle": cycle, "it": it}
        assert schedule(it / 500) == pytest.approx(eval(formula, vars(math) | names), rel=1e-9)


def test_warmup_linear_is_the_summary_s_formula_jump_and_all():
    for epoch in (tenth / 10 for tenth in range(900)):
        expected = 0.1 / 5 * (epoch / 5) if epoch < 5 else 0.1 * (1 - epoch / 90)
        assert s.warmup_linear(0.1, 90)(epoch) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_warmup_polynomial_goes_up_to_the_stated_rate_and_then_is_lars_formula():
    # You et al., Table 4, 32k: lr 40, warm-up 12, lr_0 (1 - t/T)^2, as an update of their code has it.
    schedule = s.warmup_polynomial(40, warmup=12, epochs=90, power=2)
    for epoch in (tenth / 10 for tenth in range(900)):
        expected = 40 * epoch / 12 if epoch < 12 else 40 * (1 - epoch / 90) ** 2
        assert schedule(epoch) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert s.extreme(schedule, 90, highest=True) == pytest.approx(40, rel=1e-12)
    assert s.extreme(s.Warmup(0, 12, s.Polynomial(40, 0, 90, 2)), 90, highest=True) == pytest.approx(30.04, abs=5e-3)
    assert s.warmup_polynomial(4, warmup=0, epochs=90, power=2) == s.Polynomial(4, 0, 90, 2)


STEPS = s.Steps(8, at=(2, 4), factor=0.5)
STAGES = s.Stages(((0.9, 1), (5, s.Steps(4, at=(0.3,), factor=0.5)), (1, s.Linear(0, 1, 1))))
DIPS = s.Piecewise((4, 8, 2, 4), at=(1, 2, 3))


@pytest.mark.parametrize(
    ("schedule", "epoch", "before", "at"),
    [
        (STEPS, 2, 8, 4),
        (STEPS, 4, 4, 2),
        (s.Piecewise((1, 7, 3), at=(2, 4)), 4, 7, 3),
        (s.Cosine(1, 3, 4), 9, 3, 3),
        (s.Warmup(1, 2, then=STEPS), 0, 1, 1),
        (s.Warmup(1, 2, then=STEPS), 2, 4, 4),  # it reaches what holds at its end, the step there included
        (s.Warmup(1, 3, then=STEPS), 4, 4, 2),  # breakpoints count from epoch 0
        (STAGES, 0.9, 1, 4),
        (STAGES, 1.2, 4, 2),  # in floats 1.2 - 0.9 < 0.3
        (s.Stages(((0.3, 1), (9, s.Steps(4, (4.1,), 0.5)))), 4.4, 4, 2),  # the last float before 4.4 less 0.3 is 4.1
        (STAGES, 5.9, 2, 0),
        (STAGES, 99, 1, 1),
        (s.warmup_linear(0.1, 90), 5, 0.02, 0.1 * (1 - 5 / 90)),
        (s.Growth(STEPS, 10), 2, 1, 2),
        (s.Growth(STEPS, s.Piecewise((10, 20), at=(3,)), until=2.5, max_batch_size=30), 3, 2, 1.5),
        (s.Growth(STEPS, s.Piecewise((10, 5), at=(3,)), until=2.5, max_batch_size=15), 3, 1.5, 1.5),
        (s.Growth(s.Linear(0, 1, 4), 10), 0, 1, 1),  # an lr that starts at 0 is at its highest so far
        (s.Growth(s.Linear(1, 0, 4), 10, max_batch_size=40), 4, 4, 4),
        (s.Shrinkage(DIPS), 1, 1, 0.5),
        (s.Shrinkage(DIPS), 2, 0.5, 1),
        (s.Shrinkage(DIPS), 3, 1, 0.5),
    ],
    ids=repr,
)
def test_both_sides_of_a_boundary(schedule, epoch, before, at):
    assert (schedule(math.nextafter(epoch, 0)), schedule(epoch)) == pytest.approx((before, at), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("schedule", "edges"),
    [
        (STEPS, (2, 4)),
        (s.Growth(STEPS, 10, until=7), (2, 4, 7)),
        (s.Triangular(1, 3, 3.5), (3.5, 7)),
        (s.Stages(((6.4, 1), (1, s.Triangular(1, 3, 0.2)))), (6.4, 6.6, 6.8, 7)),  # in floats 3 * 0.2 > 0.6
        (s.Warmup(1, 3, then=STEPS), (3, 4)),
        (STAGES, (0.9, 1.2, 5.9, 6.9)),
        (s.Growth(STEPS, s.Piecewise((1, 2), at=(5,)), until=3), (2, 3)),
        (s.Growth(STEPS, s.Piecewise((1, 2), at=(5,)), until=3, max_batch_size=9), (2, 3, 5)),
        # Rising by 1/4 an epoch while fading: d/de gamma^e (1 + e/4) = 0 at -1/ln gamma - 4, of the amplitude at -1/ln.
        (s.ExpRange(1, 2, 4, math.exp(-0.2), "both"), (1, 4)),
        (s.ExpRange(1, 2, 4, math.exp(-0.5), "amplitude"), (2, 4)),
    ],
    ids=repr,
)
def test_edges_of_known_curves(schedule, edges):
    assert schedule.edges(7) == pytest.approx(edges, rel=1e-12)


@pytest.mark.parametrize("stepsize", [0.1, 0.2, 0.3, 0.7, 1.1])
@pytest.mark.parametrize(
    "kind",
    [s.Triangular, s.Triangular2, s.Welch, s.Hann, lambda *bounds: s.ExpRange(*bounds, 0.99, "amplitude")],
    ids=["Triangular", "Triangular2", "Welch", "Hann", "ExpRange"],
)
def test_a_cycle_has_its_edges_where_one_would_write_them(kind, stepsize):
    for count in range(1, 60):
        end = round(count * stepsize, 1)
        assert set(kind(1, 2, stepsize).edges(end)) >= {round(k * stepsize, 1) for k in range(1, count + 1)}
        late = s.Stages(((0.4, 1), (1, kind(1, 2, stepsize))))
        assert late.edges(round(0.4 + end, 1))[-1] == round(0.4 + end, 1)


growths = st.from_type(s.Growth)
twins = growths.map(lambda g: s.Product(g.lr, g)) | growths.map(lambda g: s.Product(g.batch_size, g))


@pytest.mark.parametrize("made", [*map(st.from_type, s.KINDS.values()), twins], ids=[*s.KINDS, "twins"])
@settings(max_examples=60)
@given(data=st.data(), end=st.floats(0.5, 12))
def test_between_its_edges_a_curve_goes_one_way_and_a_flat_one_stays(made, data, end):
    schedule = data.draw(made)
    edges = schedule.edges(end)
    assert list(edges) == sorted(set(edges))
    assert all(0 < edge <= end for edge in edges)
    for start, stop in itertools.pairwise((0.0, *edges, end)):
        epochs = [start + (stop - start) * part / 12 for part in range(12)] + [math.nextafter(stop, 0)]
        values = [schedule(epoch) for epoch in epochs if start <= epoch < stop]
        rises = [b - a for a, b in itertools.pairwise(values)]
        noise = 1e-9 * max(map(abs, values), default=0)
        assert not schedule.flat or set(rises) <= {0.0}
        assert min(rises, default=0) >= -noise or max(rises, default=0) <= noise


@given(schedule=st.from_type(s.Schedule), epochs=st.lists(st.floats(0, 12), min_size=2))
def test_no_value_so_far_lies_beyond_the_extremes(schedule, epochs):
    values = [schedule(epoch) for epoch in epochs]
    assert s.extreme(schedule, max(epochs), highest=False) <= min(values) * (1 + 1e-9)
    assert s.extreme(schedule, max(epochs), highest=True) >= max(values) * (1 - 1e-9)


def test_an_extreme_may_lie_left_of_a_jump_or_between_edges():
    jump = s.Stages(((5, s.Linear(1, 3, 5)), (5, 2)))
    assert (s.extreme(jump, 7, highest=False), s.extreme(jump, 7, highest=True)) == (1, pytest.approx(3, rel=1e-9))
    assert s.extreme(s.Triangular(1, 3, 4), 3, highest=True) == 2.5


@every_kind
@given(data=st.data(), epoch=st.floats(0, 12), factor=st.floats(0.1, 10))
def test_scaled_multiplies_values_and_stretched_moves_them(kind, data, epoch, factor):
    schedule = data.draw(st.from_type(kind))
    assert schedule.scaled(factor)(epoch) == pytest.approx(factor * schedule(epoch), rel=1e-9)
    assume(all(abs(epoch - edge) > 1e-9 for edge in schedule.edges(13)))  # at a jump rounding would pick the side
    assert schedule.stretched(factor)(epoch * factor) == pytest.approx(schedule(epoch), rel=1e-6)


@every_kind
@given(data=st.data())
def test_a_schedule_survives_json_pickle_and_repr(kind, data):
    schedule = data.draw(st.from_type(kind))
    text = json.dumps(schedule.to_dict(), allow_nan=False)
    copies = s.schedule_from_dict(json.loads(text)), pickle.loads(pickle.dumps(schedule)), eval(repr(schedule), vars(s))
    assert {(copy, hash(copy), type(copy)) for copy in copies} == {(schedule, hash(schedule), kind)}


@given(schedule=st.from_type(s.Stages).filter(lambda stages: stages.flat), epoch=st.floats(0, 20))
def test_a_flat_schedule_is_its_table(schedule, epoch):
    table = s.concrete(schedule)
    assert isinstance(table, s.Piecewise | s.Constant)
    assert table(epoch) == pytest.approx(schedule(epoch), rel=1e-9)
    assert all(a != b for a, b in itertools.pairwise(getattr(table, "values", ())))


def test_a_curve_has_no_table():
    curve = s.Linear(1, 2, 3)
    for schedule in (curve, s.Product(2, curve), s.Stages(((1, 1), (1, curve))), s.Growth(2, curve, max_batch_size=2)):
        assert s.concrete(schedule) is schedule
    assert s.concrete(s.Growth(STEPS, curve)) == s.Piecewise((1, 2, 4), at=(2, 4))  # without a maximum B plays no part


def test_whole_numbers_and_lists_make_the_same_value():
    assert s.Piecewise([1, 2], at=[3]) == s.Piecewise((1.0, 2.0), at=(3.0,))
    assert repr(s.Stages([[1, 2]])) == "Stages(parts=((1.0, Constant(value=2.0)),))"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Constant('fast')", "value a finite number must hold, but got value='fast'"),
        ("Constant([1, 2])", "value a finite number .* got value=.1.0, 2.0."),
        ("Linear(0, float('nan'), 1)", "end a finite number .* got end=nan"),
        ("Linear(True, 0, 1)", "start a finite number .* got start=True"),
        ("Linear(0, 1, 0)", "epochs > 0 .* got epochs=0.0"),
        ("Exponential(1, 0)", "0 < gamma <= 1 .* got gamma=0.0"),
        ("Exponential(1, 1.01)", "got gamma=1.01"),
        ("Piecewise((1, 2), (1, 2))", "one value more than breakpoints .* at=.1.0, 2.0."),
        ("Piecewise((1, 2, 3), (2, 2))", "ascending breakpoints .* at=.2.0, 2.0."),
        ("Steps(1, (2, 1), 0.5)", "ascending breakpoints .* at=.2.0, 1.0."),
        ("Steps(1, (0, 1), 0.5)", "at > 0 .* got at=.0.0, 1.0."),
        ("Steps(1, 60, 0.5)", "at a tuple of numbers .* got at=60.0"),
        ("Steps(1, (60,), 0)", "factor > 0 .* got factor=0.0"),
        ("Steps(1, (60,), 'x')", "factor a finite number .* got factor='x'"),
        ("Polynomial(1, 0, 5, 0)", "power > 0 .* got power=0.0"),
        ("Triangular(2, 1, 3)", "low <= high .* got low=2.0, high=1.0"),
        ("ExpRange(2, 1, 3, 1, 'both')", "low <= high"),
        ("ExpRange(1, 2, 3, 1, 'half')", "shrink 'both' or 'amplitude' .* got shrink='half'"),
        ("Stages(())", "at least one stage"),
        ("Stages(((0, 1),))", "epochs > 0, schedule.* got stage=.0.0, 1.0."),
        ("Stages(((float('inf'), 1), (1, 1)))", "epochs > 0, schedule.* got stage=.inf, 1.0."),
        ("Stages((1, 2))", "epochs > 0, schedule.* got stage=1.0"),
        ("warmup_linear(0.1, 5)", "epochs > 5 must hold, but got epochs=5"),
        ("warmup_polynomial(0.1, 90, 90, 2)", "0 <= warmup < epochs must hold, but got warmup=90, epochs=90"),
        ("Odds(10, 10)(0)", "batch_size < 10 .* must hold where a trade is exact, but got batch_size=10 at epoch 0"),
        ("FromOdds(1, 0)", "examples > 0 must hold, but got examples=0.0"),
        ("Growth(1, 1, until=0)", "until > 0 .* got until=0.0"),
        ("Growth(1, 1, max_batch_size='x')", "max_batch_size > 0 .* got max_batch_size='x'"),
        ("Growth(Linear(1, 0, 4), 10)(4)", "lr > 0 .* got lr=0 at epoch 4: give max_batch_size"),
        ("schedule_from_dict({'schedule': 'Sine'})", "schedule must be one of Constant, .* got 'Sine'"),
        ("schedule_from_dict({'value': 1})", "schedule must be one of .* got None"),
        ("schedule_from_dict({'schedule': 'Constant'})", "must have the fields value, but got none"),
        ("schedule_from_dict({'schedule': 'Constant', 'value': 1, 'per': 2})", "fields value, but got value, per"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_the_rule_and_the_value(text, message):
    with pytest.raises(ValueError, match=message):
        eval(text, vars(s))


def test_every_schedule_of_the_package_is_in_the_table():
    for module in pkgutil.iter_modules(s.__path__, "lrbs_core.schedules."):
        __import__(module.name)
    waiting, found = [s.Schedule], set()
    while waiting:
        waiting += (kind := waiting.pop()).__subclasses__()
        found |= set() if inspect.isabstract(kind) else {kind}
    assert {kind.__name__: kind for kind in found if kind.__module__.startswith("lrbs_core.")} == s.KINDS
