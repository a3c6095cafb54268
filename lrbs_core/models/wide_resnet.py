"""Wide residual networks: Zagoruyko and Komodakis 2016 (arXiv 1605.07146), without dropout."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["wide_resnet"]


def _convolution(inputs: int, outputs: int, kernel_size: int = 3, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
    return layer


class _Block(nn.Module):
    """Norm, ReLU, convolution, twice; a 1x1 convolution on the activated input where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), _convolution(inputs, outputs, stride=stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), _convolution(outputs, outputs)
        self.shortcut = None if inputs == outputs else _convolution(inputs, outputs, kernel_size=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        active = functional.relu(self.norm1(x))
        out: Tensor = self.conv2(functional.relu(self.norm2(self.conv1(active))))
        straight: Tensor = x if self.shortcut is None else self.shortcut(active)
        return straight + out


def wide_resnet(classes: int, channels: int, image_size: int, depth: int, width: int) -> nn.Module:
    """WRN-depth-width, depth = 6n + 4: widths 16k, 32k, 64k, n blocks each. Raises ValueError for another depth."""
    if depth < 10 or (depth - 4) % 6 or width < 1:
        raise ValueError(
            f"depth = 6n + 4 and width >= 1 must hold for a wide ResNet, but got depth={depth}, width={width}"
        )
    layers: list[nn.Module] = [_convolution(channels, 16)]
    inputs = 16
    for outputs, first_stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
        for block in range((depth - 4) // 6):
            layers.append(_Block(inputs, outputs, first_stride if block == 0 else 1))
            inputs = outputs
    head = [nn.BatchNorm2d(inputs), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    nn.init.zeros_(head[-1].bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers, *head)
