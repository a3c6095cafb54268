"""The learning-rate range test: short runs whose lr rises at every update, and the bounds that can be read off them.

L. N. Smith, Cyclical learning rates (arXiv 1506.01186), section 3.3: the lower bound is where the accuracy begins to
rise, the upper one where it "slows, becomes ragged, or starts to fall". It is the accuracy on validation data, or on
the test set as there, where nothing is set aside (`RunSpec.judged_by`).

Where it bends is found by segmented regression: Hudson (1966), Fitting segmented curves whose join points have to be
estimated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
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
    "ADVICE",
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
# Rows that a smoothed value is the median of, and the fewest that can be told to be level.
WINDOW = 5
# Parts of the whole rise: what the level rows below the low bound and above the high one may still rise by, and what
# falls or is ragged by more.
BEGUN, TOLERATED = 0.1, 0.05
# In standard deviations of the noise of a row: a rise, a fall, and the mean distance to the smoothed curve (0.65 of
# white noise). Of level curves of white noise, less than 1 in 20 seems to rise, to fall or to be ragged.
RISE, FALL, RAGGED = 3.5, 4.0, 2.5
# Standard errors by which a line must rise to be no level one (2.3 % of level ones do), and by which it must rise at
# less than half the rate of the rise before it to be one (10 % of those at half the rate do).
STEEP, SLOW = 2.0, 1.28
# Training has diverged where its smoothed loss is so many times the lowest so far, and above its start.
DIVERGED = 4.0

# What a ramp takes from a run, beside batch size and momentum.
TAKEN = (
    "dataset", "examples", "model", "optimizer", "weight_decay", "ghost_size", "augmentation", "normalization",
    "trust_coefficient", "decay_batch_norm", "image_size", "validation",
)  # fmt: skip


# How a bound is marked that the ramp did not reach, and what to do then.
NOT_REACHED = {"low": "< ", "high": "> "}
ADVICE = {
    "low": "low is no bound: accuracy rises from the first rows on. Begin lower, by factors (--geometric).",
    "high": "high is no bound: a seed still learns at the end of its ramp. End higher.",
}

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

    The rows that count end before the first trouble. With s the accuracy `smoothed`, its rise that from s at the first
    row to its peak, and sigma the noise of single rows where it learns, trouble is that
    - s "falls" by max(5 % of the rise, 4 sigma) below its highest so far, of which the fall has the rows since it was
      last within half of that;
    - rows are "ragged": they lie max(5 % of the rise, 2.5 sigma) off s in the mean of 5;
    - training "diverges": the smoothed loss is above its start and 4 times its lowest so far, or is not finite.

    Through s of the rows before it go three straight lines that join, by least squares: a level one, a rising one, and
    one that is level or falls. Smooth curves bend before they are level, so that the first line loses rows while the
    rows left to it rise by over 10 % of the rise and 2 standard errors, and the last one by 5 %.
    - low: the lr of the last row of the first line, found where it has more than 2 rows;
    - high: that of the first row of the last line ("levels off"), if this has 5 rows or more, and rises at less than
      half the rate of the middle line by 1.28 standard errors (one-sided 90 %); else the last lr before the trouble.
      With neither it is the ramp's last lr and not found ("still learns").
    The lines are over rows, so that they are straight in lr on a linear ramp and in log lr on a geometric one.

    Of simulated ramps of 50 rows whose noise is up to a twentieth of the rise, high is within 3 rows of the truth in 90
    of 100 or more, a plateau is taken for learning in 5 at most, and learning for a plateau in 10 at most; of ramps at
    chance 5 at most seem to rise. At three times that noise a plateau of the last 20 rows is told in 90, not one of 12.

    Raises ValueError where there are no rows, and where s does not rise by 3.5 times the noise of a row: that between
    rows, or if it is more, sqrt(p (1 - p)/n) of an accuracy p over n examples, 1/n being the smallest difference that
    rows have. A net that has learned nothing wanders between classes, and so by that much though its rows agree.

    >>> accuracy = [10, 10, 10, 10, 20, 40, 60, 80, 80, 80, 80, 80, 80, 70, 50, 10, 10]
    >>> find_bounds(range(1, 18), [1.0] * 17, accuracy)
    Bounds(low=4.0, high=8.0, low_found=True, high_found=True, end='levels off')
    """
    lr, loss = np.asarray(lr, float), np.asarray(loss, float)
    if not len(lr):
        raise ValueError("a ramp must have rows to tell its bounds by, but has none")
    rows = len(loss) if np.isfinite(loss).all() else int(np.argmin(np.isfinite(loss)))
    values = np.asarray(accuracy, float)[:rows]
    smooth, diverges = smoothed(values), _diverges(loss[:rows])
    peak, rise = _rise(values, smooth)
    if rise == 0:
        lost = [*lr[:rows][diverges], *lr[rows:]]
        if lost:
            raise ValueError(
                f"accuracy must rise before training diverges, but it diverged by lr={lost[0]:.2g}: lower the ramp"
            )
        raise ValueError(
            f"accuracy must rise within the ramp, but it never does from lr={lr[0]:.2g} to {lr[-1]:.2g}: widen it"
        )

    begun = int(np.flatnonzero(smooth[:peak] < smooth[0] + BEGUN * rise)[-1]) + 1
    # Noise where it learns, over enough rows to tell: before, a net's accuracy may not move at all.
    sigma = _noise(values[max(0, min(begun, peak + 1 - 2 * WINDOW)) : peak + 1])
    below, fallen = np.maximum.accumulate(smooth) - smooth, max(TOLERATED * rise, FALL * sigma)
    off = np.abs(values - smooth)
    off[: WINDOW // 2] = off[-(WINDOW // 2) :] = 0.0  # a window that is cut lies off a steep curve
    ragged = np.nanmean(_windows(off), axis=1) > max(TOLERATED * rise, RAGGED * sigma)
    marks: dict[End, NDArray[np.bool_]] = {"falls": below > fallen, "ragged": ragged, "diverges": diverges}
    ends: list[tuple[int, End]] = [(rows, "diverges")] if rows < len(lr) else []
    after = slice(begun + 1, None)
    ends += [(begun + 1 + int(np.argmax(marks[end][after])), end) for end in marks if marks[end][after].any()]
    row, end = min(ends, default=(rows, "still learns"))
    if end == "falls":
        row = max(begun, int(np.flatnonzero(below[:row] <= fallen / 2)[-1])) + 1

    low, high = _bends(smooth[:row])
    while high < row - 1 and _rises(values[high:row], TOLERATED * rise):
        high += 1
    while low > 0 and _rises(values[: low + 1], BEGUN * rise):
        low -= 1
    slope, error = _line(values[high:row])
    rate = (smooth[high] - smooth[low]) / (high - low)
    if row - high >= WINDOW and slope + SLOW * error < rate / 2:
        end = "levels off"
    else:
        high = row - 1
    return Bounds(float(lr[low]), float(lr[high]), low > WINDOW // 2, end != "still learns", end)


def _rise(values: Floats, smooth: Floats) -> tuple[int, float]:
    """The peak of the smoothed values and their rise from the first to it: 0 where that may be noise."""
    if not len(smooth):
        return 0, 0.0
    peak = int(np.argmax(smooth))
    rise = float(smooth[peak] - smooth[0])
    steps = np.diff(np.unique(values))
    one = float(min(steps[steps > 1e-6], default=0.0))  # what an example is worth, in percent
    counted = math.sqrt(one / 100 * max(p * (100 - p) for p in (smooth[0], smooth[peak])))
    return peak, rise if rise > RISE * max(counted, _noise(values[: max(peak + 1, 2 * WINDOW)])) else 0.0


@lru_cache(maxsize=8)
def _directions(rows: int) -> tuple[NDArray[np.int_], NDArray[np.int_], Floats, Floats]:
    """Where three joined lines over so many rows may bend, and for each such pair two unit vectors: lines that are
    level, rise and are level, and what a slope of the last one adds; at right angles to a constant and to each other.
    """
    number = np.arange(rows)
    low, high = np.triu_indices(rows, 1)
    first = np.clip((number - low[:, None]) / (high - low)[:, None], 0, 1)
    last = np.clip(number - high[:, None], 0.0, None)
    first, last = (lines - lines.mean(axis=1, keepdims=True) for lines in (first, last))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    last -= np.sum(last * first, axis=1, keepdims=True) * first
    length = np.linalg.norm(last, axis=1, keepdims=True)
    return low, high, first, np.divide(last, length, out=np.zeros_like(last), where=length > 1e-9)


def _bends(values: Floats) -> tuple[int, int]:
    """The rows where the best three joined lines bend: level, rising, level or falling."""
    low, high, first, last = _directions(len(values))
    explained = np.maximum(first @ values, 0) ** 2 + np.minimum(last @ values, 0) ** 2
    best = int(np.argmax(explained))
    return int(low[best]), int(high[best])


def _line(values: Floats) -> tuple[float, float]:
    """Slope a row of the line through the values, by least squares, and its standard error: infinite for 2 rows."""
    rows = len(values)
    if rows < 3:
        return 0.0, math.inf
    number = np.arange(rows) - (rows - 1) / 2
    squares = float(number @ number)
    slope = float(number @ values) / squares
    off = values - values.mean() - slope * number
    return slope, math.sqrt(float(off @ off) / (rows - 2) / squares)


def _rises(values: Floats, most: float) -> bool:
    """Whether the line through the values rises by more than `most`, and by more than 2 standard errors."""
    slope, error = _line(values)
    return slope * (len(values) - 1) > most and slope > STEEP * error


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
    far, or its smoothed accuracy, having risen as `find_bounds` asks, is back within 10 % of that rise above its start.
    """
    known = len(rows) - WINDOW // 2  # a smoothed value is known when the rows after it are
    if known < 1:
        return False
    loss, accuracy = (np.array([row[name] for row in rows]) for name in ("train_loss", judged_by))
    smooth = smoothed(accuracy)[:known]
    # Of fewer rows the noise is not known.
    _, rise = _rise(accuracy, smooth) if known >= 2 * WINDOW else (0, 0.0)
    back = rise > 0 and smooth[-1] <= smooth[0] + BEGUN * rise
    return bool(back or _diverges(loss)[known - 1])


def until_lost(train: Train, judged_by: str = "test_accuracy") -> Train:
    """`train`, ended as "stopped" where `is_lost` of its rows."""
    return until(train, partial(is_lost, judged_by=judged_by))
