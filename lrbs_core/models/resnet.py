"""Residual networks for small images: He et al. 2015 (arXiv 1512.03385), section 4.2, and with stochastic depth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lrbs_core.draws import Drawing

__all__ = ["resnet", "stochastic_resnet"]

# p_L in the experiments of Huang et al. 2016 (arXiv 1603.09382).
LAST_SURVIVAL = 0.5


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _convolution(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = _convolution(outputs, outputs), nn.BatchNorm2d(outputs)
        self.stride, self.more_channels = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.branch(x) + self.shortcut(x))

    def branch(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return out

    def shortcut(self, x: Tensor) -> Tensor:
        if not self.more_channels:
            return x
        # Option A of the paper: a shortcut without parameters, new channels being zero.
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more_channels))


class _WithZeroGradients(torch.autograd.Function):
    """The first argument as it is; the others, on which it does not depend, get gradients of zero instead of none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, ...]:
        return slope, *map(torch.zeros_like, ctx.saved_tensors)


class _StochasticBlock(_Block, Drawing):
    """A block whose branch survives with probability `survival` in training, and is scaled by it in evaluation."""

    def __init__(self, inputs: int, outputs: int, stride: int, survival: float) -> None:
        super().__init__(inputs, outputs, stride)
        self.survival = survival

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return functional.relu(self.survival * self.branch(x) + self.shortcut(x))
        if self.draws.survives(self.layer, self.survival):
            return super().forward(x)
        # Without gradients, torch's SGD would skip the block, and its fused kernel fails where only some have velocity.
        straight: Tensor = _WithZeroGradients.apply(self.shortcut(x), *self.parameters())
        return functional.relu(straight)


def _network(classes: int, channels: int, depth: int, stochastic: bool) -> nn.Module:
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth = 6n + 2 must hold for a CIFAR ResNet, but got depth={depth}")
    layers: list[nn.Module] = [_convolution(channels, 16), nn.BatchNorm2d(16), nn.ReLU()]
    inputs, blocks, number = 16, (depth - 2) // 2, 0
    for outputs, first_stride in ((16, 1), (32, 2), (64, 2)):
        for block in range(blocks // 3):
            stride, number = first_stride if block == 0 else 1, number + 1
            if stochastic:
                survival = 1 - number / blocks * (1 - LAST_SURVIVAL)
                layers.append(_StochasticBlock(inputs, outputs, stride, survival))
            else:
                layers.append(_Block(inputs, outputs, stride))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def resnet(classes: int, channels: int, image_size: int, depth: int) -> nn.Module:
    """A ResNet of `depth` = 6n + 2 layers: widths 16, 32, 64, n blocks each. Raises ValueError for another depth."""
    return _network(classes, channels, depth, stochastic=False)


def stochastic_resnet(classes: int, channels: int, image_size: int, depth: int) -> nn.Module:
    """The same ResNet with stochastic depth: Huang et al. 2016 (arXiv 1603.09382), equations 2 to 5.

    Block l of L = 3n survives with probability p_l = 1 - l/L (1 - p_L), p_L = 0.5 (equation 4). In training a block
    that does not is ReLU(shortcut(x)): its branch costs nothing, its batch-norm statistics stay, and its gradients are
    zero, so that velocity and weight decay go on, as in the authors' code. In evaluation every block is
    ReLU(p_l branch(x) + shortcut(x)) (equation 5). A block draws once an update, as in the paper, however that is cut
    into micro-batches (`lrbs_core.draws`, which training sets up). The authors' shortcuts average pixels where these
    take every second one. Raises ValueError for a depth other than 6n + 2.

    >>> model = stochastic_resnet(classes=10, channels=3, image_size=32, depth=20)
    >>> [round(layer.survival, 2) for layer in model if isinstance(layer, _StochasticBlock)]
    [0.94, 0.89, 0.83, 0.78, 0.72, 0.67, 0.61, 0.56, 0.5]
    """
    return _network(classes, channels, depth, stochastic=True)
