"""Draws: SplitMix64's published numbers, the statistics of what is kept, and the same draws however a batch is cut."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from made import MACHINE, checkpoint_bits, finish, made_data, noise_spec, start, train_by_hand
from scipy import stats
from torch import nn
from torch._dynamo import testing as compiling

from lrbs_core import models
from lrbs_core.draws import APART, Drawing, Dropout, draw, use_draws
from lrbs_core.schedules import Piecewise
from lrbs_core.specs import DRAWING

CPU = torch.device("cpu")


@pytest.mark.parametrize(("seed", "outputs"), [
    # As the authors' Java and Vigna's splitmix64.c give them.
    (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]),
    (1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]),
])  # fmt: skip
def test_draws_are_the_published_outputs_of_splitmix64(seed, outputs):
    assert [word % 2**64 for word in draw(torch.tensor(seed), torch.arange(4)).tolist()] == outputs


def masks(seed=0, layers=1, first=0, examples=400, features=400, p=0.5):
    """What each of the layers keeps of ones, [layers, examples, features]."""
    model = nn.Sequential(*(nn.Dropout(p) for _ in range(layers)))
    use_draws(model, seed, CPU).at(first, examples, 0)
    ones = torch.ones(examples, features)
    return torch.stack([layer(ones) for layer in model]) != 0


@pytest.mark.parametrize("p", [0.02, 0.2, 0.5, 0.9])
def test_as_many_are_kept_as_the_probability_says_and_as_independently(p):
    kept = masks(layers=3, p=p).double()
    count = kept[0].numel()
    for layer in kept:
        # Of all together; of each example and of each feature, whose counts are binomial.
        assert stats.binomtest(int(layer.sum()), count, 1 - p).pvalue > 1e-3
        for axis in (0, 1):
            counts = layer.sum(axis).numpy()
            chi_square = ((counts - 400 * (1 - p)) ** 2 / (400 * p * (1 - p))).sum()
            assert 1e-3 < stats.chi2.cdf(chi_square, 400) < 1 - 1e-3


PAIRS = {
    "seeds": (lambda: masks(0), lambda: masks(1)),
    "layers": (lambda: masks(layers=2)[0], lambda: masks(layers=2)[1]),
    "places": (lambda: masks(first=0), lambda: masks(first=1)),
    "epochs": (lambda: masks(first=0), lambda: masks(first=50_000)),
    "measured": (lambda: masks(first=0), lambda: masks(first=APART)),
    "features": (lambda: masks()[..., :-1], lambda: masks()[..., 1:]),
    "a layer and the next place": (lambda: masks(layers=2)[1, :-1], lambda: masks(layers=2)[0, 1:]),
}


@pytest.mark.parametrize("between", PAIRS)
def test_draws_of_other_seeds_layers_places_and_features_have_nothing_to_do_with_each_other(between):
    one, other = (make().flatten().numpy() for make in PAIRS[between])
    table = np.array([[(one == a) & (other == b) for b in (False, True)] for a in (False, True)]).sum(axis=2)
    assert stats.chi2_contingency(table, correction=False).pvalue > 1e-3


def test_bits_of_the_draws_are_even_and_pairs_of_seeds_and_places_do_not_meet():
    words = draw(draw(torch.tensor(0), torch.arange(300))[:, None], torch.arange(300)).flatten()
    assert len(words.unique()) == len(words)
    for bit in range(64):
        assert stats.binomtest(int((words >> bit & 1).sum()), len(words), 0.5).pvalue > 1e-4, bit


def test_dropout_is_torchs_but_for_where_its_draws_come_from():
    x = torch.randn(6, 3, 4, requires_grad=True)
    model = nn.Sequential(nn.Dropout(0.25))
    use_draws(model, 3, CPU).at(10, 6, 0)
    out = model(x)
    kept = out != 0
    torch.testing.assert_close(out, torch.where(kept, x / 0.75, 0.0))
    out.sum().backward()
    torch.testing.assert_close(x.grad, torch.where(kept, 1 / 0.75, 0.0))
    assert torch.equal(model.eval()(x), x)
    for p, expected in ((0.0, x), (1.0, torch.zeros_like(x))):
        model = nn.Sequential(nn.Dropout(p))
        use_draws(model, 3, CPU).at(10, 6, 0)
        assert torch.equal(model(x), expected)


def test_an_examples_draws_are_its_own_and_an_updates_those_of_its_first_example():
    model = models.build("resnet14_stochastic", 10, 3, 8, ghost_size=2).append(nn.Dropout(0.5))
    draws = use_draws(model, 5, CPU)
    dropout, x = model[-1], torch.ones(8, 10)
    draws.at(100, 8, 100)
    whole, update = dropout(x), draws.update
    for at in (100, 104):
        draws.at(at, 4, 100)
        assert torch.equal(dropout(x[:4]), whole[at - 100 :][:4])
        assert torch.equal(draws.update, update)
    draws.at(104, 4, 104)
    assert not torch.equal(draws.update, update)


def test_blocks_survive_an_update_with_their_probability_and_independently():
    model = models.build("resnet20_stochastic", 10, 3, 8, ghost_size=2)
    draws, survived = use_draws(model, 1, CPU), []
    blocks = [layer for layer in model if isinstance(layer, Drawing)]
    for update in range(3000):
        draws.at(128 * update, 4, 128 * update)
        survived.append([bool(draws.survives(block.layer, block.survival)) for block in blocks])
    survived = np.array(survived)
    for block, count in zip(blocks, survived.sum(axis=0), strict=True):
        assert stats.binomtest(int(count), 3000, block.survival).pvalue > 1e-3
    off = np.corrcoef(survived, rowvar=False)[np.triu_indices(9, 1)] * np.sqrt(3000)
    assert stats.kstest(off, "norm").pvalue > 1e-3


@pytest.fixture
def dropping(monkeypatch):
    """A spec with stochastic depth, dropout by channel's pixel and by feature, and a growing batch."""
    build = models.build

    def built(*what):
        model = build(*what)
        return nn.Sequential(*model[:3], nn.Dropout(0.1), *model[3:], nn.Dropout(0.3))

    monkeypatch.setattr(models, "build", built)
    return noise_spec(0.05, Piecewise((16, 40), at=(1,)), model="resnet14_stochastic", ghost_size=8)


def test_a_run_drops_the_same_whatever_the_micro_batch_and_draws_nothing_from_torch(dropping, tmp_path):
    expected = train_by_hand(dropping, made_data())
    torch.manual_seed(dropping.seed)
    models.build(dropping.model, 4, 1, 8, 8)
    after_weights = torch.get_rng_state()
    for size in (8, 24, 64):
        torch.manual_seed(99)
        finish(start(dropping, path := tmp_path / f"{size}.pt", machine=replace(MACHINE, micro_batch=size)))
        assert torch.equal(torch.get_rng_state(), after_weights)
        trained = dict(torch.load(path)["model"])
        torch.testing.assert_close(trained, expected, rtol=2e-3, atol=2e-5)
    other = train_by_hand(replace(dropping, seed=2), made_data())
    assert not torch.allclose(other["0.weight"], expected["0.weight"], rtol=2e-3, atol=2e-5)


def test_measuring_noise_changes_no_bit_of_a_run_that_drops(dropping, tmp_path):
    for measure in (False, True):
        finish(start(dropping, tmp_path / f"{measure}.pt", machine=replace(MACHINE, measure_noise=measure)))
    plain, measured = (checkpoint_bits(tmp_path / f"{measure}.pt") for measure in (False, True))
    assert plain["model"] == measured["model"]
    assert plain["optimizer"] == measured["optimizer"]


@pytest.mark.parametrize("pattern", [pattern for pattern, _, _ in models.FAMILIES])
def test_the_key_knows_which_networks_draw(pattern):
    numbers = iter({"wrn": (10, 1), "densenet": (7, 4)}.get(pattern.partition("_")[0], (14,)))
    name = re.sub(r"\(\\d\+\)", lambda _: str(next(numbers)), pattern)
    with torch.device("meta"):
        try:
            model = models.build(name, 10, 3, 96, ghost_size=2)
        except ValueError:
            model = models.build(name, 10, 3, 96, ghost_size=None)
    draws = any(isinstance(layer, Drawing | nn.modules.dropout._DropoutNd) for layer in model.modules())
    assert draws == bool(DRAWING.fullmatch(name))


@pytest.mark.parametrize("kind", [nn.Dropout2d, nn.AlphaDropout])
def test_another_kind_of_dropout_is_refused(kind):
    with pytest.raises(ValueError, match=f"nn.Dropout must hold for draws by place, but got {kind.__name__}"):
        use_draws(nn.Sequential(kind(0.5)), 0, CPU)


def test_half_precision_keeps_its_type_and_the_same_draws():
    model = nn.Sequential(nn.Dropout(0.5))
    use_draws(model, 0, CPU).at(0, 4, 0)
    full = model(torch.ones(4, 50))
    half = model(torch.ones(4, 50, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16
    assert torch.equal(half.float(), full)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_compiled_network_draws_the_same_and_is_compiled_once_a_shape(backend):
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(4, 30), nn.Dropout(0.5), nn.ReLU(), nn.Dropout(0.2))
    draws, x = use_draws(model, 0, CPU), torch.randn(8, 4)
    counter = compiling.CompileCounterWithBackend(backend)
    compiled = torch.compile(model, backend=counter)
    for update in range(6):
        draws.at(8 * update, 8, 8 * update)
        torch.testing.assert_close(compiled(x), model(x))
    assert counter.frame_count == 1
    assert isinstance(model[1], Dropout)
