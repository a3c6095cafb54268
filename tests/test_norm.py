"""Ghost batch norm: torch's own BatchNorm, chunk by chunk, is the oracle."""

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn import functional

from lrbs_core.norm import GhostBatchNorm, has_batch_norm, use_ghost_batches
from lrbs_core.planning import micro_batches

CHANNELS = 5
# Examples, ghost size and the chunks these must make: the remainder joins the last chunk.
CASES = {
    "divides": (12, 4, [4, 4, 4]),
    "remainder of one": (13, 4, [4, 4, 5]),
    "largest remainder": (15, 4, [4, 4, 7]),
    "two chunks": (8, 4, [4, 4]),
    "one whole chunk": (4, 4, [4]),
    "below two chunks": (7, 4, [7]),
    "below one chunk": (3, 4, [3]),
    "chunks of two": (7, 2, [2, 2, 3]),
}
INPUTS = {
    "contiguous": lambda n: torch.randn(n, CHANNELS, 3, 2, dtype=torch.double),
    "channels_last": lambda n: torch.randn(n, CHANNELS, 3, 2, dtype=torch.double).to(memory_format=torch.channels_last),
    "2-d": lambda n: torch.randn(n, CHANNELS, dtype=torch.double),
}


def scrambled(norm):
    """The layer in double precision with weights, biases and running statistics unlike any other channel's."""
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 2)
    return norm.double()


def plain(norm):
    """torch's BatchNorm with the same parameters; the 1-d one takes [n, C]."""
    twins = {dim: kind(CHANNELS, eps=norm.eps, momentum=norm.momentum) for dim, kind in
             ((4, nn.BatchNorm2d), (2, nn.BatchNorm1d))}  # fmt: skip
    for twin in twins.values():
        twin.double().load_state_dict(norm.state_dict())
    return twins


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.mark.parametrize("make", INPUTS.values(), ids=list(INPUTS))
@pytest.mark.parametrize(("examples", "ghost_size", "chunks"), CASES.values(), ids=list(CASES))
def test_training_equals_batch_norm_chunk_by_chunk(examples, ghost_size, chunks, make):
    # eps and momentum are not the defaults, so that a layer that forgets them is found out.
    ghost = scrambled(GhostBatchNorm(CHANNELS, ghost_size, eps=1e-3, momentum=0.3))
    x = make(examples)
    batch_norm = plain(ghost)[x.dim()]
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()

    out = ghost(ours)
    # One layer over the chunks in turn: its running statistics are those of a sequence of batches.
    expected = torch.cat([batch_norm(chunk) for chunk in theirs.split(chunks)])
    slope = torch.randn_like(x)
    (out * slope).sum().backward()
    (expected * slope).sum().backward()

    close = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(out, expected, **close)
    torch.testing.assert_close(ours.grad, theirs.grad, **close)
    torch.testing.assert_close(ghost.weight.grad, batch_norm.weight.grad, **close)
    torch.testing.assert_close(ghost.bias.grad, batch_norm.bias.grad, **close)
    assert ghost.running_mean.shape == ghost.running_var.shape == (CHANNELS,)
    for name, value in batch_norm.state_dict().items():
        torch.testing.assert_close(ghost.state_dict()[name], value, **close)
    assert ghost.num_batches_tracked == len(chunks)

    before = copy.deepcopy(ghost.state_dict())
    torch.testing.assert_close(ghost.eval()(x), batch_norm.eval()(x), **close)
    assert all(torch.equal(value, before[name]) for name, value in ghost.state_dict().items())


@pytest.mark.parametrize("examples", [12, 15])
def test_bfloat16_input_with_float32_parameters_as_under_autocast(examples):
    ghost = GhostBatchNorm(CHANNELS, 4)
    batch_norm = nn.BatchNorm2d(CHANNELS)
    x = torch.randn(examples, CHANNELS, 3, 2, dtype=torch.bfloat16)
    out = ghost(x)
    assert out.dtype == torch.bfloat16
    expected = torch.cat([batch_norm(chunk) for chunk in x.split([4, 4, examples - 8])])
    torch.testing.assert_close(out, expected)
    assert ghost.running_var.dtype == torch.float32
    torch.testing.assert_close(ghost.running_mean, batch_norm.running_mean, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("examples", "training", "calls"),
    [(16, True, 1), (8, True, 1), (18, True, 2), (4, True, 1), (7, True, 1), (16, False, 1), (18, False, 1)],
)
def test_sizes_that_divide_take_one_fused_call_and_others_one_more(monkeypatch, examples, training, calls):
    original, seen = functional.batch_norm, []
    monkeypatch.setattr(functional, "batch_norm", lambda x, *rest: (seen.append(len(x)), original(x, *rest))[1])
    GhostBatchNorm(CHANNELS, 4).train(training)(torch.randn(examples, CHANNELS, 3, 2))
    assert len(seen) == calls


@pytest.mark.parametrize("limit", [4, 8, 11, 28])
@pytest.mark.parametrize("examples", [28, 30, 31])
def test_a_batch_gives_the_same_however_it_is_cut_into_micro_batches(examples, limit):
    whole = scrambled(GhostBatchNorm(CHANNELS, 4))
    cut = copy.deepcopy(whole)
    x = INPUTS["channels_last"](examples)
    parts = x.split(micro_batches(examples, limit, ghost_size=4))
    torch.testing.assert_close(torch.cat([cut(part) for part in parts]), whole(x), rtol=1e-10, atol=1e-12)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(cut.state_dict()[name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(8, CHANNELS, 3), (8, CHANNELS, 3, 2, 2)])
def test_an_input_of_another_dimension_is_refused(shape, training):
    with pytest.raises(ValueError, match=r"\[n, C, H, W\] or \[n, C\] must hold, but got shape \[8, 5, 3"):
        GhostBatchNorm(CHANNELS, 4).train(training)(torch.randn(shape))


def test_use_ghost_batches_replaces_every_batch_norm_and_keeps_what_it_holds():
    inner = nn.Sequential(nn.Linear(CHANNELS, CHANNELS), nn.BatchNorm1d(CHANNELS, momentum=0.2))
    model = nn.Sequential(nn.BatchNorm2d(CHANNELS, eps=1e-3), nn.Flatten(), nn.Sequential(inner))
    for layer in (model[0], inner[1]):
        scrambled(layer).float().num_batches_tracked.fill_(7)
    x = torch.randn(8, CHANNELS, 1, 1)
    state, out = copy.deepcopy(model.state_dict()), copy.deepcopy(model).eval()(x)

    use_ghost_batches(model, 4)

    ghosts = model[0], inner[1]
    assert [type(ghost) for ghost in ghosts] == [GhostBatchNorm] * 2
    assert [(ghost.ghost_size, ghost.eps, ghost.momentum) for ghost in ghosts] == [(4, 1e-3, 0.1), (4, 1e-5, 0.2)]
    torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)
    torch.testing.assert_close(model.eval()(x), out)
    use_ghost_batches(model, 2)  # a second call finds nothing left to replace
    assert ghosts[0] is model[0]
    assert ghosts[0].ghost_size == 4


@pytest.mark.parametrize("examples", [12, 15])
def test_timms_norm_with_an_activation_becomes_a_ghost_and_its_activation(examples):
    norm = scrambled(BatchNormAct2d(CHANNELS, eps=1e-3, act_layer=nn.SiLU, drop_layer=nn.Tanh))
    model, x = nn.Sequential(copy.deepcopy(norm)), INPUTS["contiguous"](examples)
    use_ghost_batches(model, 4)
    model.double()
    assert [type(layer) for layer in model[0]] == [GhostBatchNorm, nn.Tanh, nn.SiLU]
    expected = torch.cat([norm(chunk) for chunk in x.split([4, 4, examples - 8])])
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model.eval()(x), norm.eval()(x))
    use_ghost_batches(model, 2)
    assert model[0][0].ghost_size == 4


class _Louder(nn.BatchNorm2d):
    def forward(self, input):  # noqa: A002 - torch's name
        return 2 * super().forward(input)


@pytest.mark.parametrize("layer", [nn.BatchNorm3d(CHANNELS), nn.SyncBatchNorm(CHANNELS), _Louder(CHANNELS)])
def test_another_kind_of_batch_norm_is_refused(layer):
    with pytest.raises(ValueError, match=f"must hold for ghost batches, but got {type(layer).__name__}$"):
        use_ghost_batches(nn.Sequential(nn.Sequential(layer)), 4)


@pytest.mark.parametrize(
    ("layer", "has"),
    [(nn.BatchNorm2d(2), True), (nn.BatchNorm1d(2), True), (GhostBatchNorm(2, 4), True), (nn.GroupNorm(1, 2), False)],
)
def test_has_batch_norm_finds_a_layer_at_any_depth(layer, has):
    assert has_batch_norm(nn.Sequential(nn.ReLU(), nn.Sequential(layer))) is has


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(CHANNELS, momentum=None), nn.BatchNorm2d(CHANNELS, affine=False)])
def test_a_norm_that_has_no_ghost_is_refused(layer):
    with pytest.raises(ValueError, match="momentum and affine parameters must be set"):
        use_ghost_batches(nn.Sequential(layer), 4)
