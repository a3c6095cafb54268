"""LARS: each layer's lr in proportion to the norm of its weights over that of its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.optim.optimizer import ParamsT

__all__ = ["LARS", "NO_MOMENTUM"]

# At momentum 0 torch's fused SGD leaves its velocity as it was, and would go on from that old one when momentum comes
# back. Times this, the velocity is nothing beside the gradient.
NO_MOMENTUM = 1e-38

# Below this, 1 - (1 - scale) is no longer `scale` to the precision of float32.
SMALLEST_SCALE = 1e-8

# A weight, its gradient and its velocity.
Triple = tuple[Tensor, Tensor, Tensor]


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You, Gitman, Ginsburg 2017, arXiv 1708.03888, Algorithm 1).

    For each parameter tensor w with gradient g, where eta = `trust_coefficient`, beta = `weight_decay`, m = `momentum`:

        lambda = eta |w| / (|g| + beta |w|),   v <- m v + lr lambda (g + beta w),   w <- w - v

    The lr is within the velocity v, unlike torch's SGD: a change of lr acts on gradients still to come, and at lr 0 the
    velocity still moves w. Norms are Euclidean. lambda = 1 where |w| or |g| is 0: such a layer could else never start.
    Tensors of at most one dimension (scale and shift of batch norm, biases) have lambda = 1 and no weight decay.

    Variants in use: without `decay_in_denominator`, lambda = eta |w| / |g|; with `clip`, lr lambda becomes
    min(lambda, lr), so that no layer's rate is above lr (LARC, of NVIDIA's apex and timm, for which lr is that bound).

    Takes dense real parameters, those of a group on one device. Raises ValueError for a hyperparameter
    outside its range.

    >>> w = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    >>> w.grad = torch.tensor([[0.0, 2.0]])
    >>> LARS([w], lr=1.0, momentum=0.9, weight_decay=0.0, trust_coefficient=0.1).step()  # lambda = 0.1 * 5 / 2
    >>> w.data
    tensor([[3.0000, 3.5000]])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float,
        weight_decay: float,
        trust_coefficient: float,
        *,
        decay_in_denominator: bool = True,
        clip: bool = False,
    ) -> None:
        if not lr >= 0:
            raise ValueError(f"lr >= 0 must hold, but got lr={lr}")
        if not 0 <= momentum < 1:
            raise ValueError(f"0 <= momentum < 1 must hold, but got momentum={momentum}")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay >= 0 must hold, but got weight_decay={weight_decay}")
        if not trust_coefficient > 0:
            raise ValueError(
                f"trust_coefficient > 0 must hold (0.001 in the paper), but got trust_coefficient={trust_coefficient}"
            )
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "decay_in_denominator": decay_in_denominator,
            "clip": clip,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every parameter that has a gradient; returns what `closure` does, as torch's own do."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: list[Triple] = []
            others: list[Triple] = []
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["velocity"] = torch.zeros_like(weight)
                triple = (weight, weight.grad, state["velocity"])
                (alike if _fits(*triple) else others).append(triple)
            for triples, update in ((alike, _update_fused), (others, _update_foreach)):
                plain = [triple for triple in triples if triple[0].dim() <= 1]
                layers = [triple for triple in triples if triple[0].dim() > 1]
                update(plain, layers, group)
        return loss


def _fits(weight: Tensor, gradient: Tensor, velocity: Tensor) -> bool:
    """Whether the fused kernel fits: it walks the memory of all three at once, whatever their strides are."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == gradient.dtype == velocity.dtype == torch.float32
        and weight.stride() == gradient.stride() == velocity.stride()
    )


def _rate(weight_norm: Any, gradient_norm: Any, group: dict[str, Any]) -> Any:
    """lambda, of floats or tensors."""
    decay = group["weight_decay"] if group["decay_in_denominator"] else 0.0
    return group["trust_coefficient"] * weight_norm / (gradient_norm + decay * weight_norm)


def _update_fused(plain: list[Triple], layers: list[Triple], group: dict[str, Any]) -> None:
    """On a CPU: one layer at a time, so that the update finds in the cache what the norms have read."""
    lr, weight_decay = group["lr"], group["weight_decay"]
    if plain:
        _fused([list(tensors) for tensors in zip(*plain, strict=True)], lr, 0.0, group)
    for weight, gradient, velocity in layers:
        weight_norm, gradient_norm = _norm(weight), _norm(gradient)
        rate = _rate(weight_norm, gradient_norm, group) if weight_norm > 0 and gradient_norm > 0 else 1.0
        _fused([[weight], [gradient], [velocity]], min(rate, lr) if group["clip"] else lr * rate, weight_decay, group)


def _norm(tensor: Tensor) -> float:
    """Row by row, then of the rows: one float32 sum over millions of squares would be off by 1e-4."""
    norm: float = vector_norm(vector_norm(tensor, dim=tuple(range(1, tensor.dim())))).item()
    return norm


def _fused(lists: list[list[Tensor]], scale: float, weight_decay: float, group: dict[str, Any]) -> None:
    """v <- m v + scale (g + beta w), w <- w - v in one pass: torch's SGD at lr 1 with dampening 1 - scale."""
    weights, gradients, velocities = lists
    if scale < SMALLEST_SCALE:
        _foreach(weights, gradients, velocities, [scale] * len(weights), weight_decay, group)
        return
    torch._fused_sgd_(
        weights,
        gradients,
        velocities,
        weight_decay=weight_decay,
        momentum=group["momentum"] or NO_MOMENTUM,
        lr=1.0,
        dampening=1 - scale,
        nesterov=False,
        maximize=False,
        is_first_step=False,
    )


def _update_foreach(plain: list[Triple], layers: list[Triple], group: dict[str, Any]) -> None:
    """Anywhere, all layers in a few calls; nothing is read back from the device, so that its queue stays full."""
    if plain:
        weights, gradients, velocities = (list(tensors) for tensors in zip(*plain, strict=True))
        _foreach(weights, gradients, velocities, [group["lr"]] * len(plain), 0.0, group)
    if layers:
        weights, gradients, velocities = (list(tensors) for tensors in zip(*layers, strict=True))
        weight_norms, gradient_norms = (torch.stack(torch._foreach_norm(tensors)) for tensors in (weights, gradients))
        rates = _rate(weight_norms, gradient_norms, group)
        rates = torch.where((weight_norms > 0) & (gradient_norms > 0), rates, 1.0)
        scales = rates.clamp(max=group["lr"]) if group["clip"] else rates * group["lr"]
        _foreach(weights, gradients, velocities, list(scales.unbind()), group["weight_decay"], group)


def _foreach(
    weights: list[Tensor],
    gradients: list[Tensor],
    velocities: list[Tensor],
    scales: list[Any],
    weight_decay: float,
    group: dict[str, Any],
) -> None:
    changes = torch._foreach_add(gradients, weights, alpha=weight_decay)
    torch._foreach_mul_(changes, scales)
    torch._foreach_mul_(velocities, group["momentum"])
    torch._foreach_add_(velocities, changes)
    torch._foreach_sub_(weights, velocities)
