"""Optimizers: against the update rules written out in numpy, with lr and momentum that change at every update."""

from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from lrbs_core import models
from lrbs_core.optimizers import apply_setting, build
from lrbs_core.policies import Setting
from lrbs_core.specs import Optimizer

SETTINGS = [Setting(lr, 8, momentum) for lr, momentum in
            [(0.1, 0.9), (0.3, 0.5), (0.02, 0.95), (0.2, 0.0), (0.2, 0.7), (0.0, 0.8), (0.1, 0.9)]]  # fmt: skip
FACTORS = {"a": (1.0, 1.0), "b": (2.0, 250.0), "c": (0.5, 0.0), "d": (1.0, 1.0)}
SHAPES = {"a": (3,), "b": (2, 2), "c": (5,), "d": (2, 1)}
TRUST = 0.05


class Net(nn.Module):
    """Four parameters, three of them with factors of their own; `a` and `d` share a group."""

    def __init__(self, factors=FACTORS):
        super().__init__()
        torch.manual_seed(0)
        for name, shape in SHAPES.items():
            setattr(self, name, nn.Parameter(torch.randn(shape, dtype=torch.double)))
        self.factors = {name: factors[name] for name in "bc"}


class Heavy:
    """v <- m v + g, w <- w - lr v; Nesterov: w <- w - lr (g + m v). dampening 0, as in the papers."""

    def __init__(self, nesterov=False):
        self.v, self.nesterov = 0.0, nesterov

    def change(self, w, g, decay, lr, m):
        g = g + decay * w
        self.v = m * self.v + g
        return lr * (g + m * self.v if self.nesterov else self.v)


class Lars:
    """You et al. 2017, Algorithm 1; vectors have rate 1 and no decay."""

    def __init__(self):
        self.v = 0.0

    def change(self, w, g, decay, lr, m):
        rate, decay = (1.0, 0.0) if w.ndim < 2 else (None, decay)
        norms = np.linalg.norm(w), np.linalg.norm(g)
        rate = rate or TRUST * norms[0] / (norms[1] + decay * norms[0])
        self.v = m * self.v + lr * rate * (g + decay * w)
        return self.v


class Adam:
    """Kingma and Ba 2015, section 3: moments are means of all gradients and squares, by weights that add up to 1."""

    def __init__(self):
        self.gradients, self.beta1s = [], []

    def change(self, w, g, decay, lr, beta1, beta2=0.999, eps=1e-8):
        self.gradients.append(g + decay * w)
        self.beta1s.append(beta1)
        count = len(self.gradients)
        # A gradient comes in with 1 - beta, and is multiplied by the beta of each update after it.
        firsts = [(1 - self.beta1s[i]) * np.prod(self.beta1s[i + 1 :]) for i in range(count)]
        seconds = [(1 - beta2) * beta2 ** (count - 1 - i) for i in range(count)]
        first = np.average(self.gradients, axis=0, weights=firsts)
        second = np.average(np.square(self.gradients), axis=0, weights=seconds)
        return lr * first / (np.sqrt(second) + eps)


class AdamW(Adam):
    """Loshchilov and Hutter 2019, Algorithm 2: the decay, times lr, stays out of the moments."""

    def change(self, w, g, decay, lr, beta1):
        return lr * decay * w + super().change(w, g, 0.0, lr, beta1)


class RMSprop:
    def __init__(self):
        self.s, self.v = 0.0, 0.0

    def change(self, w, g, decay, lr, m):
        g = g + decay * w
        self.s = 0.99 * self.s + 0.01 * g**2
        self.v = m * self.v + g / (np.sqrt(self.s) + 1e-8)
        return lr * self.v


class Adagrad:
    """Duchi et al. 2011, with the diagonal."""

    def __init__(self):
        self.s = 0.0

    def change(self, w, g, decay, lr, m):
        g = g + decay * w
        self.s = self.s + g**2
        return lr * g / (np.sqrt(self.s) + 1e-10)


class Adadelta:
    """Zeiler 2012, Algorithm 1, times lr."""

    def __init__(self):
        self.s, self.u = 0.0, 0.0

    def change(self, w, g, decay, lr, m):
        g = g + decay * w
        self.s = 0.9 * self.s + 0.1 * g**2
        d = np.sqrt(self.u + 1e-6) / np.sqrt(self.s + 1e-6) * g
        self.u = 0.9 * self.u + 0.1 * d**2
        return lr * d


RULES = {
    "sgd": Heavy, "nesterov": lambda: Heavy(nesterov=True), "lars": Lars, "adam": Adam, "adamw": AdamW,
    "rmsprop": RMSprop, "adagrad": Adagrad, "adadelta": Adadelta,
}  # fmt: skip
WITHOUT_MOMENTUM = ("adagrad", "adadelta")
WITH_MOMENTUM = [name for name in RULES if name not in WITHOUT_MOMENTUM]


def made(name, model, weight_decay):
    return build(name, model, weight_decay, trust_coefficient=TRUST if name == "lars" else None)


def settings_of(name):
    return [setting._replace(momentum=0.0) for setting in SETTINGS] if name in WITHOUT_MOMENTUM else SETTINGS


def check_against_numpy(name, settings, weight_decay):
    model, random = Net(), np.random.default_rng(1)
    optimizer = made(name, model, weight_decay)
    weights = {key: p.detach().numpy().copy() for key, p in model.named_parameters()}
    rules = {key: RULES[name]() for key in weights}
    for setting in settings:
        apply_setting(optimizer, setting)
        for key, parameter in model.named_parameters():
            gradient = random.normal(size=parameter.shape)
            parameter.grad = torch.tensor(gradient)
            lr_factor, decay_factor = FACTORS[key]
            decay, lr = weight_decay * decay_factor, setting.lr * lr_factor
            weights[key] = weights[key] - rules[key].change(weights[key], gradient, decay, lr, setting.momentum)
        optimizer.step()
        for key, parameter in model.named_parameters():
            np.testing.assert_allclose(parameter.detach(), weights[key], rtol=1e-10, atol=1e-12)


def test_every_name_of_the_specs_has_its_rule_here():
    assert tuple(RULES) == get_args(Optimizer)


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("name", RULES)
def test_updates_equal_the_rule_in_numpy_with_factors_on_lr_and_weight_decay(name, weight_decay):
    check_against_numpy(name, settings_of(name), weight_decay)


@pytest.mark.parametrize("momenta", [(0.0, 0.0, 0.0), (0.0, 0.5, 0.9), (0.9, 0.0, 0.0, 0.9)], ids=str)
@pytest.mark.parametrize("name", WITH_MOMENTUM)
def test_momentum_may_be_zero_at_first_at_last_or_for_a_while(name, momenta):
    check_against_numpy(name, [Setting(0.1, 8, momentum) for momentum in momenta], 0.01)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_a_rise_of_adams_beta1_makes_no_update_longer(name):
    # Of equal gradients every mean is that gradient, so that each update moves a weight by lr: with 1 - beta1^t, the
    # fourth would by 12.9 lr.
    model = Net()
    optimizer = build(name, model, 0.0)
    for number, momentum in enumerate([0.0, 0.5, 0.7, 0.98, 0.98, 0.85, 0.5]):
        before = model.a.detach().clone()
        apply_setting(optimizer, Setting(0.1, 8, momentum))
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        torch.testing.assert_close(before - model.a.detach(), torch.full_like(before, 0.1), msg=f"update {number}")


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_adam_of_constant_beta1_is_torchs_bit_for_bit(kind):
    finals = []
    for ours in (True, False):
        model, random = Net(dict.fromkeys(FACTORS, (1.0, 1.0))), np.random.default_rng(3)
        name = "adamw" if kind is torch.optim.AdamW else "adam"
        optimizer = build(name, model, 0.01) if ours else kind(model.parameters(), weight_decay=0.01, fused=True)
        for lr in (0.1, 0.3, 0.02, 0.0, 0.2):
            if ours:
                apply_setting(optimizer, Setting(lr, 8, 0.9))
            else:
                optimizer.param_groups[0]["lr"] = lr
            for parameter in model.parameters():
                parameter.grad = torch.tensor(random.normal(size=parameter.shape))
            optimizer.step()
        finals.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(*finals)


@pytest.mark.parametrize("count", [0, 3])
def test_adams_state_of_a_version_without_the_product_of_betas_is_taken_up(count):
    def moved(forget):
        model, random = Net(), np.random.default_rng(4)
        optimizer = build("adam", model, 0.01)
        for number, momentum in enumerate([0.9] * count + [0.9, 0.5, 0.7]):
            if forget and number == count:
                state = optimizer.state_dict()
                for group in state["param_groups"]:
                    for name in ("updates", "beta1", "beta1_product"):
                        del group[name]
                optimizer = build("adam", model, 0.01)
                optimizer.load_state_dict(state)
            apply_setting(optimizer, Setting(0.1, 8, momentum))
            for parameter in model.parameters():
                parameter.grad = torch.tensor(random.normal(size=parameter.shape))
            optimizer.step()
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.equal(moved(forget=True), moved(forget=False))


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
        optimizer = made(name, model, 0.01)
        for number, setting in enumerate(settings_of(name)):
            if number == stop:
                state = optimizer.state_dict()
                optimizer = made(name, model, 0.01)
                optimizer.load_state_dict(state)
            apply_setting(optimizer, setting)
            for parameter in model.parameters():
                parameter.grad = torch.tensor(random.normal(size=parameter.shape))
            optimizer.step()
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    unbroken = trained(stop=None)
    for stop in range(1, len(SETTINGS)):
        assert torch.equal(trained(stop), unbroken)


@pytest.mark.parametrize("name", [name for name in RULES if name != "lars"])
@pytest.mark.parametrize("decay_batch_norm", [True, False])
def test_batch_norms_scales_and_shifts_decay_unless_told_otherwise(name, decay_batch_norm):
    model = nn.Sequential(models.build("resnet8", 10, 3, 32, ghost_size=16), nn.BatchNorm1d(10))
    optimizer = build(name, model, 0.1, decay_batch_norm=decay_batch_norm)
    apply_setting(optimizer, Setting(0.1, 8, 0.0))
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    decayed = {key: (parameter < 1).all().item() for key, parameter in model.named_parameters()}
    norms = {key for key, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    expected = {key: decay_batch_norm or key.rpartition(".")[0] not in norms for key in decayed}
    assert decayed == expected
    # The bias of the last layer is no batch norm's.
    assert decayed["0.8.bias"]
    assert len(norms) > 1


@pytest.mark.parametrize("name", ["SGD", "lion", ""])
def test_another_name_is_refused(name):
    names = "sgd, nesterov, lars, adam, adamw, rmsprop, adagrad, adadelta"
    with pytest.raises(ValueError, match=f"optimizer must be one of {names}, but got {name!r}"):
        build(name, Net(), 0.0)
