"""Caffe's CIFAR-10 example networks, as in its examples/cifar10 (cifar10_quick, cifar10_full, the latter's sigmoid).

`caffe_full` is the net of L. N. Smith's CIFAR-10 experiments (arXiv 1506.01186, section 4.1).
They expect images of 0..255 less the mean image (normalization="mean_image"), which their initial weights are made for.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["caffe_full", "caffe_quick", "caffe_sigmoid_bn"]


class WithinChannelNorm(nn.Module):
    """x (1 + alpha mean(x^2))^-beta, the mean over a size x size window of the same channel, zeros beyond the edge.

    Caffe's LRN layer with norm_region WITHIN_CHANNEL; torch's LocalResponseNorm goes across channels.
    """

    def __init__(self, size: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        # Under autocast: in bfloat16, 1 + alpha mean(x^2) would keep two digits.
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        mean_square = functional.avg_pool2d(x * x, self.size, stride=1, padding=self.size // 2)
        return x * (1 + self.alpha * mean_square) ** -self.beta


def _convolution(inputs: int, outputs: int, std: float) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel_size=5, padding=2)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def _linear(inputs: int, outputs: int, std: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels)
    nn.init.constant_(layer.bias, 0.001)
    return layer


def _max_pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


def _average_pool() -> nn.AvgPool2d:
    return nn.AvgPool2d(3, stride=2, ceil_mode=True)


def _flat_features(image_size: int, channels: int) -> int:
    side = image_size
    for _ in range(3):
        side = -(-(side - 3) // 2) + 1
    if side < 1:
        raise ValueError(f"image size >= 8 must hold for Caffe's nets, but got {image_size}")
    return side * side * channels


class _Caffe(nn.Sequential):
    """Layers in order, and the factors on lr and weight decay that Caffe's files give to parameters."""

    factors: dict[str, tuple[float, float]]


def caffe_quick(classes: int, channels: int, image_size: int) -> nn.Module:
    """cifar10_quick: three 5x5 convolutions and two linear layers; biases learn at twice the rate."""
    features = _flat_features(image_size, 64)
    model = _Caffe(
        _convolution(channels, 32, 1e-4), _max_pool(), nn.ReLU(),
        _convolution(32, 32, 0.01), nn.ReLU(), _average_pool(),
        _convolution(32, 64, 0.01), nn.ReLU(), _average_pool(),
        nn.Flatten(), _linear(features, 64, 0.1), _linear(64, classes, 0.1),
    )  # fmt: skip
    model.factors = {name: (2.0, 1.0) for name, _ in model.named_parameters() if name.endswith("bias")}
    return model


def caffe_full(classes: int, channels: int, image_size: int) -> nn.Module:
    """cifar10_full: three 5x5 convolutions with response norms and a linear layer with 250 times the weight decay."""
    features = _flat_features(image_size, 64)
    model = _Caffe(
        _convolution(channels, 32, 1e-4), _max_pool(), nn.ReLU(), WithinChannelNorm(3, 5e-5, 0.75),
        _convolution(32, 32, 0.01), nn.ReLU(), _average_pool(), WithinChannelNorm(3, 5e-5, 0.75),
        _convolution(32, 64, 0.01), nn.ReLU(), _average_pool(),
        nn.Flatten(), _linear(features, classes, 0.01),
    )  # fmt: skip
    # The two first convolutions' biases at twice the rate; the linear layer's bias too, and without decay.
    model.factors = {"0.bias": (2.0, 1.0), "4.bias": (2.0, 1.0), "12.weight": (1.0, 250.0), "12.bias": (2.0, 0.0)}
    return model


def caffe_sigmoid_bn(classes: int, channels: int, image_size: int) -> nn.Module:
    """cifar10_full_sigmoid_bn: `caffe_full` with batch norm and sigmoids for ReLUs and response norms.

    Smith's sigmoid experiment (same paper, section 4.1). As in the file: batch norm before a sigmoid, its scale 1 and
    shift 0.001 at first, neither decayed; the linear layer's bias at a fifth of the rate.
    """
    features = _flat_features(image_size, 64)
    model = _Caffe(
        _convolution(channels, 32, 1e-4), _max_pool(), _batch_norm(32), nn.Sigmoid(),
        _convolution(32, 32, 0.01), _batch_norm(32), nn.Sigmoid(), _average_pool(),
        _convolution(32, 64, 0.01), _batch_norm(64), nn.Sigmoid(), _average_pool(),
        nn.Flatten(), _linear(features, classes, 0.01),
    )  # fmt: skip
    model.factors = {"0.bias": (2.0, 1.0), "4.bias": (2.0, 1.0), "13.weight": (1.0, 250.0), "13.bias": (0.2, 0.0)}
    model.factors |= {f"{layer}.{name}": (1.0, 0.0) for layer in (2, 5, 9) for name in ("weight", "bias")}
    return model
