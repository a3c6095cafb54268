"""The noise meter: what the gradients of an update's parts tell of the gradient noise scale, while they are at hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lrbs_core.noise import GradientNoise, gradient_noise, unbiased

__all__ = ["NoiseMeter"]


class NoiseMeter:
    """Adds up the gradients of an update's parts, in place of autograd, and the squares of their norms on the way.

    `part` after each part's backward pass, `end` after the last: the parameters' gradients are then as they would have
    been. Nothing is read back from a GPU before `reading`. `examples` is N of `noise.unbiased`.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], examples: float) -> None:
        self.parameters, self.examples = list(parameters), examples
        device = self.parameters[0].device
        # Of the updates since the last reading, the sums of 1, x, y, x^2, xy, y^2 (see `noise.gradient_noise`).
        self.moments = torch.zeros(6, dtype=torch.float64, device=device)
        self._used: list[nn.Parameter] = []
        self._total: list[Tensor] = []
        self._squares = torch.zeros((), dtype=torch.float64, device=device)
        self._parts = 0

    def part(self, share: float) -> None:
        """Takes the gradients of a part that is this share of its update's examples, weighed so in the loss."""
        if not self._parts:
            self._used = [parameter for parameter in self.parameters if parameter.grad is not None]
        gradients: list[Any] = [parameter.grad for parameter in self._used]
        # The gradient at hand is share x g_k, so that share |g_k|^2 is its square over share.
        self._squares += _square(gradients) / share
        if self._parts:
            torch._foreach_add_(self._total, gradients)
        else:
            self._total = gradients
        self._parts += 1
        for parameter in self._used:
            parameter.grad = None

    def end(self, batch_size: int) -> None:
        """Puts the whole update's gradients in their place; with two parts or more, counts the update."""
        for parameter, gradient in zip(self._used, self._total, strict=True):
            parameter.grad = gradient
        if self._parts > 1:
            x, y = unbiased(self._squares, _square(self._total), self._parts, batch_size, self.examples)
            self.moments += torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])
        self._total, self._parts = [], 0
        self._squares.zero_()

    def reading(self) -> GradientNoise:
        """The gradient noise scale over the updates since the last reading."""
        noise = gradient_noise(self.moments.tolist())
        self.moments.zero_()
        return noise


def _square(gradients: list[Tensor]) -> Tensor:
    """|g|^2 of all parameters together, in float64: what is wanted of two squares is often their small difference."""
    return torch.stack(torch._foreach_norm(gradients, dtype=torch.float64)).square().sum()
