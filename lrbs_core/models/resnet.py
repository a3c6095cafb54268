"""Residual networks for small images: He et al. 2015 (arXiv 1512.03385), section 4.2."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["resnet"]


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
        out = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        if self.more_channels:
            # Option A of the paper: a shortcut without parameters, new channels being zero.
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more_channels))
        return functional.relu(out + x)


def resnet(classes: int, channels: int, image_size: int, depth: int) -> nn.Module:
    """A ResNet of `depth` = 6n + 2 layers: widths 16, 32, 64, n blocks each. Raises ValueError for another depth."""
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth = 6n + 2 must hold for a CIFAR ResNet, but got depth={depth}")
    layers: list[nn.Module] = [_convolution(channels, 16), nn.BatchNorm2d(16), nn.ReLU()]
    inputs = 16
    for outputs, first_stride in ((16, 1), (32, 2), (64, 2)):
        for block in range((depth - 2) // 6):
            layers.append(_Block(inputs, outputs, first_stride if block == 0 else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))
