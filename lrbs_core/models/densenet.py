"""Densely connected networks for small images: Huang et al. 2017 (arXiv 1608.06993), section 4.2."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["densenet"]


def _convolution(inputs: int, outputs: int, kernel_size: int = 3) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


class _Layer(nn.Module):
    """x and, as more channels, what norm, ReLU and a 3x3 convolution make of it."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), _convolution(inputs, growth)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(functional.relu(self.norm(x)))], 1)


def densenet(classes: int, channels: int, image_size: int, depth: int, growth: int) -> nn.Module:
    """A basic DenseNet of `depth` = 3n + 4 layers: no bottleneck, no compression, three blocks of n layers.

    Each layer adds `growth` channels to the 16 of the first convolution. Between blocks: norm, ReLU, a 1x1 convolution
    that keeps the channels, 2x2 average pooling. The paper's dropout of 0.2, which it has only for data without
    augmentation, is left out. Initial weights as in the authors' code. Raises ValueError for another depth, for no
    growth and for images below 4 pixels.

    >>> sum(p.numel() for p in densenet(classes=10, channels=3, image_size=32, depth=40, growth=12).parameters())
    1019722
    """
    if depth < 7 or (depth - 4) % 3 or growth < 1:
        raise ValueError(
            f"depth = 3n + 4 and growth >= 1 must hold for a DenseNet, but got depth={depth}, growth={growth}"
        )
    if image_size < 4:
        raise ValueError(f"image size >= 4 must hold for a DenseNet, but got {image_size}")
    layers: list[nn.Module] = [_convolution(channels, 16)]
    inputs = 16
    for block in range(3):
        if block:
            layers += [nn.BatchNorm2d(inputs), nn.ReLU(), _convolution(inputs, inputs, 1), nn.AvgPool2d(2)]
        for _ in range((depth - 4) // 3):
            layers.append(_Layer(inputs, growth))
            inputs += growth
    head = [nn.BatchNorm2d(inputs), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    nn.init.zeros_(head[-1].bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers, *head)
