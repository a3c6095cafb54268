"""Stochastic depth: the plain ResNet of the same weights is the oracle (tests/test_models.py holds that one)."""

import copy
import math

import pytest
import torch
from made import finish, made_data, noise_spec, start, train_by_hand
from torch import nn
from torch.nn import functional

from lrbs_core import optimizers
from lrbs_core.draws import use_draws
from lrbs_core.models import build
from lrbs_core.policies import Setting

X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(5))
LABELS = torch.arange(8)


def made(name):
    torch.manual_seed(1)
    model = build(name, 10, 3, 8, ghost_size=4)
    model.draws = use_draws(model, 0, torch.device("cpu"))
    return model


def blocks(model):
    return [layer for layer in model if hasattr(layer, "conv2")]


def surviving(model, survival):
    """The model with another survival probability: 1 = all its blocks, 0 = shortcuts alone."""
    for block in blocks(model):
        block.survival = survival
    return model


def backward(model):
    logits = model(X)
    functional.cross_entropy(logits, LABELS).backward()
    return logits.detach()


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)


def test_it_is_the_resnet_of_the_same_depth_and_of_the_published_size():
    plain, stochastic = made("resnet110"), made("resnet110_stochastic")
    torch.testing.assert_close(dict(stochastic.state_dict()), dict(plain.state_dict()), rtol=0, atol=0)
    # Huang et al. 2016, section 4: 1.7 million parameters, 54 blocks.
    assert round(sum(parameter.numel() for parameter in stochastic.parameters()) / 1e6, 1) == 1.7
    survivals = [block.survival for block in blocks(stochastic)]
    assert len(survivals) == 54
    assert survivals[-1] == 0.5
    # An expected depth of (3L - 1) / 4, their section 3.
    assert sum(survivals) == pytest.approx((3 * 54 - 1) / 4)
    assert survivals == sorted(survivals, reverse=True)


def test_blocks_survive_as_often_as_equation_4_says():
    model, calls, passes = made("resnet14_stochastic"), [0] * 6, 400

    def counter(number):
        def count(*_):
            calls[number] += 1

        return count

    for number, block in enumerate(blocks(model)):
        block.conv1.register_forward_hook(counter(number))
    with torch.no_grad():
        for number in range(passes):
            model.draws.at(8 * number, 2, 8 * number)
            model(X[:2])
    for number, count in enumerate(calls, 1):
        survival = 1 - number / 6 * 0.5
        assert abs(count / passes - survival) < 4 * math.sqrt(survival * (1 - survival) / passes)


def test_evaluation_scales_a_branch_by_its_survival_probability():
    plain, stochastic = made("resnet14"), made("resnet14_stochastic")
    for number, block in enumerate(blocks(plain), 1):
        # The branch ends in its second norm, which is linear in its scale and shift.
        for parameter in (block.norm2.weight, block.norm2.bias):
            parameter.data *= 1 - number / 6 * 0.5
    state = torch.get_rng_state()
    torch.testing.assert_close(stochastic.eval()(X), plain.eval()(X))
    assert torch.equal(torch.get_rng_state(), state)


def test_where_all_blocks_survive_training_is_the_plain_resnets():
    plain, stochastic = made("resnet14"), surviving(made("resnet14_stochastic"), 1)
    assert torch.equal(backward(stochastic), backward(plain))
    for ours, theirs in zip(stochastic.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_a_dropped_block_is_its_shortcut_keeps_its_statistics_and_has_gradients_of_zero():
    plain, stochastic = made("resnet14"), surviving(made("resnet14_stochastic"), 0)
    for block in blocks(plain):
        nn.init.zeros_(block.norm2.weight)
    before = copy.deepcopy(blocks(stochastic)[0].state_dict())
    assert torch.equal(backward(stochastic), backward(plain))
    for block in blocks(stochastic):
        assert all(torch.equal(parameter.grad, torch.zeros_like(parameter)) for parameter in block.parameters())
    after = blocks(stochastic)[0].state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert torch.equal(stochastic[0].weight.grad, plain[0].weight.grad)


def test_a_block_that_survives_one_micro_batch_keeps_that_gradient():
    model = surviving(made("resnet14_stochastic"), 1)
    backward(model)
    first = [parameter.grad.clone() for block in blocks(model) for parameter in block.parameters()]
    backward(surviving(model, 0))
    second = [parameter.grad for block in blocks(model) for parameter in block.parameters()]
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adam"])
def test_the_place_of_an_update_decides_what_is_dropped(optimizer):
    # Blocks that were dropped in the first update and not in the second are what torch's fused SGD would fail on.
    finals = []
    for _ in range(2):
        model = made("resnet20_stochastic")
        update = optimizers.build(optimizer, model, weight_decay=0.01)
        for number in range(4):
            model.draws.at(8 * number, 8, 8 * number)
            optimizers.apply_setting(update, Setting(0.01, 8, 0.9))
            update.zero_grad(set_to_none=True)
            backward(model)
            update.step()
        finals.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert finals[0].isfinite().all()
    assert torch.equal(finals[0], finals[1])


def test_weight_decay_and_velocity_go_on_in_a_dropped_block():
    model = surviving(made("resnet8_stochastic"), 0)
    weight = blocks(model)[0].conv1.weight
    start = weight.detach().clone()
    update = optimizers.build("sgd", model, weight_decay=0.1)
    for _ in range(2):
        optimizers.apply_setting(update, Setting(0.5, 8, 0.9))
        update.zero_grad(set_to_none=True)
        backward(model)
        update.step()
    # v1 = d w0, w1 = w0 - lr v1; v2 = m v1 + d w1, w2 = w1 - lr v2, with d = 0.1, lr = 0.5, m = 0.9.
    w1 = 1 - 0.5 * 0.1
    torch.testing.assert_close(weight.detach(), start * (w1 - 0.5 * (0.9 * 0.1 + 0.1 * w1)))


@pytest.mark.parametrize("name", ["resnet18_stochastic", "resnet2_stochastic"])
def test_a_depth_that_the_family_lacks_is_refused(name):
    with pytest.raises(ValueError, match=r"depth = 6n \+ 2 must hold for a CIFAR ResNet, but got depth="):
        made(name)


def test_a_run_trains_as_updates_by_hand_do_whatever_was_dropped(tmp_path):
    spec = noise_spec(model="resnet14_stochastic", ghost_size=8)
    finish(start(spec, checkpoint := tmp_path / "checkpoint.pt"))
    trained, expected = dict(torch.load(checkpoint)["model"]), train_by_hand(spec, made_data())
    torch.testing.assert_close(trained, expected, rtol=1e-4, atol=1e-5)
