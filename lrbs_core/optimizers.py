"""The optimizers by name; learning rate and momentum come from the policy, an update at a time."""

from __future__ import annotations

from collections import defaultdict
from typing import get_args

import torch
from torch import nn

from lrbs_core.adam import Adam
from lrbs_core.lars import LARS, NO_MOMENTUM
from lrbs_core.models import parameter_factors
from lrbs_core.policies import Setting
from lrbs_core.specs import Optimizer

__all__ = ["apply_setting", "build"]


def build(
    name: str,
    model: nn.Module,
    weight_decay: float,
    *,
    trust_coefficient: float | None = None,
    decay_batch_norm: bool = True,
) -> torch.optim.Optimizer:
    """The optimizer `name` of a network's parameters w. With gradient g, momentum m, and all operations by element:

    - "sgd": v <- m v + g, w <- w - lr v; "nesterov": the same v, w <- w - lr (g + m v).
    - "lars": `lrbs_core.lars.LARS` in the paper's form, eta = `trust_coefficient`, which the others do not take.
    - "adam": beta1 = m, beta2 = 0.999, eps = 1e-8 (Kingma and Ba 2015, Algorithm 1); where m changes, the first moment
      is divided by 1 less the product of every m so far (`lrbs_core.adam`). "adamw": the same, with w <- (1 - lr
      weight_decay) w before it in place of weight decay in g (Loshchilov and Hutter 2019, Algorithm 2, where torch
      multiplies the decay by lr).
    - "rmsprop": s <- 0.99 s + 0.01 g^2, v <- m v + g / (sqrt(s) + 1e-8), w <- w - lr v.
    - "adagrad": s <- s + g^2, w <- w - lr g / (sqrt(s) + 1e-10). It has no momentum.
    - "adadelta": s <- 0.9 s + 0.1 g^2, d = g sqrt((u + 1e-6) / (s + 1e-6)), u <- 0.9 u + 0.1 d^2, w <- w - lr d. It has
      no momentum.

    `weight_decay`, times the factor that the network gives a parameter, is an L2 term in g (but for "adamw"). Without
    `decay_batch_norm` it is 0 for the scales and shifts of batch norm (Goyal et al. 2017, arXiv 1706.02677, section
    5.1); LARS decays none in any case. Raises ValueError for another name.

    >>> optimizer = build("sgd", nn.Linear(2, 1), weight_decay=0.1)
    >>> apply_setting(optimizer, Setting(lr=0.5, batch_size=8, momentum=0.9))
    >>> [(group["lr"], group["momentum"], group["weight_decay"]) for group in optimizer.param_groups]
    [(0.5, 0.9, 0.1)]
    """
    grouped = _groups(model, weight_decay, decay_batch_norm)
    # Where torch has no fused kernel, its default stands: foreach on a GPU, one by one on a CPU, which its cache likes.
    match name:
        case "sgd":
            return torch.optim.SGD(grouped, lr=1.0, fused=True)
        case "nesterov":
            return torch.optim.SGD(grouped, lr=1.0, momentum=0.5, nesterov=True, fused=True)
        case "lars":
            assert trust_coefficient is not None
            return LARS(grouped, 1.0, momentum=0.0, weight_decay=0.0, trust_coefficient=trust_coefficient)
        case "adam":
            return Adam(grouped, lr=1.0, fused=True)
        case "adamw":
            return Adam(grouped, lr=1.0, fused=True, decoupled_weight_decay=True)
        case "rmsprop":
            return torch.optim.RMSprop(grouped, lr=1.0)
        case "adagrad":
            return torch.optim.Adagrad(grouped, lr=1.0, fused=True)
        case "adadelta":
            return torch.optim.Adadelta(grouped, lr=1.0)
    raise ValueError(f"optimizer must be one of {', '.join(get_args(Optimizer))}, but got {name!r}")


def _groups(model: nn.Module, weight_decay: float, decay_batch_norm: bool) -> list[dict[str, object]]:
    """The parameters by the factors that the network gives them."""
    parameters = dict(model.named_parameters())
    undecayed = {
        parameter
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not decay_batch_norm
        for parameter in module.parameters(recurse=False)
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, (lr_factor, decay_factor) in parameter_factors(model).items():
        parameter = parameters[name]
        groups[lr_factor, 0.0 if parameter in undecayed else decay_factor].append(parameter)
    return [
        {"params": members, "weight_decay": weight_decay * decay_factor, "lr_factor": lr_factor}
        for (lr_factor, decay_factor), members in groups.items()
    ]


def apply_setting(optimizer: torch.optim.Optimizer, setting: Setting) -> None:
    """Puts lr and momentum of the next update into the optimizer."""
    for group in optimizer.param_groups:
        group["lr"] = setting.lr * group["lr_factor"]
        if "betas" in group:
            group["betas"] = (setting.momentum, group["betas"][1])
        elif "momentum" in group:
            group["momentum"] = setting.momentum or NO_MOMENTUM
        else:
            assert setting.momentum == 0
