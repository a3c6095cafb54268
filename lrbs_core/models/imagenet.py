"""The networks of the papers' ImageNet runs, as torchvision and timm build them, untrained.

They take 3 channels and images of any size from their smallest up; the papers' crops have 224 pixels a side, but 227 in
Caffe's AlexNet and 299 for Inception-ResNet-v2. All raise ValueError for other channels and smaller images. Initial
weights are the libraries' own unless a docstring says otherwise. torchvision takes more than a second to import and
timm need not be there, so each is imported when a network asks for it.
"""

from __future__ import annotations

from torch import nn

__all__ = [
    "alexnet",
    "alexnet_bn",
    "densenet121",
    "googlenet",
    "imagenet_resnet50",
    "inception_resnet_v2",
    "vgg16",
]


def _require(model: str, channels: int, image_size: int, smallest: int = 1) -> None:
    if channels != 3 or image_size < smallest:
        raise ValueError(
            f"channels = 3 and image size >= {smallest} must hold for {model}, "
            f"but got channels={channels}, image size={image_size}"
        )


def alexnet(classes: int, channels: int, image_size: int) -> nn.Module:
    """AlexNet: Krizhevsky 2014 (arXiv 1404.5997), in one tower and without response norms; 61.1 million parameters.

    Caffe's, of the LARS and cyclical papers, has two towers (grouped convolutions) and response norms.
    """
    _require("alexnet", channels, image_size, smallest=63)
    from torchvision import models

    model: nn.Module = models.alexnet(num_classes=classes)
    return model


def alexnet_bn(classes: int, channels: int, image_size: int) -> nn.Module:
    """`alexnet` with batch norm after each convolution, which then needs no bias; dropout stays.

    You et al. 2017 (arXiv 1708.03888), where batch norm takes the response norms' place. So it is, in two towers, in
    one file of an author (nvcaffe, models/alexnet_bn/train_val.prototxt); another has it, without scale and shift,
    after ReLU and pooling.
    """
    _require("alexnet_bn", channels, image_size, smallest=63)
    model = alexnet(classes, channels, image_size)
    layers: list[nn.Module] = []
    for layer in model.features:  # type: ignore[union-attr]
        layers.append(layer)
        if isinstance(layer, nn.Conv2d):
            layer.bias = None
            layers.append(nn.BatchNorm2d(layer.out_channels))
    model.features = nn.Sequential(*layers)
    return model


def googlenet(classes: int, channels: int, image_size: int) -> nn.Module:
    """GoogLeNet without its auxiliary heads: Szegedy et al. 2014 (arXiv 1409.4842); 6.6 million parameters.

    torchvision's has batch norm after each convolution for the paper's two response norms, 3x3 convolutions for its 5x5
    ones and dropout 0.2 for 0.4. It is not quite the net of Smith's cyclical rates, which is Caffe's.
    """
    _require("googlenet", channels, image_size, smallest=15)
    from torchvision import models

    model: nn.Module = models.googlenet(num_classes=classes, aux_logits=False, init_weights=True)
    return model


def vgg16(classes: int, channels: int, image_size: int) -> nn.Module:
    """VGG-16: Simonyan and Zisserman 2014 (arXiv 1409.1556), configuration D; 138 million parameters."""
    _require("vgg16", channels, image_size, smallest=32)
    from torchvision import models

    model: nn.Module = models.vgg16(num_classes=classes)
    return model


def imagenet_resnet50(classes: int, channels: int, image_size: int) -> nn.Module:
    """ResNet-50: He et al. 2015 (arXiv 1512.03385), set up as by Goyal et al. 2017 (arXiv 1706.02677), section 5.1.

    The stride is in the 3x3 convolutions; each block's last batch norm starts with scale 0; the linear layer's weights
    have deviation 0.01, its bias 0. 25.6 million parameters. `resnet50` would be one for CIFAR.
    """
    _require("imagenet_resnet50", channels, image_size)
    from torchvision import models

    model: nn.Module = models.resnet50(num_classes=classes, zero_init_residual=True)
    assert isinstance(model.fc, nn.Linear)
    nn.init.normal_(model.fc.weight, std=0.01)
    nn.init.zeros_(model.fc.bias)
    return model


def densenet121(classes: int, channels: int, image_size: int) -> nn.Module:
    """DenseNet-121: Huang et al. 2017 (arXiv 1608.06993), Table 1; 8.0 million parameters."""
    _require("densenet121", channels, image_size, smallest=29)
    from torchvision import models

    model: nn.Module = models.densenet121(num_classes=classes)
    return model


def inception_resnet_v2(classes: int, channels: int, image_size: int) -> nn.Module:
    """Inception-ResNet-v2: Szegedy et al. 2016 (arXiv 1602.07261), with its dropout of 0.2; 55.8 million parameters.

    Raises ValueError where timm is not installed.
    """
    _require("inception_resnet_v2", channels, image_size, smallest=75)
    try:
        import timm
    except ImportError:
        raise ValueError(
            "model inception_resnet_v2 needs timm, but it is not installed: pip install 'lrbs[imagenet]'"
        ) from None
    model: nn.Module = timm.create_model("inception_resnet_v2", num_classes=classes, drop_rate=0.2)
    return model
