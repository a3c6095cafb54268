"""Draws: what dropout and stochastic depth drop, by place in the run alone, however a batch goes through the network.

Every draw is a function of (seed, place of the example in the stream of epochs, layer, feature), or of (seed, first
example of the update, layer) where an update has one draw. So micro-batches, measuring and devices change none, a run
that goes on needs no state of a generator, and torch's own is left alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["APART", "Drawing", "Draws", "Dropout", "use_draws"]

# Places from here on are no examples of a run (`RunSpec` has fewer): for passes that only measure.
APART = 2**53

# As int64, whose sums and products wrap.
GAMMA, FIRST, SECOND = (word - 2**64 for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def draw(state: Tensor, counter: Tensor) -> Tensor:
    """Output number `counter` (from 0) of SplitMix64 begun at `state`: 64 random bits as int64, on any device the same.

    Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators" (OOPSLA), with the finalizer of their
    Java implementation, Stafford's variant 13. Each output is the state of a sequence of its own, so that a draw by
    several counters is a draw of a draw.

    >>> [hex(word % 2**64) for word in draw(torch.tensor(0), torch.arange(2)).tolist()]
    ['0xe220a8397b1dcdaf', '0x6e789e6aa1b965f4']
    """
    words = state + (counter + 1) * GAMMA
    # An arithmetic shift and a mask: int64 has no logical one.
    words ^= (words >> 30) & 2**34 - 1
    words *= FIRST
    words ^= (words >> 27) & 2**37 - 1
    words *= SECOND
    words ^= (words >> 31) & 2**33 - 1
    return words


# Opaque to torch.compile, whose code (2.15, CPU) gets the shift of an arange times GAMMA wrong: that product wraps.
@torch.library.custom_op("lrbs::below", mutates_args=())
def _below(states: Tensor, counters: int, limit: int) -> Tensor:
    """Whether the first so many draws of each state are below the limit: bool [states, counters]."""
    return draw(states[:, None], torch.arange(counters, device=states.device)) < limit


@_below.register_fake
def _(states: Tensor, counters: int, limit: int) -> Tensor:
    return states.new_empty((len(states), counters), dtype=torch.bool)


class Draws:
    """The draws of a network's layers for the examples at hand, which `at` names before each forward pass."""

    def __init__(self, seed: int, layers: int, device: torch.device) -> None:
        self.layers, self.device = layers, device
        self._seed = draw(torch.tensor(0), torch.tensor(seed))
        self.at(0, 0, 0)

    def at(self, start: int, size: int, update: int) -> None:
        """The examples [start, start + size) of the stream come next, in an update that begins at example `update`."""
        if self.layers:
            places, numbers = torch.arange(start, start + size, device=self.device), torch.arange(self.layers)
            # Of each layer, the states of the examples.
            self.examples = draw(draw(self._seed, places), numbers.to(self.device)[:, None])
            # On the CPU, wherever the images are: a GPU is not waited for.
            bits = draw(draw(self._seed, torch.tensor(update)), numbers)
            self.update = (bits >> 11) * 2.0**-53 + 0.5

    def kept(self, layer: int, shape: torch.Size, probability: float) -> Tensor:
        """True with the probability for each feature of each example: a mask of the shape, examples first."""
        limit = min(int(probability * 2**64), 2**64 - 1) - 2**63
        kept: Tensor = _below(self.examples[layer], shape[1:].numel(), limit)
        return kept.view(shape)

    def survives(self, layer: int, probability: float) -> Tensor:
        """True with the probability, once an update."""
        return self.update[layer] < probability


class Drawing(nn.Module):
    """A layer that draws in training; `use_draws` numbers a network's and gives them what they draw from."""

    draws: Draws
    layer: int


class Dropout(nn.Dropout, Drawing):
    """torch's Dropout but for where its draws come from: x kept / (1 - p) in training, x in evaluation."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        if not self.training or self.p == 0:
            return input
        kept = self.draws.kept(self.layer, input.shape, 1 - self.p)
        return (input * kept).mul_(1 / (1 - self.p) if self.p < 1 else 0)


def use_draws(model: nn.Module, seed: int, device: torch.device) -> Draws:
    """Has all layers of the network that draw do so by place, in place: dropout, and what is a `Drawing`.

    Raises ValueError for a kind of dropout other than nn.Dropout.

    >>> model = nn.Sequential(nn.Dropout(0.5))
    >>> use_draws(model, seed=0, device=torch.device("cpu")).at(start=40, size=2, update=0)
    >>> pair = model(torch.ones(2, 5))
    >>> use_draws(model, seed=0, device=torch.device("cpu")).at(start=41, size=1, update=0)
    >>> torch.equal(model(torch.ones(1, 5)), pair[1:])
    True
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.modules.dropout._DropoutNd) and not isinstance(child, Drawing):
                if type(child) is not nn.Dropout:
                    raise ValueError(f"nn.Dropout must hold for draws by place, but got {type(child).__name__}")
                setattr(module, name, Dropout(child.p))
    layers = [module for module in model.modules() if isinstance(module, Drawing)]
    draws = Draws(seed, len(layers), device)
    for number, layer in enumerate(layers):
        layer.draws, layer.layer = draws, number
    return draws
