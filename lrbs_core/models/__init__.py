"""The networks by name. A new one is a function in a file of this folder and one line in `FAMILIES`."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import nn

from lrbs_core.models.caffe import caffe_full, caffe_quick, caffe_sigmoid_bn
from lrbs_core.models.densenet import densenet
from lrbs_core.models.imagenet import (
    alexnet,
    alexnet_bn,
    densenet121,
    googlenet,
    imagenet_resnet50,
    inception_resnet_v2,
    vgg16,
)
from lrbs_core.models.resnet import resnet, stochastic_resnet
from lrbs_core.models.small import convnet, mlp
from lrbs_core.models.wide_resnet import wide_resnet
from lrbs_core.norm import has_batch_norm, use_ghost_batches

__all__ = ["FAMILIES", "build", "parameter_factors"]

# A pattern of names, the same for people, and what builds it of (classes, channels, image size, numbers in the name).
FAMILIES: tuple[tuple[str, str, Callable[..., nn.Module]], ...] = (
    (r"caffe_quick", "caffe_quick", caffe_quick),
    (r"caffe_full", "caffe_full", caffe_full),
    (r"caffe_sigmoid_bn", "caffe_sigmoid_bn", caffe_sigmoid_bn),
    (r"resnet(\d+)", "resnet{8,20,32,44,56,110}", resnet),
    (r"resnet(\d+)_stochastic", "resnet{depth}_stochastic", stochastic_resnet),
    (r"wrn_(\d+)_(\d+)", "wrn_{depth}_{width}", wide_resnet),
    (r"densenet_(\d+)_(\d+)", "densenet_{depth}_{growth}", densenet),
    (r"mlp", "mlp", mlp),
    (r"convnet", "convnet", convnet),
    (r"alexnet", "alexnet", alexnet),
    (r"alexnet_bn", "alexnet_bn", alexnet_bn),
    (r"googlenet", "googlenet", googlenet),
    (r"vgg16", "vgg16", vgg16),
    (r"imagenet_resnet50", "imagenet_resnet50", imagenet_resnet50),
    (r"densenet121", "densenet121", densenet121),
    (r"inception_resnet_v2", "inception_resnet_v2", inception_resnet_v2),
)


def build(name: str, classes: int, channels: int, image_size: int, ghost_size: int | None) -> nn.Module:
    """The network `name` for images [n, channels, image_size, image_size], with ghost batch norm if it has batch norm.

    Weights are drawn from torch's global generator. Raises ValueError for an unknown name, a depth that the family
    does not have, and a ghost size where there is no batch norm or none where there is.

    >>> sum(p.numel() for p in build("resnet20", classes=10, channels=3, image_size=32, ghost_size=128).parameters())
    269722
    """
    for pattern, _, family in FAMILIES:
        if match := re.fullmatch(pattern, name, re.ASCII):
            model = family(classes, channels, image_size, *map(int, match.groups()))
            break
    else:
        raise ValueError(f"model must be one of {', '.join(text for _, text, _ in FAMILIES)}, but got {name!r}")
    if has_batch_norm(model) != (ghost_size is not None):
        rule = "needs a ghost_size" if ghost_size is None else "has no batch norm, so ghost_size must be None"
        raise ValueError(f"model {name} {rule}, but got ghost_size={ghost_size}")
    if ghost_size is not None:
        use_ghost_batches(model, ghost_size)
    return model


def parameter_factors(model: nn.Module) -> dict[str, tuple[float, float]]:
    """The factors on lr and weight decay of each parameter by name: 1 unless the network has others."""
    own: dict[str, tuple[float, float]] = getattr(model, "factors", {})
    return {name: own.get(name, (1.0, 1.0)) for name, _ in model.named_parameters()}
