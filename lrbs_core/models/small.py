"""Small networks for small images, such as the digits: seconds on a laptop."""

from __future__ import annotations

from torch import nn

__all__ = ["convnet", "mlp"]


def mlp(classes: int, channels: int, image_size: int) -> nn.Module:
    """One hidden layer of 128 ReLU units."""
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size**2, 128), nn.ReLU(), nn.Linear(128, classes))


def convnet(classes: int, channels: int, image_size: int) -> nn.Module:
    """Two 3x3 convolutions of 16 and 32 channels with batch norm, the image halved between, and one linear layer."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes),
    )  # fmt: skip
