"""Planning: the updates that a policy implies on N examples over E epochs. Training runs this very walk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

from lrbs_core.noise import noise_scale
from lrbs_core.policies import Policy, Setting, whole
from lrbs_core.schedules import Schedule

__all__ = [
    "Partial", "Phase", "Plan", "Update", "make_plan", "micro_batch_limit", "micro_batches", "rate_an_epoch",
    "to_epochs", "walk",
]  # fmt: skip

Partial = Literal["keep", "drop", "carry"]


class Update(NamedTuple):
    """One optimizer step: examples [start, start + size) of the stream of epochs, at the setting of its start."""

    number: int
    start: int
    size: int
    epoch: float
    setting: Setting


@dataclass(frozen=True)
class Phase:
    """A stretch of the plan between two edges of the policy; lr, batch size, momentum and noise scale at its start."""

    epoch_start: float
    epoch_end: float
    lr: float
    batch_size: int
    momentum: float
    noise_scale: float
    updates: int


@dataclass(frozen=True)
class Plan:
    """What a policy costs: updates, examples passed through the network, largest batch, and the phases in order."""

    updates: int
    examples: int
    peak_batch_size: int
    phases: tuple[Phase, ...]


def walk(policy: Policy, examples: int, epochs: float, partial: Partial) -> Iterator[Update]:
    """The updates of `policy` on `examples` = N training examples over `epochs` (a float), in order.

    `partial` says what becomes of an epoch's last examples when they do not fill a batch: "keep" takes them as a
    smaller batch, "drop" skips them, "carry" fills the batch from the next epoch (a stream; its very last batch is
    smaller). With "keep" and "carry" the sizes add up to round(N epochs). An update takes the setting of its start:
    epoch = start/N. Raises ValueError for lr < 0, momentum outside [0, 1), a batch below 1 or above N.

    >>> policy = Policy(lr=0.1, batch_size=40, momentum=0.9)
    >>> [[update.size for update in walk(policy, 100, 2, partial)] for partial in ("keep", "drop", "carry")]
    [[40, 40, 20, 40, 40, 20], [40, 40, 40, 40], [40, 40, 40, 40, 40]]
    """
    lr, momentum = _Follower(policy.lr, epochs), _Follower(policy.momentum, epochs)
    for number, (start, size, batch_size) in enumerate(_batches(policy.batch_size, examples, epochs, partial)):
        epoch = start / examples
        yield Update(number, start, size, epoch, _checked(Setting(lr(epoch), batch_size, momentum(epoch)), epoch))


# A plan is asked for again and again, and takes as long as its updates are many.
@lru_cache(maxsize=256)
def make_plan(policy: Policy, examples: int, epochs: float, partial: Partial) -> Plan:
    """Counts of the walk without its rates; the same arguments and errors as `walk`.

    >>> policy = Policy(lr=0.1, batch_size=128, momentum=0.9)
    >>> make_plan(policy, examples=50_000, epochs=200, partial="keep").updates
    78200
    """
    edges = [edge for edge in policy.edges(epochs) if edge < epochs]
    counts = [0] * (len(edges) + 1)
    phase = seen = peak = 0
    for start, size, batch_size in _batches(policy.batch_size, examples, epochs, partial):
        while phase < len(edges) and start / examples >= edges[phase]:
            phase += 1
        counts[phase] += 1
        seen += size
        peak = max(peak, batch_size)
    phases = []
    for count, first, last in zip(counts, [0.0, *edges], [*edges, float(epochs)], strict=True):
        setting = _checked(policy(first), first)
        before = math.nextafter(last, 0)  # lr and momentum go one way in a phase, so its two ends settle it
        _checked(policy(before), before)
        phases.append(Phase(first, last, *setting, noise_scale(*setting, examples), count))
    return Plan(sum(counts), seen, peak, tuple(phases))


def _checked(setting: Setting, epoch: float) -> Setting:
    if not setting.lr >= 0:
        raise ValueError(f"lr >= 0 must hold at every update, but got lr={setting.lr:g} at epoch {epoch:g}")
    if not 0 <= setting.momentum < 1:
        raise ValueError(
            f"0 <= momentum < 1 must hold at every update, but got {setting.momentum:g} at epoch {epoch:g}"
        )
    return setting


def to_epochs(updates: float, batch_size: int, examples: int) -> float:
    """Updates of one batch size as epochs: papers give stepsizes and breakpoints in updates ("iterations").

    >>> to_epochs(2000, batch_size=100, examples=50_000)
    4.0
    """
    return updates * batch_size / examples


def rate_an_epoch(gamma: float, batch_size: int, examples: int) -> float:
    """A factor an update as the factor an epoch: gamma^(N/B).

    >>> round(rate_an_epoch(0.99994, batch_size=100, examples=50_000), 6)
    0.970445
    """
    return float(gamma ** (examples / batch_size))


def micro_batches(size: int, limit: int, ghost_size: int | None = None) -> list[int]:
    """The parts in which `size` examples go through the network, one after another, their gradients adding up.

    Parts are equal but for rounding and at most `limit`. With a ghost size, each is a whole number of ghost batches, so
    that the ghost batches are the same whatever the limit; the last takes the remainder (see `norm.GhostBatchNorm`) and
    may pass the limit by less than one ghost size. Raises ValueError for a limit below 1 or below the ghost size.

    >>> micro_batches(1000, limit=400), micro_batches(1000, limit=400, ghost_size=128)
    ([334, 333, 333], [384, 256, 360])
    """
    unit = ghost_size or 1
    if limit < unit:
        raise ValueError(
            f"micro_batch >= {'ghost_size' if ghost_size else 1} must hold, "
            f"but got micro_batch={limit}, ghost_size={ghost_size}"
        )
    units, rest = divmod(size, unit)
    if units == 0:
        return [size]
    parts = math.ceil(units / (limit // unit))
    share, larger = divmod(units, parts)
    sizes = [(share + (part < larger)) * unit for part in range(parts)]
    sizes[-1] += rest
    return sizes


def micro_batch_limit(asked: int | None, default: int, ghost_size: int | None = None) -> int:
    """Most examples in one forward/backward: as asked, else the default, or the ghost size where that is more.

    >>> micro_batch_limit(None, 2048, ghost_size=4096), micro_batch_limit(1024, 2048), micro_batch_limit(None, 2048)
    (4096, 1024, 2048)
    """
    return max(default, ghost_size or 1) if asked is None else asked


def _batches(schedule: Schedule, examples: int, epochs: float, partial: Partial) -> Iterator[tuple[int, int, int]]:
    """(start, size, batch size) of each update; size is below the batch size for a partial batch."""
    if partial not in get_args(Partial):
        raise ValueError(f"partial must be one of {', '.join(get_args(Partial))}, but got {partial!r}")
    if not (examples >= 1 and epochs > 0):
        raise ValueError(f"examples >= 1 and epochs > 0 must hold, but got examples={examples}, epochs={epochs}")
    total, start, follow = round(examples * epochs), 0, _Follower(schedule, epochs)
    while start < total:
        epoch = start / examples
        batch_size = whole(follow(epoch))
        if not 1 <= batch_size <= examples:
            raise ValueError(
                f"1 <= batch_size <= {examples} (the training examples) must hold at every update, "
                f"but got batch_size={batch_size} at epoch {epoch:g}"
            )
        size = min(batch_size, total - start)
        if partial != "carry":
            size = min(size, examples - start % examples)
            if partial == "drop" and size < batch_size:
                start += size
                continue
        yield start, size, batch_size
        start += size


class _Follower:
    """A schedule along epochs that never go back; a flat one is evaluated only where it can change."""

    __slots__ = ("edges", "schedule", "until", "value")

    def __init__(self, schedule: Schedule, end: float) -> None:
        self.schedule = schedule
        self.edges = [math.inf, *reversed(schedule.edges(end))] if schedule.flat else None
        self.until, self.value = -math.inf, math.nan

    def __call__(self, epoch: float) -> float:
        if self.edges is None:
            return self.schedule(epoch)
        if epoch >= self.until:
            while self.edges[-1] <= epoch:
                self.edges.pop()
            self.until, self.value = self.edges[-1], self.schedule(epoch)
        return self.value
