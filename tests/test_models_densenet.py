"""DenseNets for small images: sizes as published, a layer against a hand-made one, and clear refusals."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from lrbs_core.models import build


def made(name, classes=10, channels=3, image_size=32):
    return build(name, classes, channels, image_size, ghost_size=4)


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def by_hand(n, k, classes):
    """Huang et al. 2017: norms of 2 parameters a channel and convolutions without bias, over a growing width."""
    total, width = 27 * 16, 16
    for block in range(3):
        if block:
            total += 2 * width + width**2
        for _ in range(n):
            total += 2 * width + 9 * width * k
            width += k
    return total + 2 * width + width * classes + classes


@pytest.mark.parametrize(
    ("name", "classes", "published", "count"),
    [
        # In millions, their Table 2; the exact ones are also what Keras and PyTorch ports of these nets report.
        ("densenet_40_12", 10, 1.0, 1_019_722),
        ("densenet_40_12", 100, 1.0, 1_060_132),
        ("densenet_100_12", 10, 7.0, 6_979_642),
        ("densenet_100_24", 10, 27.2, 27_249_082),
    ],
)
def test_parameters_are_as_many_as_published_and_as_counted_by_hand(name, classes, published, count):
    _, depth, growth = name.split("_")
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in made(name, classes).parameters()) == count
    assert by_hand((int(depth) - 4) // 3, int(growth), classes) == count
    # 1.06 million for CIFAR-100: the table has one number for all datasets.
    assert abs(count / 1e6 - published) < 0.1


@pytest.mark.parametrize(("name", "layers"), [("densenet_40_12", 40), ("densenet_22_4", 22), ("densenet_7_1", 7)])
def test_the_depth_in_a_name_is_the_number_of_layers(name, layers):
    kinds = [type(module) for module in made(name).modules()]
    assert kinds.count(nn.Conv2d) + kinds.count(nn.Linear) == layers


def test_three_blocks_widen_at_sides_32_16_and_8_and_transitions_keep_the_width():
    x, shapes = torch.randn(2, 3, 32, 32), []
    for layer in made("densenet_40_12").eval():
        x = layer(x)
        if not isinstance(layer, nn.BatchNorm2d | nn.ReLU):
            shapes.append(tuple(x.shape[1:]))
    dense = [[(16 + 12 * (12 * block + layer), side, side) for layer in range(1, 13)]
             for block, side in enumerate((32, 16, 8))]  # fmt: skip
    expected = [(16, 32, 32), *dense[0], (160, 32, 32), (160, 16, 16), *dense[1], (304, 16, 16), (304, 8, 8), *dense[2]]
    assert shapes == [*expected, (448, 1, 1), (448,), (10,)]


def test_a_layer_passes_its_input_on_and_appends_the_convolution_of_the_activated_norm():
    layer = made("densenet_40_12")[1].eval()
    x = torch.randn(2, 16, 8, 8)
    out = layer(x)
    assert torch.equal(out[:, :16], x)
    new = functional.conv2d(x.clamp(min=0) / math.sqrt(1 + 1e-5), layer.conv.weight, padding=1)
    torch.testing.assert_close(out[:, 16:], new)


def test_weights_start_as_in_the_authors_code():
    model = made("densenet_40_12")
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            outputs, _, side, _ = module.weight.shape
            bound = 4 / math.sqrt(2 * module.weight.numel())
            assert float(module.weight.detach().std()) == pytest.approx(math.sqrt(2 / (side**2 * outputs)), rel=bound)
            assert module.bias is None
    assert not model[-1].bias.any()


@pytest.mark.parametrize("shape", [(100, 3, 32), (10, 1, 8), (2, 1, 4)], ids=["cifar100", "digits", "smallest"])
def test_logits_come_out_for_every_dataset_and_every_parameter_learns(shape):
    classes, channels, size = shape
    model = made("densenet_13_4", *shape)
    logits = model(torch.randn(8, channels, size, size).to(memory_format=torch.channels_last))
    assert logits.shape == (8, classes)
    functional.cross_entropy(logits, torch.arange(8) % classes).backward()
    assert all(parameter.grad.any() for parameter in model.parameters())


def test_a_seed_gives_the_same_weights_and_another_seed_others():
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(torch.cat([parameter.flatten() for parameter in made("densenet_13_4").parameters()]))
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        (
            "densenet_41_12",
            32,
            r"depth = 3n \+ 4 and growth >= 1 must hold for a DenseNet, but got depth=41, growth=12",
        ),
        ("densenet_4_12", 32, r"depth = 3n \+ 4 .* got depth=4, growth=12"),
        ("densenet_40_0", 32, "growth >= 1 must hold for a DenseNet, but got depth=40, growth=0"),
        ("densenet_40_12", 3, "image size >= 4 must hold for a DenseNet, but got 3"),
        ("densenet_40", 32, r"model must be one of .*, densenet_\{depth\}_\{growth\}, .* but got 'densenet_40'"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_rule(name, size, message):
    with pytest.raises(ValueError, match=message):
        made(name, image_size=size)
