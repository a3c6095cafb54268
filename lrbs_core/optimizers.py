"""The optimizers by name; learning rate and momentum come from the policy, an update at a time."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import nn

from lrbs_core.models import parameter_factors
from lrbs_core.policies import Setting

__all__ = ["apply_setting", "build"]

# At momentum 0 torch's SGD leaves its velocity as it was, and would go on from that old one when momentum comes back.
NO_MOMENTUM = 1e-38


def build(name: str, model: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """ "sgd" (v <- m v + g, w <- w - lr v), "nesterov", or "adam" (beta1 the policy's momentum, beta2 0.999).

    `weight_decay` is an L2 term in the gradient, times the factor that the network gives a parameter. Raises ValueError
    for another name.
    """
    parameters = dict(model.named_parameters())
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for parameter, factors in parameter_factors(model).items():
        groups[factors].append(parameters[parameter])
    grouped = [
        {"params": members, "weight_decay": weight_decay * decay_factor, "lr_factor": lr_factor}
        for (lr_factor, decay_factor), members in groups.items()
    ]
    if name == "sgd":
        return torch.optim.SGD(grouped, lr=1.0, fused=True)
    if name == "nesterov":
        return torch.optim.SGD(grouped, lr=1.0, momentum=0.5, nesterov=True, fused=True)
    if name == "adam":
        return torch.optim.Adam(grouped, lr=1.0, fused=True)
    raise ValueError(f"optimizer must be one of sgd, nesterov, adam, but got {name!r}")


def apply_setting(optimizer: torch.optim.Optimizer, setting: Setting) -> None:
    """Puts lr and momentum of the next update into the optimizer."""
    for group in optimizer.param_groups:
        group["lr"] = setting.lr * group["lr_factor"]
        if "betas" in group:
            group["betas"] = (setting.momentum, group["betas"][1])
        else:
            group["momentum"] = setting.momentum or NO_MOMENTUM
