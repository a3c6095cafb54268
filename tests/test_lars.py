"""LARS: a case worked by hand from the paper's Algorithm 1, timm's Lars as an oracle, and each rule on its own."""

import io
import math

import pytest
import torch
from timm.optim import Lars
from torch import nn

from lrbs_core.lars import LARS

# float32 on a CPU takes the fused kernel, float64 the calls that a GPU takes.
DTYPES = [torch.float32, torch.float64]
SHAPES = [(8, 3, 3, 3), (16, 8, 1, 1), (4, 16), (1, 1)]


def parameters(shapes, dtype=torch.float32, seed=0):
    random = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)) for shape in shapes]


def set_gradients(members, seed, factor=1.0):
    random = torch.Generator().manual_seed(seed)
    for member in members:
        gradient = torch.randn(member.shape, generator=random, dtype=torch.float64)
        member.grad = torch.empty_like(member).copy_(factor * gradient)


def one(
    weight, gradient, lr=1.0, momentum=0.0, weight_decay=0.0, trust_coefficient=0.1, dtype=torch.float64, **variant
):
    """The weights after an update of lr, and after another one with the same gradient."""
    parameter = nn.Parameter(torch.tensor(weight, dtype=dtype))
    optimizer = LARS([parameter], lr, momentum, weight_decay, trust_coefficient, **variant)
    after = []
    for _ in range(2):
        parameter.grad = torch.tensor(gradient, dtype=dtype)
        optimizer.step()
        after.append(parameter.detach().flatten().tolist())
    return after


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_two_layers_worked_by_hand(dtype):
    # eta 1/4, beta 1/2, m 1/2. Update 1 with lr 2, update 2 with lr 1.
    # a: w = (3, 4), |w| = 5; g = (0, 5/2), |g| = 5/2; lambda = 1/4 * 5 / (5/2 + 1/2 * 5) = 1/4.
    #    g + beta w = (3/2, 9/2); v = 2 * 1/4 * (3/2, 9/2) = (3/4, 9/4); w = (9/4, 7/4).
    # b: w = (12, 5), |w| = 13; g = (6, 5/2), |g| = 13/2; lambda = 1/4 * 13 / (13/2 + 13/2) = 1/4.
    #    g + beta w = (12, 5); v = 2 * 1/4 * (12, 5) = (6, 5/2); w = (6, 5/2).
    a, b = (nn.Parameter(torch.tensor([w], dtype=dtype)) for w in ([3.0, 4.0], [12.0, 5.0]))
    optimizer = LARS([a, b], lr=2.0, momentum=0.5, weight_decay=0.5, trust_coefficient=0.25)
    a.grad, b.grad = (torch.tensor([g], dtype=dtype) for g in ([0.0, 2.5], [6.0, 2.5]))
    optimizer.step()
    torch.testing.assert_close(a.data, torch.tensor([[2.25, 1.75]], dtype=dtype))
    torch.testing.assert_close(b.data, torch.tensor([[6.0, 2.5]], dtype=dtype))
    # a: g = (4, 0): |w| = sqrt(9/4^2 + 7/4^2) = sqrt(130)/4; lambda = 1/4 |w| / (4 + |w|/2).
    #    g + beta w = (41/8, 7/8); v = (3/8, 9/8) + lambda (41/8, 7/8).
    # b: g = (5/2, -6), |w| = |g| = 13/2; lambda = 1/4 * 1 / (1 + 1/2) = 1/6.
    #    g + beta w = (11/2, -19/4); v = (3, 5/4) + 1/6 (11/2, -19/4) = (47/12, 11/24); w = (25/12, 49/24).
    optimizer.param_groups[0]["lr"] = 1.0
    a.grad, b.grad = (torch.tensor([g], dtype=dtype) for g in ([4.0, 0.0], [2.5, -6.0]))
    optimizer.step()
    norm = math.sqrt(130) / 4
    rate = 0.25 * norm / (4 + 0.5 * norm)
    expected = [[2.25 - 3 / 8 - rate * 41 / 8, 1.75 - 9 / 8 - rate * 7 / 8]]
    torch.testing.assert_close(a.data, torch.tensor(expected, dtype=dtype))
    torch.testing.assert_close(b.data, torch.tensor([[25 / 12, 49 / 24]], dtype=dtype))


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_at_constant_lr_it_is_timms_lars_on_layers(dtype, momentum, weight_decay, clip):
    # Between them, these layers and gradients have rates above lr (clipped) and below it.
    lr, eta = 0.02, 0.02
    ours, theirs = parameters(SHAPES, dtype), parameters(SHAPES, dtype)
    optimizers = (
        LARS(ours, lr, momentum, weight_decay, eta, clip=clip),
        Lars(theirs, lr, momentum, 0.0, weight_decay, trust_coeff=eta, eps=0, trust_clip=clip, always_adapt=True),
    )
    for number in range(6):
        for members, optimizer in zip((ours, theirs), optimizers, strict=True):
            set_gradients(members, seed=number, factor=10.0 ** (number % 3 - 1))
            optimizer.step()
        for mine, their in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, their)


def test_norms_of_large_layers_are_exact():
    # 1536^2 weights: summed in float32 one after another, their squares are off by 4e-4.
    parameter = nn.Parameter(torch.full((2048, 1152), 0.1))
    parameter.grad = torch.zeros_like(parameter)
    parameter.grad[0, 0] = -1.0
    LARS([parameter], lr=1.0, momentum=0.0, weight_decay=0.0, trust_coefficient=1 / 1536).step()
    # lambda = 1/1536 * 0.1 * 1536 / 1.
    assert parameter[0, 0].item() == pytest.approx(0.2, rel=5e-6)
    assert parameter[0, 1].item() == pytest.approx(0.1, rel=1e-7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_at_most_one_dimension_have_rate_one_and_no_decay(dtype):
    members = parameters([(5,), (), (1, 5)], dtype)
    vector, scalar, layer = (member.detach().clone() for member in members)
    optimizer = LARS(members, lr=0.25, momentum=0.5, weight_decay=0.1, trust_coefficient=0.001)
    for _ in range(2):
        for member in members:
            member.grad = torch.ones_like(member)
        optimizer.step()
    # v = 1/4, then 1/8 + 1/4.
    torch.testing.assert_close(members[0].data, vector - 5 / 8)
    torch.testing.assert_close(members[1].data, scalar - 5 / 8)
    assert (members[2] - layer).abs().max() < 0.01


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rate_is_one_where_weights_or_gradients_are_zero(dtype, clip):
    assert one([[0.0, 0.0]], [[1.0, 2.0]], lr=0.5, dtype=dtype, clip=clip)[0] == [-0.5, -1.0]
    # Decay alone: w - lr beta w.
    decayed = one([[4.0, -8.0]], [[0.0, 0.0]], lr=0.5, weight_decay=0.25, dtype=dtype, clip=clip)[0]
    assert decayed == [3.5, -7.0]
    assert one([[0.0]], [[0.0]], weight_decay=0.25, dtype=dtype, clip=clip)[0] == [0.0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_variants(dtype):
    weight, gradient = [[3.0, 4.0]], [[0.0, 5.0]]
    decay = {"weight_decay": 1.0, "trust_coefficient": 0.5, "dtype": dtype}
    # lambda = 1/2 * 5/(5 + 5) = 1/4, or 1/2 * 5/5 = 1/2; g + beta w = (3, 9).
    assert one(weight, gradient, **decay)[0] == [2.25, 1.75]
    assert one(weight, gradient, **decay, decay_in_denominator=False)[0] == [1.5, -0.5]
    # min(lambda, lr): lr where it is below lambda, lambda where it is above.
    assert one(weight, gradient, lr=0.125, **decay, clip=True)[0] == [2.625, 2.875]
    assert one(weight, gradient, lr=8.0, **decay, clip=True)[0] == [2.25, 1.75]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_lr_is_within_the_velocity(dtype):
    parameter = nn.Parameter(torch.zeros(1, dtype=dtype))
    optimizer = LARS([parameter], lr=1.0, momentum=0.5, weight_decay=0.0, trust_coefficient=0.1)
    path = []
    # At momentum 0 nothing is left of the velocity, then or later.
    for lr, momentum in [(1.0, 0.5), (0.0, 0.5), (0.0, 0.5), (2.0, 0.5), (1.0, 0.0), (0.0, 0.5)]:
        optimizer.param_groups[0] |= {"lr": lr, "momentum": momentum}
        parameter.grad = torch.full_like(parameter, -8.0)
        optimizer.step()
        path.append(parameter.item())
    assert path == [8, 12, 14, 14 + 17, 31 + 8, 39 + 4]


@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_the_gradients_size_does_not_matter_even_where_the_rate_leaves_float32(size):
    weight, gradient = [[3.0, 4.0]], [[0.0, size]]
    for dtype in DTYPES:
        after = one(weight, gradient, lr=0.5, dtype=dtype)[0]
        assert after == pytest.approx([3.0, 3.75], rel=1e-6)


def test_groups_have_their_own_lr_and_decay():
    members = parameters([(2, 2), (2, 2)])
    alone = parameters([(2, 2), (2, 2)])
    settings = [{"lr": 0.1, "weight_decay": 0.0}, {"lr": 0.4, "weight_decay": 0.5}]
    groups = [{"params": [member], **setting} for member, setting in zip(members, settings, strict=True)]
    set_gradients(members, seed=1)
    set_gradients(alone, seed=1)
    LARS(groups, lr=9.0, momentum=0.9, weight_decay=9.0, trust_coefficient=0.1).step()
    for member, setting, expected in zip(members, settings, alone, strict=True):
        LARS([expected], momentum=0.9, trust_coefficient=0.1, **setting).step()
        assert torch.equal(member, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_memory_formats_may_differ_between_weights_gradients_and_the_velocity(dtype):
    results = []
    for formats in [(torch.contiguous_format,) * 3, (torch.channels_last,) * 3, (torch.channels_last,) * 2 + (None,)]:
        (layer,) = parameters([(4, 3, 2, 2)], dtype)
        layer.data = layer.data.contiguous(memory_format=formats[0])
        optimizer = LARS([layer], lr=0.1, momentum=0.9, weight_decay=0.01, trust_coefficient=0.1)
        for number in range(3):
            gradient = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(number)).to(dtype)
            layer.grad = gradient.contiguous(memory_format=formats[2] or torch.contiguous_format)
            optimizer.step()
        results.append(layer.detach().contiguous())
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])


def test_on_another_device_nothing_is_read_back():
    # A meta tensor has no values: reading one raises.
    layers = [nn.Parameter(torch.empty(shape, device="meta")) for shape in [(4, 3), (3,)]]
    for layer in layers:
        layer.grad = torch.empty_like(layer)
    LARS(layers, lr=0.1, momentum=0.9, weight_decay=0.01, trust_coefficient=0.1, clip=True).step()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_checkpoint_gives_the_same_bits(dtype):
    def trained(stop=None):
        members = parameters([*SHAPES, (5,)], dtype)
        settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "trust_coefficient": 0.02}
        optimizer = LARS(members, **settings)
        for number in range(6):
            if number == stop:
                buffer = io.BytesIO()
                torch.save(optimizer.state_dict(), buffer)
                buffer.seek(0)
                optimizer = LARS(members, lr=1.0, momentum=0.0, weight_decay=0.0, trust_coefficient=1.0)
                optimizer.load_state_dict(torch.load(buffer, weights_only=True))
            set_gradients(members, seed=number)
            optimizer.step()
        return torch.cat([member.detach().flatten() for member in members])

    unbroken = trained()
    assert not torch.equal(unbroken, torch.cat([p.detach().flatten() for p in parameters([*SHAPES, (5,)], dtype)]))
    assert all(torch.equal(trained(stop), unbroken) for stop in range(6))


@pytest.mark.parametrize(("name", "value"), [("lr", -1.0), ("momentum", 1.0), ("momentum", -0.1),
                                             ("weight_decay", -1e-4), ("trust_coefficient", 0.0),
                                             ("lr", math.nan)])  # fmt: skip
def test_a_hyperparameter_out_of_range_is_refused(name, value):
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "trust_coefficient": 0.001} | {name: value}
    with pytest.raises(ValueError, match=rf"{name}.* must hold.*but got {name}={value}"):
        LARS(parameters([(2, 2)]), **settings)


def test_parameters_without_a_gradient_stay_and_a_closure_is_called():
    still, moving = parameters([(2, 2), (2, 2)])
    before = still.detach().clone()
    optimizer = LARS([still, moving], lr=0.1, momentum=0.9, weight_decay=0.1, trust_coefficient=0.1)

    def closure():
        loss = moving.square().sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(2)]
    assert losses[1] < losses[0]
    assert torch.equal(still, before)
