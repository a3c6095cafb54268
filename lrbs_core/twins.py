"""Twins: how far the noise scale of a run is off that of a run whose lr/(B (1 - m)) it keeps.

Trades keep lr/(B (1 - m)) (`policies`), and SGD's noise scale is g = lr (N/B - 1)/(1 - m) (Smith et al. 2018, arXiv
1711.00489, section 2), which is lr N/(B (1 - m)) times 1 - B/N: of two twins, that of the larger batch has less.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from lrbs_core.planning import Phase
from lrbs_core.policies import whole
from lrbs_core.specs import RunSpec

__all__ = ["deviations", "notes"]

# Deviations above this are told.
TOLD = 0.01
# Of so many phases each deviation is told, of more the largest.
MOST = 4
# The share of the training examples to about which the paper grows the batch (section 3).
TENTH = 10


def deviations(spec: RunSpec, baseline: RunSpec) -> list[float]:
    """g over the baseline's at the same epoch, less 1: of each phase of the spec's plan the largest.

    NaN where the two are no twins: where lr/(B (1 - m)) differs by more than a batch size written whole explains (half
    an example, and at most 1 %), where the baseline has no noise or has ended, and where either run has no noise scale
    (`RunSpec.noise_scale`) or another N.
    """
    found = []
    edges = baseline.policy.edges(spec.epochs)
    for phase in spec.plan().phases:
        inner = (edge for edge in edges if phase.epoch_start < edge < phase.epoch_end)
        sides = (side for edge in (*inner, phase.epoch_end) for side in (math.nextafter(edge, 0.0), edge))
        epochs = (phase.epoch_start, *(epoch for epoch in sides if epoch < phase.epoch_end))
        off = (_deviation(spec, baseline, epoch) for epoch in epochs)
        found.append(max((value for value in off if not math.isnan(value)), key=abs, default=math.nan))
    return found


def _deviation(spec: RunSpec, baseline: RunSpec, epoch: float) -> float:
    if epoch >= baseline.epochs or spec.train_examples != baseline.train_examples:
        return math.nan
    own, other = spec.policy(epoch), baseline.policy(epoch)
    g, g_other = spec.noise_scale(own), baseline.noise_scale(other)
    if not (g_other > 0 and own.lr > 0):
        return math.nan
    # Of the batch sizes as the policies have them, not yet whole.
    kept, kept_other = (
        setting.lr / (run.policy.batch_size(epoch) * (1 - setting.momentum))
        for run, setting in ((spec, own), (baseline, other))
    )
    twins = abs(kept / kept_other - 1) <= min(0.5 / own.batch_size, TOLD)
    return g / g_other - 1 if twins else math.nan


def notes(spec: RunSpec, baseline: RunSpec) -> list[str]:
    """What to know of the noise scale of a run beside a baseline's, a line each: none, off by over 1 %, or B > N/10.

    >>> from lrbs_core import Policy, Steps
    >>> policy = Policy(lr=Steps(0.1, at=(60, 120, 160), factor=1/5), batch_size=128, momentum=0.9)
    >>> runs = [
    ...     RunSpec(label=label, policy=policy, dataset="cifar10", model="mlp", optimizer="sgd", weight_decay=0.0,
    ...             ghost_size=None, augmentation="none", normalization="channel", epochs=200, partial="keep", seed=0)
    ...     for label, policy in (("decaying lr", policy), ("growing", policy.grow_batch()))
    ... ]
    >>> for note in notes(runs[1], runs[0]):
    ...     print(note)  # doctest: +NORMALIZE_WHITESPACE
    noise scale 1 % below decaying lr's from epoch 60, 6.2 % from epoch 120, 32 % from epoch 160:
      trades keep lr/(B (1 - m)), not g
    batch up to 16,000, from epoch 160 above N/10 = 5,000:
      Smith et al. (section 3) grow it to about that, and decay lr from there
    """
    return list(_notes(spec, baseline))


def _notes(spec: RunSpec, baseline: RunSpec) -> Iterator[str]:
    plan, off = spec.plan(), deviations(spec, baseline)
    if not spec.has_noise_scale:
        yield (
            "no noise scale: lr (N/B - 1)/(1 - m) is that of SGD's update, "
            f"and {spec.optimizer} divides by the size of the gradient"
        )
    told = [(phase, value) for phase, value in zip(plan.phases, off, strict=True) if abs(value) > TOLD]
    if told:
        yield f"noise scale {_told(told, plan.phases, baseline.label)}: trades keep lr/(B (1 - m)), not g"
    limit = whole(spec.train_examples / TENTH)
    if plan.peak_batch_size > limit:
        first = next(phase for phase in plan.phases if max(_batches(spec, phase)) > limit)
        since = f", from epoch {first.epoch_start:g}" if first.epoch_start else ","
        yield (
            f"batch up to {plan.peak_batch_size:,}{since} above N/10 = {limit:,}: "
            "Smith et al. (section 3) grow it to about that, and decay lr from there"
        )


def _batches(spec: RunSpec, phase: Phase) -> tuple[int, int]:
    return phase.batch_size, spec.policy(math.nextafter(phase.epoch_end, 0.0)).batch_size


def _told(told: list[tuple[Phase, float]], phases: tuple[Phase, ...], label: str) -> str:
    first, largest = told[0][0], max((value for _, value in told), key=abs)
    side = f"{'below' if largest < 0 else 'above'} {label}'s"
    to_the_end = [phase for phase, _ in told] == list(phases[-len(told) :])
    if to_the_end and len(told) <= MOST and len({value < 0 for _, value in told}) == 1:
        shares = [(_percent(value), phase.epoch_start) for phase, value in told]
        kept = [shares[0], *(share for before, share in itertools.pairwise(shares) if share[0] != before[0])]
        (share, start), *others = kept
        return ", ".join(
            (f"{share} {side} from epoch {start:g}", *(f"{share} from epoch {at:g}" for share, at in others))
        )
    return f"up to {_percent(largest)} {side} between epochs {first.epoch_start:g} and {told[-1][0].epoch_end:g}"


def _percent(share: float) -> str:
    """Two digits.

    >>> _percent(-0.3182), _percent(2.0)
    ('32 %', '200 %')
    """
    return f"{float(f'{100 * abs(share):.2g}'):g} %"
