"""The learning-rate range test: short runs whose lr rises at every update, and the bounds that can be read off them.

L. N. Smith, Cyclical learning rates (arXiv 1506.01186), section 3.3: the lower bound is where the accuracy begins to
rise, the upper one where it "slows, becomes ragged, or starts to fall". It is the accuracy on validation data, or on
the test set as there, where nothing is set aside (`RunSpec.judged_by`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from lrbs_core.journal import Row
from lrbs_core.policies import Policy
from lrbs_core.schedules import Exponential, Linear, Power, Schedule
from lrbs_core.specs import RunSpec
from lrbs_core.sweeping import Sweep, Train, count_images, until
from lrbs_core.validation import SET_ASIDE

__all__ = [
    "NOT_REACHED",
    "ROWS",
    "Bounds",
    "bounds_of",
    "find_bounds",
    "is_lost",
    "settings",
    "smoothed",
    "sweep",
    "until_lost",
]

Floats = NDArray[np.float64]

# Rows of a ramp: the bounds are known to within one of them.
ROWS = 50
# Rows that a smoothed value is the median of.
WINDOW = 5
# Accuracy has begun to rise above this part of its whole rise, and falls or is ragged by more than that part.
BEGUN, TOLERATED = 0.1, 0.05
# In standard deviations of the noise between rows: a rise, a fall, and the mean distance to the smoothed curve (0.65 of
# white noise). Of level curves of white noise, less than 1 in 20 seems to fall or to be ragged.
RISE, FALL, RAGGED = 4.0, 4.0, 2.5
# By so much the odds grow where there is a rise, from 10 to 15 % as from 50 to 62 %: chance on few examples wanders.
LEAST_RISE = 1.6
# Accuracy has levelled off where it is within so many standard deviations of its highest, in so many rows or more.
LEVEL, LEVEL_ROWS = 1.5, 8
# Training has diverged where its smoothed loss is so many times the lowest so far, and above its start.
DIVERGED = 4.0

# What a ramp takes from a run, beside batch size and momentum.
TAKEN = (
    "dataset", "examples", "model", "optimizer", "weight_decay", "ghost_size", "augmentation", "normalization",
    "trust_coefficient", "decay_batch_norm", "image_size", "validation",
)  # fmt: skip


# How a bound is marked that the ramp did not reach.
NOT_REACHED = {"low": "< ", "high": "> "}

End = Literal["falls", "ragged", "diverges", "levels off", "still learns"]


class Bounds(NamedTuple):
    """Bounds of lr, and whether the ramp reached them: where not, it began too high, or ended too low, to tell."""

    low: float
    high: float
    low_found: bool
    high_found: bool
    end: End


def settings(source: Sweep | None, policy: str | None, given: Mapping[str, Any], data_dir: Path) -> dict[str, Any]:
    """All of a ramp but its lr: what is `given`, for the rest that of the source's policy at epoch 0.

    Where neither sets examples aside, a tenth of them is (`validation.SET_ASIDE`). Raises ValueError for a policy that
    is not there, and for what neither tells.
    """
    chosen: dict[str, Any] = {"ghost_size": None, "validation": 0}
    if source is not None:
        labels = list(dict.fromkeys(spec.label for spec in source.runs))
        if policy not in (None, *labels):
            raise ValueError(f"policy must be one of {', '.join(map(repr, labels))}, but got {policy!r}")
        spec = next(spec for spec in source.runs if policy in (None, spec.label))
        _, batch_size, momentum = spec.policy(0.0)
        chosen = {name: getattr(spec, name) for name in TAKEN} | {"batch_size": batch_size, "momentum": momentum}
    chosen["validation"] = chosen["validation"] or SET_ASIDE
    chosen |= {name: value for name, value in given.items() if value is not None}
    missing = [f"--{name.replace('_', '-')}" for name in given if name not in chosen]
    if missing:
        raise ValueError(
            f"a range test without a sweep must be told all of what it trains: {', '.join(missing)} missing"
        )
    if given["dataset"] is not None:
        kind, _, folder = given["dataset"].partition(":")
        chosen["examples"] = count_images(data_dir / folder / "train") if kind == "imagefolder" else 0
    return chosen


def sweep(
    source: Sweep | None,
    settings: Mapping[str, Any],
    low: float,
    high: float,
    epochs: float,
    seeds: int,
    geometric: bool = False,
) -> Sweep:
    """A run a seed with lr rising from low to high, linearly or geometrically, in about 50 rows.

    Every update has the whole batch ("carry"). Raises ValueError unless lr rises over at least 50 updates, and for
    whatever `RunSpec` refuses.
    """
    if not (0 <= low < high < math.inf and (low > 0 or not geometric)):
        rule = "0 < low < high" if geometric else "0 <= low < high"
        raise ValueError(f"{rule} must hold, but got low={low:g}, high={high:g}")
    if not 0 < epochs < math.inf:
        raise ValueError(f"epochs > 0 must hold, but got epochs={epochs:g}")
    # An Exponential only decays, so that a rising one is its inverse.
    lr: Schedule = (
        Power(Exponential(1 / low, gamma=(low / high) ** (1 / epochs)), exponent=-1)
        if geometric
        else Linear(low, high, epochs)
    )
    others = {name: value for name, value in settings.items() if name not in ("batch_size", "momentum")}
    batch_size, momentum = settings["batch_size"], settings["momentum"]
    runs = tuple(
        RunSpec(
            label=f"lr {low:g} to {high:g}{', geometric' if geometric else ''}, B={batch_size}",
            policy=Policy(lr, batch_size, momentum),
            epochs=epochs,
            partial="carry",
            seed=seed,
            evaluate_every_epochs=epochs / ROWS,
            **others,
        )
        for seed in range(seeds)
    )
    if (updates := runs[0].plan().updates) < ROWS:
        raise ValueError(
            f"a ramp must have at least {ROWS} updates, but got {updates}: take more --epochs or a smaller --batch-size"
        )
    name = f"{settings['model']}-{settings['dataset']}" if source is None else source.name
    name = re.sub(r"[^\w.-]+", "-", f"{name}-range-test")
    return Sweep(name, "L. N. Smith 2017 (arXiv 1506.01186), section 3.3", (), runs)


def smoothed(values: ArrayLike) -> Floats:
    """The running median of 5 rows centred on each, of fewer at both ends. A monotone curve stays as it is inside.

    >>> smoothed([1, 1, 9, 2, 3, 4]).tolist()
    [1.0, 1.5, 2.0, 3.0, 3.5, 3.0]
    """
    return np.asarray(np.nanmedian(_windows(np.asarray(values, float)), axis=1))


def _windows(values: Floats) -> Floats:
    if len(values) == 0:
        return np.empty((0, WINDOW))
    return sliding_window_view(np.pad(values, WINDOW // 2, constant_values=np.nan), WINDOW)


def _noise(values: Floats) -> float:
    """Standard deviation of white noise on a curve of straight pieces, by its second differences (robust)."""
    seconds = np.abs(np.diff(values, n=2)) / math.sqrt(6)
    return 1.4826 * float(np.median(seconds)) if len(seconds) else 0.0


def find_bounds(lr: ArrayLike, loss: ArrayLike, accuracy: ArrayLike) -> Bounds:
    """The bounds that one ramp's rows show: lr rising, training loss, and accuracy in percent.

    With s the accuracy `smoothed`, its rise that from s at the first row to its peak, and sigma the noise of single
    rows before the peak:
    - low: the lr from which on, up to the peak, s is above its start by 10 % of the rise;
    - high: the last lr before rows lie max(5 % of the rise, 2.5 sigma) off s in the mean of 5 ("ragged"), or the
      smoothed loss is above its start and 4 times its lowest so far, or not finite ("diverges"); or that of the highest
      s, if it then falls by max(5 % of the rise, 4 sigma) ("falls"); whichever comes first. But where s had come to
      within max(5 % of the rise, 1.5 sigma) of its highest 8 rows or more before that, or before the end of the ramp,
      it is the lr at which it had come there ("levels off"). L. N. Smith (section 3.3): the accuracy "slows, becomes
      ragged, or starts to fall".
    Of simulated curves of 50 rows and noise of 1 to 3 % it is right to within 3 rows in more than 9 of 10.
    Raises ValueError where s does not rise by 4 sigma and its odds s/(100 - s) by a factor of 1.6 (from 10 to 15 %, or
    from 50 to 62 %), and where there are no rows.

    >>> accuracy = [10, 10, 10, 10, 20, 40, 60, 80, 80, 80, 80, 80, 80, 70, 50, 10, 10]
    >>> find_bounds(range(1, 18), [1.0] * 17, accuracy)
    Bounds(low=5.0, high=13.0, low_found=True, high_found=True, end='falls')
    """
    lr, loss = np.asarray(lr, float), np.asarray(loss, float)
    if not len(lr):
        raise ValueError("a ramp must have rows to tell its bounds by, but has none")
    rows = len(loss) if np.isfinite(loss).all() else int(np.argmin(np.isfinite(loss)))
    values = np.asarray(accuracy, float)[:rows]
    smooth, diverges = smoothed(values), _diverges(loss[:rows])
    peak = int(np.argmax(smooth)) if rows else 0
    rise = float(smooth[peak] - smooth[0]) if rows else 0.0
    if rise <= RISE * _noise(values[: max(peak + 1, 2 * WINDOW)]) or not _risen(smooth[0], smooth[peak]):
        lost = [*lr[:rows][diverges], *lr[rows:]]
        if lost:
            raise ValueError(
                f"accuracy must rise before training diverges, but it diverged by lr={lost[0]:.2g}: lower the ramp"
            )
        raise ValueError(
            f"accuracy must rise within the ramp, but it never does from lr={lr[0]:.2g} to {lr[-1]:.2g}: widen it"
        )

    low = int(np.flatnonzero(smooth[:peak] < smooth[0] + BEGUN * rise)[-1]) + 1
    # Noise where it learns, over enough rows to tell: before, a net's accuracy may not move at all.
    sigma = _noise(values[max(0, min(low, peak + 1 - 2 * WINDOW)) : peak + 1])
    falls = smooth < np.maximum.accumulate(smooth) - max(TOLERATED * rise, FALL * sigma)
    off = np.abs(values - smooth)
    off[: WINDOW // 2] = off[-(WINDOW // 2) :] = 0.0  # a window that is cut lies off a steep curve
    ragged = np.nanmean(_windows(off), axis=1) > max(TOLERATED * rise, RAGGED * sigma)
    ends: list[tuple[int, End]] = [(rows, "diverges")] if rows < len(lr) else []
    after = slice(low + 1, None)
    marks: dict[End, NDArray[np.bool_]] = {"falls": falls, "ragged": ragged, "diverges": diverges}
    ends += [(low + 1 + int(np.argmax(marks[end][after])), end) for end in marks if marks[end][after].any()]
    row, end = min(ends, default=(len(lr), "still learns"))
    near = smooth[low:row] >= smooth[low:row].max() - max(TOLERATED * rise, LEVEL * sigma)
    come = low + int(np.argmax(near))
    if row - come >= LEVEL_ROWS:
        row, end = come + 1, "levels off"
    elif end == "falls":  # that it does shows some rows after it began to
        row -= int(np.argmax(smooth[low:row][::-1]))
    return Bounds(float(lr[low]), float(lr[row - 1]), low > WINDOW // 2, end != "still learns", end)


def _risen(start: float, top: float) -> bool:
    """Whether an accuracy in percent has risen by more than chance on few examples wanders."""
    return top > start and top * (100 - start) >= LEAST_RISE * start * (100 - top)


def _diverges(loss: Floats) -> NDArray[np.bool_]:
    smooth = smoothed(loss)
    return np.asarray(smooth > np.maximum(smooth[:1], DIVERGED * np.minimum.accumulate(smooth)))


def bounds_of(rows: Sequence[Row], judged_by: str = "test_accuracy") -> Bounds:
    """`find_bounds` of a run's rows and the accuracy that it is judged by."""
    lr, accuracy = ([row[name] for row in rows] for name in ("lr", judged_by))
    # An update may spoil the weights after its own loss was taken.
    loss = [row["train_loss"] if math.isfinite(row["test_loss"]) else math.inf for row in rows]
    return find_bounds(lr, loss, accuracy)


def is_lost(rows: Sequence[Row], judged_by: str = "test_accuracy") -> bool:
    """Whether a ramp has nothing more to show: its smoothed training loss is above its start and 4 times its lowest so
    far, or its smoothed accuracy, having risen (`find_bounds`), is back within 10 % of that rise above its start.
    """
    known = len(rows) - WINDOW // 2  # a smoothed value is known when the rows after it are
    if known < 1:
        return False
    loss, accuracy = (np.array([row[name] for row in rows]) for name in ("train_loss", judged_by))
    smooth = smoothed(accuracy)[:known]
    start, rise = smooth[0], smooth.max() - smooth[0]
    back = _risen(start, start + rise) and smooth[-1] <= start + BEGUN * rise
    return bool(back or _diverges(loss)[known - 1])


def until_lost(train: Train, judged_by: str = "test_accuracy") -> Train:
    """`train`, ended as "stopped" where `is_lost` of its rows."""
    return until(train, partial(is_lost, judged_by=judged_by))
