"""Networks: sizes as published, layers against hand-worked ones, and clear refusals."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lrbs_core.models import build, parameter_factors
from lrbs_core.models.caffe import WithinChannelNorm
from lrbs_core.norm import GhostBatchNorm

GHOSTLESS = ("caffe_quick", "caffe_full", "mlp")


def made(name, classes=10, channels=3, image_size=32):
    return build(name, classes, channels, image_size, None if name in GHOSTLESS else 4)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def basic_blocks(count, inputs, outputs):
    """Two 3x3 convolutions a block, each with a norm of 2 parameters a channel."""
    return 9 * inputs * outputs + (2 * count - 1) * 9 * outputs**2 + 2 * count * 2 * outputs


def resnet_by_hand(n):
    """He et al. 2015, section 4.2, shortcuts without parameters: the first layer, three stages, the last layer."""
    return 432 + 32 + basic_blocks(n, 16, 16) + basic_blocks(n, 16, 32) + basic_blocks(n, 32, 64) + 650


def wide_by_hand(n, k):
    """Zagoruyko and Komodakis 2016, Table 1: pre-activation blocks, and a 1x1 convolution where the width changes."""
    total, inputs = 432, 16
    for width in (16 * k, 32 * k, 64 * k):
        # A block's first norm is over its inputs, not its outputs.
        total += basic_blocks(n, inputs, width) - 2 * (width - inputs) + inputs * width
        inputs = width
    return total + 2 * inputs + 10 * inputs + 10


@pytest.mark.parametrize(
    ("name", "published", "count"),
    [
        # He et al. 2015, Table 6, in millions
        ("resnet20", 0.27, resnet_by_hand(3)),
        ("resnet32", 0.46, resnet_by_hand(5)),
        ("resnet44", 0.66, resnet_by_hand(7)),
        ("resnet56", 0.85, resnet_by_hand(9)),
        ("resnet110", 1.7, resnet_by_hand(18)),
        # Zagoruyko and Komodakis 2016, Tables 4 and 5
        ("wrn_40_4", 8.9, wide_by_hand(6, 4)),
        ("wrn_16_8", 11.0, wide_by_hand(2, 8)),
        ("wrn_28_10", 36.5, wide_by_hand(4, 10)),
        # Not in their papers' tables
        ("wrn_16_4", None, wide_by_hand(2, 4)),
        # 5x5 convolutions and linear layers, weights and biases, by hand.
        ("caffe_quick", None, (75 * 32 + 32) + (800 * 32 + 32) + (800 * 64 + 64) + (1024 * 64 + 64) + (64 * 10 + 10)),
        ("caffe_full", None, (75 * 32 + 32) + (800 * 32 + 32) + (800 * 64 + 64) + (1024 * 10 + 10)),
        ("caffe_sigmoid_bn", None, 89_578 + 2 * (32 + 32 + 64)),
        ("mlp", None, (3072 * 128 + 128) + (128 * 10 + 10)),
        ("convnet", None, (27 * 16 + 2 * 16) + (144 * 32 + 2 * 32) + (32 * 10 + 10)),
    ],
)
def test_parameters_are_as_many_as_published_and_as_counted_by_hand(name, published, count):
    with torch.device("meta"):
        assert parameters(made(name)) == count
    assert published in (None, round(count / 1e6, 1 if count > 1e6 else 2))


@pytest.mark.parametrize(("name", "layers"), [("resnet20", 20), ("resnet56", 56), ("wrn_16_4", 16), ("wrn_28_2", 28)])
def test_the_depth_in_a_name_is_the_number_of_layers(name, layers):
    # A wide ResNet's depth, 6n + 4, counts its three 1x1 convolutions but not the linear layer.
    kinds = [type(module) for module in made(name).modules()]
    assert kinds.count(nn.Conv2d) + kinds.count(nn.Linear) * name.startswith("resnet") == layers


@pytest.mark.parametrize("shape", [(10, 3, 32), (100, 3, 32), (10, 1, 8)], ids=["cifar10", "cifar100", "digits"])
@pytest.mark.parametrize(
    "name", ["caffe_quick", "caffe_full", "caffe_sigmoid_bn", "resnet8", "wrn_10_1", "mlp", "convnet"]
)
def test_logits_come_out_for_every_dataset_and_every_parameter_learns(name, shape):
    classes, channels, size = shape
    model = made(name, *shape)
    logits = model(torch.randn(4, channels, size, size).to(memory_format=torch.channels_last))
    assert logits.shape == (4, classes)
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_images_shrink_to_16_8_and_4_in_caffes_pooling():
    for name in ("caffe_quick", "caffe_full"):
        x, sides = torch.randn(1, 3, 32, 32), []
        for layer in made(name):
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
                sides.append(tuple(x.shape[2:]))
        assert sides == [(16, 16), (8, 8), (4, 4)]


def test_caffes_first_pooling_takes_the_maximum_and_the_others_the_mean_of_what_is_inside():
    quick, ramp = made("caffe_quick"), torch.arange(16.0).view(1, 1, 4, 4)
    pools = [layer for layer in quick if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d)]
    # Windows of 3 at 0 and 2; the second has but two rows or columns left, and the mean is over those.
    assert pools[0](ramp).tolist() == [[[[10, 11], [14, 15]]]]
    for pool in pools[1:]:
        assert pool(ramp).tolist() == [[[[5, 6.5], [11, 12.5]]]]


@pytest.mark.parametrize(("name", "sequence"), [
    ("caffe_quick", "conv max relu conv relu avg conv relu avg flatten linear linear"),
    ("caffe_full", "conv max relu norm conv relu avg norm conv relu avg flatten linear"),
    ("caffe_sigmoid_bn", "conv max ghost sigmoid conv ghost sigmoid avg conv ghost sigmoid avg flatten linear"),
    ("convnet", "conv ghost relu max conv ghost relu mean flatten linear"),
    ("mlp", "flatten linear relu linear"),
])  # fmt: skip
def test_layers_come_in_the_order_of_caffes_files_and_of_the_docstrings(name, sequence):
    kinds = {nn.Conv2d: "conv", nn.MaxPool2d: "max", nn.AvgPool2d: "avg", nn.ReLU: "relu", nn.Linear: "linear",
             nn.AdaptiveAvgPool2d: "mean", nn.Flatten: "flatten", WithinChannelNorm: "norm", GhostBatchNorm: "ghost",
             nn.Sigmoid: "sigmoid"}  # fmt: skip
    layers = list(made(name))
    assert " ".join(kinds[type(layer)] for layer in layers) == sequence
    norms = [(layer.size, layer.alpha, layer.beta) for layer in layers if isinstance(layer, WithinChannelNorm)]
    assert norms == [(3, 5e-5, 0.75)] * sequence.count("norm")


# The files' "gaussian" fillers; biases are "constant" 0, but for the shift of a norm.
FILLERS = {"caffe_quick": [1e-4, 0.01, 0.01, 0.1, 0.1], "caffe_full": [1e-4, 0.01, 0.01, 0.01]}


@pytest.mark.parametrize(("name", "deviations"), [*FILLERS.items(), ("caffe_sigmoid_bn", FILLERS["caffe_full"])])
def test_caffes_weights_start_as_its_files_say(name, deviations):
    layers = [layer for layer in made(name) if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer, deviation in zip(layers, deviations, strict=True):
        weight = layer.weight.detach()
        # The deviation of n draws has a relative error of (2n)^-1/2; four of those.
        assert float(weight.std()) == pytest.approx(deviation, rel=4 / math.sqrt(2 * weight.numel()))
        assert abs(weight).max() > 2.5 * deviation  # a uniform distribution would end at 1.73
        assert not layer.bias.any()


@pytest.mark.parametrize(("name", "fan"), [("resnet20", 0), ("wrn_10_4", 1)], ids=["fan out", "fan in"])
def test_convolutions_of_residual_networks_start_with_hes_deviation(name, fan):
    for module in made(name).modules():
        if isinstance(module, nn.Conv2d):
            size = module.weight.shape[fan] * module.weight[0, 0].numel()
            bound = 4 / math.sqrt(2 * module.weight.numel())
            assert float(module.weight.detach().std()) == pytest.approx(math.sqrt(2 / size), rel=bound)


def test_caffes_biases_and_linear_layers_have_the_factors_of_its_files():
    # (lr_mult, decay_mult); the third convolution of cifar10_full has none, and so 1 and 1.
    one, twice, none = (1.0, 1.0), (2.0, 1.0), (1.0, 0.0)
    full = {"0.weight": one, "0.bias": twice, "4.weight": one, "4.bias": twice, "8.weight": one, "8.bias": one}
    assert parameter_factors(made("caffe_full")) == full | {"12.weight": (1.0, 250.0), "12.bias": (2.0, 0.0)}
    norms = {f"{layer}.{name}": none for layer in (2, 5, 9) for name in ("weight", "bias")}
    linear = {"13.weight": (1.0, 250.0), "13.bias": (0.2, 0.0)}
    assert parameter_factors(made("caffe_sigmoid_bn")) == full | norms | linear
    quick = parameter_factors(made("caffe_quick"))
    assert quick == {name: twice if name.endswith("bias") else one for name in quick}
    assert (len(quick), set(parameter_factors(made("resnet8")).values())) == (10, {one})
    shifts = [layer.bias for layer in made("caffe_sigmoid_bn") if isinstance(layer, GhostBatchNorm)]
    assert all(torch.equal(shift, torch.full_like(shift, 0.001)) for shift in shifts)


@pytest.mark.parametrize(("size", "alpha", "beta"), [(3, 5e-5, 0.75), (3, 2.0, 0.75), (5, 1.0, 0.5)])
def test_response_norm_within_a_channel_equals_a_loop_over_windows(size, alpha, beta):
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 7))
    expected, reach = np.empty_like(x), size // 2
    for n, c, i, j in np.ndindex(x.shape):
        window = x[n, c, max(0, i - reach) : i + reach + 1, max(0, j - reach) : j + reach + 1]
        expected[n, c, i, j] = x[n, c, i, j] * (1 + alpha / size**2 * (window**2).sum()) ** -beta
    np.testing.assert_allclose(WithinChannelNorm(size, alpha, beta)(torch.tensor(x)), expected, rtol=1e-12)


def silent(block):
    """The block with nothing but its shortcut."""
    nn.init.zeros_(block.conv2.weight)
    return block.eval()


def test_a_resnets_shortcut_takes_every_second_pixel_and_adds_channels_of_zeros():
    blocks = [module for module in made("resnet8") if hasattr(module, "conv2")]
    x = torch.rand(2, 16, 8, 8)  # not negative, so that the last ReLU changes nothing
    assert torch.equal(silent(blocks[0])(x), x)
    assert torch.equal(silent(blocks[1])(x), torch.cat([x[:, :, ::2, ::2], torch.zeros(2, 16, 4, 4)], 1))
    assert silent(blocks[2])(torch.rand(2, 32, 8, 8)).shape == (2, 64, 4, 4)
    assert not silent(blocks[0])(-x).any()  # ReLU after the sum


def test_a_wide_resnets_shortcut_is_the_input_or_a_1x1_convolution_of_the_activated_input():
    blocks = [module for module in made("wrn_16_2") if hasattr(module, "conv2")]
    x = torch.randn(2, 16, 8, 8)
    first = silent(blocks[0])
    torch.testing.assert_close(first(x), first.shortcut(x.clamp(min=0) / math.sqrt(1 + 1e-5)))
    y = torch.randn(2, 32, 8, 8)
    assert torch.equal(silent(blocks[1])(y), y)
    assert silent(blocks[2])(y).shape == (2, 64, 4, 4)


def test_every_batch_norm_is_over_ghost_batches_of_the_given_size():
    for name, norms in (("convnet", 2), ("resnet20", 19), ("wrn_16_4", 13)):
        model = build(name, 10, 3, 32, ghost_size=16)
        found = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        assert len(found) == norms
        assert all(isinstance(norm, GhostBatchNorm) and norm.ghost_size == 16 for norm in found)


@pytest.mark.parametrize("name", ["resnet8", "wrn_10_1", "caffe_full", "mlp", "convnet"])
def test_a_seed_gives_the_same_weights_and_another_seed_others(name):
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(torch.cat([parameter.flatten() for parameter in made(name).parameters()]))
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])


@pytest.mark.parametrize(
    ("name", "ghost_size", "size", "message"),
    [
        ("lenet", None, 32, r"model must be one of caffe_quick, .*, resnet\{8,20,.*, convnet, .* but got 'lenet'"),
        ("resnet", 4, 32, "model must be one of .* but got 'resnet'"),
        ("my_mlp", None, 32, "model must be one of .* but got 'my_mlp'"),
        ("mlp2", None, 32, "model must be one of .* but got 'mlp2'"),
        ("resnet18", 4, 32, r"depth = 6n \+ 2 must hold for a CIFAR ResNet, but got depth=18"),
        ("resnet2", 4, 32, r"depth = 6n \+ 2 must hold for a CIFAR ResNet, but got depth=2"),
        ("wrn_18_4", 4, 32, r"depth = 6n \+ 4 and width >= 1 must hold .* got depth=18, width=4"),
        ("wrn_4_4", 4, 32, r"depth = 6n \+ 4 .* got depth=4, width=4"),
        ("wrn_16_0", 4, 32, r"width >= 1 must hold .* got depth=16, width=0"),
        ("resnet20", None, 32, "model resnet20 needs a ghost_size, but got ghost_size=None"),
        ("mlp", 8, 32, "model mlp has no batch norm, so ghost_size must be None, but got ghost_size=8"),
        ("caffe_full", None, 7, "image size >= 8 must hold for Caffe's nets, but got 7"),
        ("caffe_quick", None, 3, "image size >= 8 must hold for Caffe's nets, but got 3"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_rule(name, ghost_size, size, message):
    with pytest.raises(ValueError, match=message):
        build(name, 10, 3, size, ghost_size)
