"""Adam and AdamW whose beta1 may change from one update to the next."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["Adam"]


class Adam(torch.optim.Adam):
    """torch's Adam, its first moment divided by the sum of its weights whatever beta1 was at the updates before.

    With m_t = b_t m_(t-1) + (1 - b_t) g_t, gradient i has the weight (1 - b_i) prod_{j>i} b_j, and all weights together
    are 1 - prod_{i<=t} b_i: dividing by that makes m_t a mean of the gradients. It is the 1 - b^t of Kingma and Ba 2015
    (arXiv 1412.6980, section 3) where b is constant, and what torch divides by in any case. So lr is passed on times
    (1 - b_t^t) / (1 - prod b_i) once b has changed, and a decoupled weight decay, which torch multiplies by lr, over
    it. As long as b is constant, what is done is torch's own, bit for bit.

    `betas`, `lr` and `weight_decay` of a group may be set before every update. The parameters of a group must all have
    gradients from its first update on, as updates are counted a group.

    >>> parameter = torch.nn.Parameter(torch.zeros(1))
    >>> optimizer = Adam([parameter], lr=1.0)
    >>> for beta1 in (0.5, 0.9):
    ...     optimizer.param_groups[0]["betas"] = (beta1, 0.999)
    ...     parameter.grad = torch.ones(1)
    ...     optimizer.step()
    >>> parameter  # a mean of equal gradients is that gradient: two updates of 1
    Parameter containing:
    tensor([-2.0000], requires_grad=True)
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for group in self.param_groups:
            group |= {"updates": 0, "beta1": None, "beta1_product": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for group in self.param_groups:
            if "updates" not in group:  # of a version in which beta1 could only be constant
                counts = [int(self.state[p]["step"]) for p in group["params"] if "step" in self.state.get(p, {})]
                group |= {"updates": max(counts, default=0), "beta1": group["betas"][0], "beta1_product": None}

    def step(self, closure: Any = None) -> Any:
        """One update."""
        asked = [(group["lr"], group["weight_decay"]) for group in self.param_groups]
        for group in self.param_groups:
            factor = _counted(group)
            group["lr"] *= factor
            if group["decoupled_weight_decay"]:
                group["weight_decay"] /= factor
        try:
            return super().step(closure)
        finally:
            for group, (lr, weight_decay) in zip(self.param_groups, asked, strict=True):
                group |= {"lr": lr, "weight_decay": weight_decay}


def _counted(group: dict[str, Any]) -> float:
    """Counts the update at hand, and gives the factor on its lr. `beta1_product` is None while beta1 is constant."""
    beta1 = group["betas"][0]
    if group["updates"] and group["beta1_product"] is None and beta1 != group["beta1"]:
        group["beta1_product"] = group["beta1"] ** group["updates"]
    group["updates"], group["beta1"] = group["updates"] + 1, beta1
    if group["beta1_product"] is None:
        return 1.0
    group["beta1_product"] *= beta1
    return float((1 - beta1 ** group["updates"]) / (1 - group["beta1_product"]))
