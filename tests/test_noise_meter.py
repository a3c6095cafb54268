"""The noise meter against problems whose noise is known, and against autograd's own sums."""

import math
from dataclasses import replace

import pytest
import torch
from made import EAGER, N, checkpoint_bits, finish, made_data, noise_spec, start, unclocked
from torch import nn
from torch.nn import functional
from torch.optim import SGD

from lrbs_core import models
from lrbs_core.data import Stream
from lrbs_core.journal import MEASURED
from lrbs_core.noise_meter import NoiseMeter
from lrbs_core.schedules import Piecewise

# Gradients of single examples are G + L z with z standard normal: |G|^2 and tr(L L^T) are known.
G = torch.tensor([0.6, -0.8, 0.0, 2.0], dtype=torch.float64)
L = torch.tensor([[3.0, 0, 0, 0], [1, 2, 0, 0], [0, 0, 0.5, 0], [1, 1, 1, 4]], dtype=torch.float64)
TRUTH = float(L.square().sum() / G.square().sum())  # (9 + 1 + 4 + 0.25 + 1 + 1 + 1 + 16) / 5 = 6.65


def measured(parts_of_updates, examples=math.inf, data=None, seed=0):
    """The meter's reading of a linear model's gradients, w x being its loss at example x."""
    source = torch.Generator().manual_seed(seed)
    weight = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    meter = NoiseMeter([weight], examples)
    for parts in parts_of_updates:
        size = sum(parts)
        if data is None:
            batch = G + torch.randn(size, 4, generator=source, dtype=torch.float64) @ L.T
        else:
            batch = data[torch.randperm(len(data), generator=source)[:size]]
        for part in batch.split(parts):
            weight.grad = part.sum(0) / size  # of (part @ weight).sum() / size
            meter.part(len(part) / size)
        meter.end(size)
    return meter.reading()


@pytest.mark.parametrize(
    "parts_of_updates",
    [
        [[8] * 8] * 300,
        [[32] * 2] * 300,
        [[1] * 16] * 300,
        [[20, 30, 14]] * 300,  # parts of different sizes
        [[size] * 8 for size in (4, 8, 16, 32) for _ in range(75)],  # while the batch grows
    ],
    ids=["8x8", "2x32", "16x1", "uneven", "growing"],
)
def test_the_known_noise_scale_lies_within_its_standard_error(parts_of_updates):
    readings = [measured(parts_of_updates, seed=seed) for seed in range(8)]
    scores = [(reading.scale - TRUTH) / reading.error for reading in readings]
    # Eight standard normal scores: their mean has deviation 0.35, and the sum of squares is chi-squared of 8.
    assert abs(sum(scores) / 8) < 3.3 * 0.36
    assert 0.8 < sum(score**2 for score in scores) < 26
    assert all(reading.error < 0.25 * TRUTH for reading in readings)


def test_a_batch_that_is_a_large_part_of_the_set_is_seen_to_have_less_noise():
    source = torch.Generator().manual_seed(1)
    data = G + torch.randn(64, 4, generator=source, dtype=torch.float64) @ L.T
    truth = float(data.var(0).sum() / data.mean(0).square().sum())
    scale, error = measured([[6] * 8] * 1500, examples=64, data=data)
    assert abs(scale - truth) < 4 * error < 0.1 * truth
    # Without N the formula takes the batch for one drawn with return, and |G|^2 comes out too small.
    naive, error = measured([[6] * 8] * 1500, examples=math.inf, data=data)
    assert naive - truth > 10 * error


@pytest.mark.parametrize("parts_of_updates", [[[64]] * 50, [[32, 32]], [[1, 1]] * 20])
def test_what_cannot_be_told_is_missing(parts_of_updates):
    scale, error = measured(parts_of_updates)
    assert math.isnan(scale)
    assert math.isnan(error)


def test_the_gradients_are_those_of_the_whole_batch_and_a_reading_forgets_what_it_told():
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    meter = NoiseMeter(model.parameters(), math.inf)
    for _ in range(3):
        batch = torch.randn(32, 4) + 1
        for part in batch.split([8, 4, 12, 8]):
            (model(part).sum() / 32).backward()
            meter.part(len(part) / 32)
        meter.end(32)
        torch.testing.assert_close(model.weight.grad[0], batch.mean(0))
        torch.testing.assert_close(model.bias.grad, torch.ones(1))
        model.zero_grad()
    assert meter.reading().scale > 0
    assert math.isnan(meter.reading().scale)


def test_a_parameter_without_a_gradient_is_left_alone():
    used, unused = nn.Linear(2, 1), nn.Linear(2, 1)
    meter = NoiseMeter([*used.parameters(), *unused.parameters()], math.inf)
    for _ in range(2):
        used(torch.randn(4, 2)).mean().backward()
        meter.part(0.5)
    meter.end(8)
    assert used.weight.grad is not None
    assert unused.weight.grad is None


MEASURING = replace(EAGER, measure_noise=True)


def spec_at_rest(epochs):
    """A run at lr 0, whose weights stay as they are first drawn, and one row of it."""
    return noise_spec(0.0, 20, epochs=epochs, evaluate_every_epochs=epochs, augmentation="none")


@pytest.mark.parametrize(("micro_batch", "epochs"), [(5, 40), (20, 160)], ids=["in parts", "cut"])
def test_training_tells_the_noise_of_the_gradients_of_single_examples(micro_batch, epochs):
    spec = spec_at_rest(epochs)
    rows, _ = finish(start(spec, machine=replace(MEASURING, micro_batch=micro_batch)))
    torch.manual_seed(spec.seed)
    data = made_data()
    model = models.build("mlp", data.classes, data.channels, data.image_size, None)
    images, labels = Stream(data, spec.seed, spec.augmentation, spec.normalization).batch(0, N)
    single = []
    for image, label in zip(images, labels, strict=True):
        loss = functional.cross_entropy(model(image[None]), label[None])
        single.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))]))
    gradients = torch.stack(single).double()
    truth = float(gradients.var(0).sum() / gradients.mean(0).square().sum())
    scale, error = (rows[-1][name] for name in MEASURED)
    assert abs(scale - truth) < 3 * error < 0.5 * truth


def test_measuring_changes_no_bit_where_the_parts_are_the_same(tmp_path):
    spec = noise_spec(0.05, Piecewise((16, 40), at=(1,)), model="convnet", ghost_size=8, evaluate_every_epochs=0.5)
    plain, _ = finish(start(spec, tmp_path / "plain.pt", machine=replace(EAGER, micro_batch=8)))
    measured, _ = finish(start(spec, tmp_path / "measured.pt", machine=replace(MEASURING, micro_batch=8)))
    told = [[row.pop(name) for name in MEASURED] for row in measured]
    assert unclocked(measured) == unclocked(plain)
    assert len(told) == len(plain)
    assert checkpoint_bits(tmp_path / "plain.pt")["model"] == checkpoint_bits(tmp_path / "measured.pt")["model"]


def test_a_run_that_was_stopped_goes_on_to_the_same_reading(tmp_path):
    spec, machine = spec_at_rest(4), replace(MEASURING, micro_batch=5)
    unbroken, _ = finish(start(spec, machine=machine))
    steps, broken = [SGD.step] * 11, start(spec, tmp_path / "checkpoint.pt", machine=machine)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SGD, "step", lambda self: steps.pop()(self))
        with pytest.raises(IndexError):
            next(broken)
    again, _ = finish(start(spec, tmp_path / "checkpoint.pt", machine=machine))
    assert [again[-1][name] for name in MEASURED] == [unbroken[-1][name] for name in MEASURED]
