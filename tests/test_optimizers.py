"""Optimizers: against the update rules written out in numpy, with lr and momentum that change at every update."""

import numpy as np
import pytest
import torch
from torch import nn

from lrbs_core.optimizers import apply_setting, build
from lrbs_core.policies import Setting

SETTINGS = [Setting(lr, 8, momentum) for lr, momentum in
            [(0.1, 0.9), (0.3, 0.5), (0.02, 0.95), (0.2, 0.0), (0.2, 0.7), (0.0, 0.8), (0.1, 0.9)]]  # fmt: skip
FACTORS = {"a": (1.0, 1.0), "b": (2.0, 250.0), "c": (0.5, 0.0), "d": (1.0, 1.0)}


class Net(nn.Module):
    """Four parameters, three of them with factors of their own; `a` and `d` share a group."""

    def __init__(self, factors=FACTORS):
        super().__init__()
        torch.manual_seed(0)
        for name, size in zip("abcd", (3, 4, 5, 2), strict=True):
            setattr(self, name, nn.Parameter(torch.randn(size, dtype=torch.double)))
        self.factors = {name: factors[name] for name in "bc"}


class Heavy:
    """v <- m v + g, w <- w - lr v; Nesterov: w <- w - lr (g + m v). dampening 0, as in the papers."""

    def __init__(self, nesterov=False):
        self.v, self.nesterov = 0.0, nesterov

    def change(self, g, lr, m):
        self.v = m * self.v + g
        return lr * (g + m * self.v if self.nesterov else self.v)


class Adam:
    """Kingma and Ba 2015, Algorithm 1, beta1 being that of the update at hand, in the correction of the bias too."""

    def __init__(self):
        self.m, self.v, self.t = 0.0, 0.0, 0

    def change(self, g, lr, beta1, beta2=0.999, eps=1e-8):
        self.t += 1
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * g**2
        return lr * self.m / (1 - beta1**self.t) / (np.sqrt(self.v / (1 - beta2**self.t)) + eps)


RULES = {"sgd": Heavy, "nesterov": lambda: Heavy(nesterov=True), "adam": Adam}


def check_against_numpy(name, settings, weight_decay):
    model, random = Net(), np.random.default_rng(1)
    optimizer = build(name, model, weight_decay)
    weights = {key: p.detach().numpy().copy() for key, p in model.named_parameters()}
    rules = {key: RULES[name]() for key in weights}
    for setting in settings:
        apply_setting(optimizer, setting)
        for key, parameter in model.named_parameters():
            gradient = random.normal(size=parameter.shape)
            parameter.grad = torch.tensor(gradient)
            lr_factor, decay_factor = FACTORS[key]
            g = gradient + weight_decay * decay_factor * weights[key]
            weights[key] = weights[key] - rules[key].change(g, setting.lr * lr_factor, setting.momentum)
        optimizer.step()
        for key, parameter in model.named_parameters():
            np.testing.assert_allclose(parameter.detach(), weights[key], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("name", RULES)
def test_updates_equal_the_rule_in_numpy_with_factors_on_lr_and_weight_decay(name, weight_decay):
    check_against_numpy(name, SETTINGS, weight_decay)


@pytest.mark.parametrize("momenta", [(0.0, 0.0, 0.0), (0.0, 0.5, 0.9), (0.9, 0.0, 0.0, 0.9)], ids=str)
@pytest.mark.parametrize("name", RULES)
def test_momentum_may_be_zero_at_first_at_last_or_for_a_while(name, momenta):
    check_against_numpy(name, [Setting(0.1, 8, momentum) for momentum in momenta], 0.01)


def test_sgd_without_momentum_is_a_plain_step():
    model = Net()
    before = model.a.detach().clone()
    optimizer = build("sgd", model, 0.0)
    for _ in range(2):
        apply_setting(optimizer, Setting(0.5, 8, 0.0))
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    torch.testing.assert_close(model.a.detach(), before - 2 * 0.5)


@pytest.mark.parametrize("name", RULES)
def test_an_optimizer_restored_from_its_state_goes_on_as_if_never_stopped(name):
    def trained(stop):
        model, random = Net(), np.random.default_rng(2)
        optimizer = build(name, model, 0.01)
        for number, setting in enumerate(SETTINGS):
            if number == stop:
                state = optimizer.state_dict()
                optimizer = build(name, model, 0.01)
                optimizer.load_state_dict(state)
            apply_setting(optimizer, setting)
            for parameter in model.parameters():
                parameter.grad = torch.tensor(random.normal(size=parameter.shape))
            optimizer.step()
        return torch.cat([parameter.detach() for parameter in model.parameters()])

    unbroken = trained(stop=None)
    for stop in range(1, len(SETTINGS)):
        assert torch.equal(trained(stop), unbroken)


@pytest.mark.parametrize("name", ["SGD", "lars", "rmsprop", ""])
def test_another_name_is_refused(name):
    with pytest.raises(ValueError, match=f"optimizer must be one of sgd, nesterov, adam, but got {name!r}"):
        build(name, Net(), 0.0)
