"""The noise meter: the gradient noise scale, from an update's gradient and those of other examples at the same weights.

Those of the update's own parts would not do: a batch of one ghost batch has none, and how far they differ from those of
fresh examples hangs on the augmentation (`noise.unbiased`). So there is one more forward and backward pass now and
then, over examples that are drawn for it, at a cost of an eighth. It changes nothing of the run, not a bit.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lrbs_core.noise import GradientNoise, gradient_noise, unbiased
from lrbs_core.planning import micro_batches

__all__ = ["UNIT", "NoiseMeter", "held_parts"]

# Examples that are drawn to measure by, for each that is trained on.
SHARE = 8
# Of a net without ghost batches, as many of them at once; and at most so many parts an update, or they are larger.
UNIT, PARTS = 64, 8


def held_parts(start: int, size: int, limit: int, unit: int) -> list[tuple[int, int]]:
    """What is measured at the update of examples [start, start + size): parts (start, size) of a stream of its own.

    A `unit` of examples falls due with every 8 units trained on, so that what an update measures follows from where it
    stands. Parts are whole units, of at most `limit` examples, and 8 at most where `limit` lets them.

    >>> held_parts(0, 100, limit=128, unit=16), held_parts(100, 100, limit=128, unit=16), held_parts(0, 4096, 128, 32)
    ([], [(0, 16)], [(0, 64), (64, 64), (128, 64), (192, 64), (256, 64), (320, 64), (384, 64), (448, 64)])
    """
    first, last = (place // (SHARE * unit) for place in (start, start + size))
    if first == last:
        return []
    wanted = -(-(last - first) // PARTS) * unit
    parts, at = [], first * unit
    for part in micro_batches((last - first) * unit, max(unit, min(limit, wanted)), unit):
        parts.append((at, part))
        at += part
    return parts


class NoiseMeter:
    """Adds up what `noise.gradient_noise` needs: `part` for the gradients of each part, `end` when an update has all.

    At `end` the parameters hold the update's own gradients, which stay as they are. Nothing is read back from a GPU
    before `reading`.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        device = self.parameters[0].device
        # Of the updates since the last reading, the sums of 1, x, y, x^2, xy, y^2 (see `noise.gradient_noise`).
        self.moments = torch.zeros(6, dtype=torch.float64, device=device)
        # Of each part so far: its size, |h_k|^2, and g . h_k.
        self._sizes: list[int] = []
        self._squares: list[Tensor] = []
        self._products: list[Tensor] = []

    def part(self, loss: Tensor, size: int) -> None:
        """Takes a part of `size` examples by its mean loss, before the optimizer's step."""
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        pairs = [
            (own.grad, other)
            for own, other in zip(self.parameters, gradients, strict=True)
            if own.grad is not None and other is not None
        ]
        own, others = [own for own, _ in pairs], [other for _, other in pairs]
        self._sizes.append(size)
        self._squares.append(_dot(others, others))
        self._products.append(_dot(own, others))

    def end(self) -> None:
        """Counts the update whose parts were taken, if there were any."""
        if not self._sizes:
            return
        examples = sum(self._sizes)
        shares = torch.tensor(self._sizes, dtype=torch.float64, device=self.moments.device) / examples
        squares, product = (shares @ torch.stack(values) for values in (self._squares, self._products))
        x, y = unbiased(squares, product, len(self._sizes), examples)
        self.moments += torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])
        self._sizes, self._squares, self._products = [], [], []

    def reading(self) -> tuple[GradientNoise, list[float]]:
        """The gradient noise scale over the updates since the last reading, and the sums that it is made of."""
        moments: list[float] = self.moments.tolist()
        self.moments.zero_()
        return gradient_noise(moments), moments


def _dot(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """left . right over all parameters together, summed in float64: it may be small beside its single terms."""
    return torch.stack([product.sum(dtype=torch.float64) for product in torch._foreach_mul(left, right)]).sum()
