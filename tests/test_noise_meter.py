"""The noise meter against problems whose noise is known, and what it must leave alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made import EAGER, N, checkpoint_bits, finish, made_data, noise_spec, start, unclocked
from torch import nn
from torch.nn import functional
from torch.optim import SGD

from lrbs_core import models
from lrbs_core.data import Stream
from lrbs_core.journal import MEASURED, NOISE_SUMS
from lrbs_core.noise import gradient_noise
from lrbs_core.noise_meter import NoiseMeter, held_parts
from lrbs_core.planning import walk
from lrbs_core.policies import Policy
from lrbs_core.schedules import Piecewise

# Gradients of single examples are G + L z with z standard normal: |G|^2 and tr(L L^T) are known.
G = torch.tensor([0.6, -0.8, 0.0, 2.0], dtype=torch.float64)
L = torch.tensor([[3.0, 0, 0, 0], [1, 2, 0, 0], [0, 0, 0.5, 0], [1, 1, 1, 4]], dtype=torch.float64)
TRUTH = float(L.square().sum() / G.square().sum())  # (9 + 1 + 4 + 0.25 + 1 + 1 + 1 + 16) / 5 = 6.65


def measured(updates, draw, seed=0):
    """The meter's reading of a linear model, w x being its loss at example x; updates as (batch size, held parts).

    `draw(n, held, source)` gives n examples: those of the update, or those held to measure by.
    """
    source = torch.Generator().manual_seed(seed)
    weight = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    meter = NoiseMeter([weight])
    for size, parts in updates:
        weight.grad = draw(size, False, source).mean(0)
        for part in parts:
            meter.part((draw(part, True, source) @ weight).mean(), part)
        meter.end()
    return meter.reading()[0]


def normal(n, held, source):
    return G + torch.randn(n, 4, generator=source, dtype=torch.float64) @ L.T


@pytest.mark.parametrize(
    "updates",
    [
        [(64, [8])] * 300,
        [(8, [8])] * 1000,  # as many examples as in the batch: one ghost batch against another
        [(512, [8] * 8)] * 100,
        [(64, [20, 30, 14])] * 200,  # parts of different sizes
        [(size, [size // 4] * 2) for size in (8, 16, 32, 64) for _ in range(75)],  # while the batch grows
    ],
    ids=["64-8", "8-8", "512-8x8", "uneven", "growing"],
)
def test_the_known_noise_scale_lies_within_its_interval(updates):
    readings = [measured(updates, normal, seed) for seed in range(8)]
    # Of eight intervals of 95 % at most two miss the truth but once in 200 times.
    assert sum(reading.low <= TRUTH <= reading.high for reading in readings) >= 6
    assert abs(math.log(math.prod(reading.scale / TRUTH for reading in readings)) / 8) < 0.1
    assert all(reading.high - reading.low < TRUTH for reading in readings)


@pytest.mark.parametrize("augmented", [0.0, 0.8], ids=["none", "four fifths of the variance"])
def test_a_batch_that_is_half_of_a_small_set_tells_the_same_whatever_its_augmentation(augmented):
    data = normal(64, False, torch.Generator().manual_seed(1))
    spread = (data - data.mean(0)) * math.sqrt(1 - augmented)
    data, own = data.mean(0) + spread, math.sqrt(augmented) * float(spread.square().sum(1).mean().sqrt()) / 2
    own /= math.sqrt(1 - augmented)
    truth = float((spread.square().sum(1).mean() + 4 * own**2) / data.mean(0).square().sum())

    def draw(n, held, source):
        order = torch.randint(64, (n,), generator=source) if held else torch.randperm(64, generator=source)[:n]
        return data[order] + own * torch.randn(n, 4, generator=source, dtype=torch.float64)

    scale, low, high = measured([(32, [8])] * 4000, draw)
    assert low < truth < high < 1.15 * low
    assert scale == pytest.approx(truth, rel=0.08)


@pytest.mark.parametrize("updates", [[(64, [])] * 50, [(32, [8])] * 2, []])
def test_what_cannot_be_told_is_missing(updates):
    assert all(map(math.isnan, measured(updates, normal)))


def test_gradients_stay_and_a_reading_forgets_what_it_told():
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    model.bias.requires_grad_(False)
    meter = NoiseMeter(model.parameters())
    for _ in range(4):
        batch = torch.randn(32, 4) + 1
        model.zero_grad()
        model(batch).mean().backward()
        meter.part(model(torch.randn(8, 4) + 1).mean(), 8)
        meter.end()
        torch.testing.assert_close(model.weight.grad[0], batch.mean(0))
    reading, sums = meter.reading()
    assert reading.high > 0
    assert sums[0] == 4
    reading, sums = meter.reading()
    assert math.isnan(reading.low)
    assert sums == [0.0] * 6


def test_a_parameter_that_is_not_used_is_left_out():
    used, unused = nn.Linear(2, 1), nn.Linear(2, 1)
    meter = NoiseMeter([*used.parameters(), *unused.parameters()])
    used(torch.ones(4, 2)).mean().backward()
    meter.part(used(torch.full((4, 2), 3.0)).mean(), 4)
    meter.end()
    assert unused.weight.grad is None
    # g = (1, 1, 1) and h = (3, 3, 1): y = 7, x = (19 - 7) 4.
    assert meter.reading()[1] == [1, 48, 7, 48**2, 48 * 7, 49]


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=30),
    st.integers(1, 40),
    st.integers(1, 100),
)
def test_held_parts_follow_one_another_and_cost_an_eighth(sizes, unit, limit):
    start = at = 0
    for size in sizes:
        parts = held_parts(start, size, limit, unit)
        start += size
        for first, examples in parts:
            assert first == at
            assert examples % unit == 0
            assert examples <= max(limit, unit)
            at += examples
        assert len(parts) <= max(8, -(-sum(part for _, part in parts) // max(unit, limit // unit * unit)))
        assert start / 8 - unit < at <= start / 8


MEASURING = replace(EAGER, measure_noise=True)


def spec_at_rest(epochs, **changes):
    """A run at lr 0, whose weights stay as they are first drawn, and one row of it."""
    fields = {"batch_size": 20, "augmentation": "none"} | changes
    return noise_spec(0.0, epochs=epochs, evaluate_every_epochs=epochs, **fields)


def true_noise(spec, positions):
    """B_simple of the loss of single examples of the stream, at the weights as drawn, by the gradient of each."""
    torch.manual_seed(spec.seed)
    data = made_data()
    model = models.build("mlp", data.classes, data.channels, data.image_size, None)
    images, labels = Stream(data, spec.seed, spec.augmentation, spec.normalization).batch(0, positions)

    def loss(parameters, image, label):
        return functional.cross_entropy(torch.func.functional_call(model, parameters, image[None]), label[None])

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(dict(model.named_parameters()), images, labels)
    gradients = torch.cat([part.detach().flatten(1) for part in each.values()], dim=1).double()
    trace = gradients.var(0, correction=0).sum()
    # Of augmented examples, which go on for ever, these are some: the square of their mean has a part of its variance.
    rest = 0 if spec.augmentation == "none" else trace / (positions - 1)
    return float(trace / (gradients.mean(0).square().sum() - rest))


@pytest.mark.parametrize(
    ("augmentation", "batch_size"), [("none", 20), ("none", N // 2), ("flip_crop", 20), ("flip_crop", N // 2)]
)
def test_training_tells_the_noise_of_the_gradients_of_single_examples(augmentation, batch_size):
    covered, sums, truths = 0, 0, []
    for seed in range(8):
        spec = spec_at_rest(100, augmentation=augmentation, batch_size=batch_size, seed=seed)
        rows, _ = finish(start(spec, machine=MEASURING))
        truth = true_noise(spec, N if augmentation == "none" else 50 * N)
        _, low, high = (rows[-1][name] for name in MEASURED)
        covered += low < truth and not high < truth
        truths.append(truth)
        sums += np.array([rows[-1][name] for name in NOISE_SUMS])
    assert covered >= 6
    pooled = gradient_noise(sums)
    assert pooled.low < np.median(truths) < pooled.high < 3 * pooled.low


@pytest.mark.parametrize(
    "changes", [{"model": "convnet", "ghost_size": 8}, {"model": "resnet8_stochastic", "ghost_size": 8}]
)
def test_measuring_changes_not_a_bit(tmp_path, changes):
    spec = noise_spec(0.05, Piecewise((16, 40), at=(1,)), evaluate_every_epochs=0.5, **changes)
    plain, _ = finish(start(spec, tmp_path / "plain.pt", machine=EAGER))
    measured, _ = finish(start(spec, tmp_path / "measured.pt", machine=MEASURING))
    told = [[row.pop(name) for name in (*MEASURED, *NOISE_SUMS)] for row in measured]
    assert unclocked(measured) == unclocked(plain)
    assert sum(row[3] for row in told) > 0
    names = ("model", "optimizer", "tally")
    bits = [checkpoint_bits(tmp_path / name) for name in ("plain.pt", "measured.pt")]
    assert all(bits[0][name] == bits[1][name] for name in names)


def test_a_batch_of_one_ghost_batch_is_measured_for_an_eighth_more_examples(monkeypatch):
    spec = noise_spec(0.05, 8, model="convnet", ghost_size=8, epochs=4.0)
    drawn, taken = [], Stream.batch

    def counted(self, place, size):
        drawn.extend([size] if self.held else [])
        return taken(self, place, size)

    monkeypatch.setattr(Stream, "batch", counted)
    rows, _ = finish(start(spec, machine=MEASURING))
    assert sum(drawn) == sum(8 * row["noise_n"] for row in rows) == 8 * (4 * N // 64)
    assert len(list(walk(Policy(0.05, 8, 0.9), N, 4, "keep"))) > 8 * sum(row["noise_n"] for row in rows)


def test_a_run_that_was_stopped_goes_on_to_the_same_reading(tmp_path):
    spec = spec_at_rest(20)
    unbroken, _ = finish(start(spec, machine=MEASURING))
    steps, broken = [SGD.step] * 51, start(spec, tmp_path / "checkpoint.pt", machine=MEASURING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SGD, "step", lambda self: steps.pop()(self))
        with pytest.raises(IndexError):
            next(broken)
    again, _ = finish(start(spec, tmp_path / "checkpoint.pt", machine=MEASURING))
    names = (*MEASURED, *NOISE_SUMS)
    assert [again[-1][name] for name in names] == [unbroken[-1][name] for name in names]
    assert unbroken[-1]["noise_n"] > 3
