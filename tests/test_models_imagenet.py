"""The ImageNet networks: sizes as published, the libraries' own networks as oracles, and clear refusals."""

import subprocess
import sys
from itertools import pairwise

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional

from lrbs_core.models import build
from lrbs_core.norm import GhostBatchNorm

# Parameters for 1000 classes: torchvision's table of weights (num_params), for Inception-ResNet-v2 imgclsmob's; for
# AlexNet-BN AlexNet's, less a bias and plus a norm's scale and shift for each of 64 + 192 + 384 + 256 + 256 channels.
# The smallest images: torchvision's min_size, but for the last two, which were tried.
NETWORKS = {
    "alexnet": (61_100_840, 63),
    "googlenet": (6_624_904, 15),
    "vgg16": (138_357_544, 32),
    "densenet121": (7_978_856, 29),
    "imagenet_resnet50": (25_557_032, 1),
    "alexnet_bn": (61_100_840 + 1152, 63),
    "inception_resnet_v2": (55_843_464, 75),
}
GHOSTLESS = ("alexnet", "vgg16")
HEAVY = ("vgg16", "inception_resnet_v2")
BY_COST = [pytest.param(name, marks=[pytest.mark.slow] * (name in HEAVY)) for name in NETWORKS]


def made(name, classes=10, channels=3, image_size=224, ghost_size=2):
    return build(name, classes, channels, image_size, None if name in GHOSTLESS else ghost_size)


def undropped(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.mark.parametrize(("name", "count"), [(name, count) for name, (count, _) in NETWORKS.items()])
def test_parameters_are_as_many_as_published(name, count):
    with torch.device("meta"):
        model = made(name, classes=1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert all(tensor.is_meta for tensor in model.state_dict().values())


@pytest.mark.parametrize(("name", "smallest"), [(name, smallest) for name, (_, smallest) in NETWORKS.items()])
def test_the_smallest_image_is_the_smallest_that_goes_through(name, smallest):
    with torch.device("meta"):
        model = made(name, image_size=smallest)
        assert model(torch.empty(4, 3, smallest, smallest)).shape == (4, 10)
        if smallest > 1:
            with pytest.raises(RuntimeError):
                model(torch.empty(4, 3, smallest - 1, smallest - 1))
            with pytest.raises(ValueError, match=f"image size >= {smallest} must hold for {name}, but got .* size=7"):
                made(name, image_size=7)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_image_of_one_channel_is_refused(name):
    with pytest.raises(
        ValueError, match=f"channels = 3 and .* must hold for {name}, but got channels=1, image size=224"
    ):
        made(name, channels=1)


@pytest.mark.parametrize("name", BY_COST)
def test_every_parameter_learns_from_a_batch_of_small_images(name):
    size = max(NETWORKS[name][1], 16)
    model = made(name, image_size=size).to(memory_format=torch.channels_last)
    loss = functional.cross_entropy(model(torch.randn(4, 3, size, size)), torch.arange(4))
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", BY_COST)
def test_a_seed_gives_the_same_weights(name):
    states = []
    for _ in range(2):
        torch.manual_seed(1)
        states.append(made(name).state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert any(value.dim() > 1 and value.std() > 0 for value in states[0].values())


@pytest.mark.parametrize(
    ("name", "library", "norms"),
    [
        # One after each convolution; DenseNet's 120 come before all but the first, with one there and one at the end.
        ("googlenet", lambda: torchvision.models.googlenet(num_classes=10, aux_logits=False, init_weights=True), 57),
        ("imagenet_resnet50", lambda: torchvision.models.resnet50(num_classes=10), 53),
        ("densenet121", lambda: torchvision.models.densenet121(num_classes=10), 121),
        ("inception_resnet_v2", lambda: timm.create_model("inception_resnet_v2", num_classes=10), 204),
    ],
)
def test_it_is_the_librarys_network_but_for_ghost_batches(name, library, norms):
    # Weights go over by order: a norm that timm joins with its activation has another name once it is a ghost's.
    theirs, ours = undropped(library()), undropped(made(name, ghost_size=4))
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    ghosts = [module for module in ours.modules() if isinstance(module, GhostBatchNorm)]
    batch_norms = [module for module in theirs.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(ghosts) == len(batch_norms) == norms
    assert sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in ours.modules()) == norms
    assert [(ghost.eps, ghost.momentum) for ghost in ghosts] == [(norm.eps, norm.momentum) for norm in batch_norms]
    x = torch.randn(4, 3, 96, 96)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_alexnet_bn_has_a_norm_after_each_convolution_and_no_bias_there():
    layers = list(made("alexnet_bn").features)
    plain = list(made("alexnet").features)
    assert [type(layer) for layer in layers if not isinstance(layer, GhostBatchNorm)] == [
        type(layer) for layer in plain
    ]
    after = [type(following) for layer, following in pairwise(layers) if isinstance(layer, nn.Conv2d)]
    assert after == [GhostBatchNorm] * 5
    assert [layer.bias for layer in layers if isinstance(layer, nn.Conv2d)] == [None] * 5


def test_the_resnet50_starts_as_goyal_et_al_have_it():
    model = made("imagenet_resnet50", classes=1000)
    zero = [name for name, parameter in model.named_parameters() if name.endswith("weight") and not parameter.any()]
    assert zero == [f"layer{stage}.{block}.bn3.weight" for stage, n in enumerate((3, 4, 6, 3), 1) for block in range(n)]
    assert float(model.fc.weight.detach().std()) == pytest.approx(0.01, rel=0.01)
    assert not model.fc.bias.any()


def test_dropout_is_the_papers():
    with torch.device("meta"):
        rates = {name: [m.p for m in made(name).modules() if isinstance(m, nn.Dropout)] for name in NETWORKS}
    assert rates == {"alexnet": [0.5, 0.5], "alexnet_bn": [0.5, 0.5], "vgg16": [0.5, 0.5], "googlenet": [0.2],
                     "inception_resnet_v2": [0.2], "imagenet_resnet50": [], "densenet121": []}  # fmt: skip


def test_without_timm_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"inception_resnet_v2 needs timm, but .* pip install 'lrbs\[imagenet\]'$"):
        made("inception_resnet_v2")


def test_another_network_imports_neither_library():
    program = """
import sys
from lrbs_core.models import build
build("resnet8", 10, 3, 32, 4)
print({"torchvision", "timm"} & sys.modules.keys())
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout == "set()\n", result.stderr
