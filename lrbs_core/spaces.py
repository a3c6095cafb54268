"""Search spaces: by name, what a search may choose; and the candidates that its choices make."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import math
import random
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from lrbs_core.specs import RunSpec

__all__ = ["Candidates", "Choice", "Point", "Range", "Value", "grid", "name_of"]

Value = float | int | str | bool | None
# One value a name, in the order of the space.
Point = dict[str, Value]

# Points that are tried before a search starts: so many corners of the space at most, and so many inside it.
CORNERS, INSIDE = 64, 8


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included: evenly, or by factors (`log`); `whole`: whole numbers alone.

    A search rounds what it draws to a thousandth of the power of ten in high - low, or by factors to 4 digits if that
    is finer, so that labels are short and a point is one run. Raises ValueError unless low < high (and 0 < low for
    `log`), and high - low is a finite number.

    >>> Range(0.01, 1, log=True).values(3), Range(8, 64, whole=True).values(3)
    ((0.01, 0.1, 1.0), (8, 36, 64))
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
                raise ValueError(f"{name} must be a finite number, but got {name}={value!r}")
            if self.whole and value != int(value):
                raise ValueError(f"{name} must be a whole number where whole=True, but got {name}={value!r}")
            object.__setattr__(self, name, int(value) if self.whole else float(value))
        if not (self.low < self.high and (self.low > 0 or not self.log)):
            rule = "0 < low < high" if self.log else "low < high"
            raise ValueError(f"{rule} must hold, but got low={self.low:g}, high={self.high:g}")
        if self.high - self.low > sys.float_info.max:
            raise ValueError(f"high - low must be a finite number, but got low={self.low:g}, high={self.high:g}")

    def has(self, value: Value) -> bool:
        """Whether the value is one of the range."""
        return (
            isinstance(value, int | float)
            and self.low <= value <= self.high
            and not (self.whole and value != round(value))
        )

    def rounded(self, value: float) -> float:
        """The value, or one near it, as it is run: of few digits and within the range."""
        scales = [self.high - self.low, *([value] if self.log else [])]
        digits = max(3 - math.floor(math.log10(scale)) for scale in scales)
        near = round(value) if self.whole else round(value, digits)
        return min(max(near, self.low), self.high)

    def values(self, count: int) -> tuple[float, ...]:
        """So many values from low to high, evenly spaced or by equal factors; fewer where they are not that many."""
        parts = [number / (count - 1) for number in range(1, count - 1)]
        if self.log:
            between = (math.exp(math.log(self.low) * (1 - part) + math.log(self.high) * part) for part in parts)
        else:
            between = (self.low * (1 - part) + self.high * part for part in parts)
        return tuple(dict.fromkeys((self.low, *map(self.rounded, between), self.high)))

    def nearest(self, value: float, count: int) -> float:
        """The one of `values(count)` that lies nearest, by difference or by factor.

        >>> Range(0.01, 1, log=True).nearest(0.2, count=3)
        0.1
        """
        place = math.log if self.log else float
        return min(self.values(count), key=lambda level: abs(place(level) - place(value)))


@dataclass(frozen=True, init=False)
class Choice:
    """One of these values: numbers, names, booleans or None. Raises ValueError unless there are two that differ.

    >>> Choice("sgd", "nesterov").values
    ('sgd', 'nesterov')
    """

    values: tuple[Value, ...]

    def __init__(self, *values: Value) -> None:
        plain = all(value is None or isinstance(value, str | int | float) for value in values)
        if not (len(values) >= 2 and plain and len(set(values)) == len(values)):
            raise ValueError(f"a choice must be of two or more plain values that differ, but got {values!r}")
        object.__setattr__(self, "values", values)

    def has(self, value: Value) -> bool:
        """Whether the value is one of these."""
        return value in self.values


Space = Mapping[str, Range | Choice]


def name_of(point: Point) -> str:
    """The point as the label of its runs.

    >>> name_of({"stepsize": 4.2, "high": 0.31})
    'stepsize=4.2 high=0.31'
    """
    return " ".join(f"{name}={value}" for name, value in point.items())


def grid(space: Space, most: int) -> list[Point]:
    """The finest grid of at most so many points: all values of a choice, as many of each range as fit, but 2 or more.

    Raises ValueError where not even that fits.

    >>> [name_of(point) for point in grid({"B": Choice(8, 16), "lr": Range(0.1, 0.3)}, most=7)]
    ['B=8 lr=0.1', 'B=8 lr=0.2', 'B=8 lr=0.3', 'B=16 lr=0.1', 'B=16 lr=0.2', 'B=16 lr=0.3']
    """
    counts = {name: len(_ends(part)) for name, part in space.items()}
    size = math.prod(counts.values())
    if size > most:
        raise ValueError(f"a grid of this space has at least {size} points, but got --trials {most}")
    finer = {name: _differing(part, most) for name, part in space.items() if isinstance(part, Range)}
    while finer:
        name = min(finer, key=lambda name: counts[name])
        larger = size // counts[name] * (counts[name] + 1)
        if counts[name] == finer[name] or larger > most:
            del finer[name]
        else:
            counts[name], size = counts[name] + 1, larger
    axes = {
        name: part.values if isinstance(part, Choice) else part.values(counts[name]) for name, part in space.items()
    }
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _differing(part: Range, most: int) -> int:
    """The most values of a range, up to so many, before two of them are rounded to the same."""
    return 1 + bisect_left(range(2, most + 1), True, key=lambda count: len(part.values(count)) < count)


@dataclass(frozen=True)
class Candidates:
    """What a sweep's file offers to a search: its SPACE, and `candidate(seed, *, name, ...)`, the run of a point.

    `change` makes the small version of a run that a command line asks for. Raises ValueError unless the names of the
    space are the keyword parameters of `candidate`.
    """

    name: str
    space: Space
    candidate: Callable[..., RunSpec]
    change: Callable[[RunSpec], RunSpec] = lambda spec: spec

    def __post_init__(self) -> None:
        if not isinstance(self.space, Mapping) or not self.space:
            raise ValueError(f"SPACE must be a dictionary of ranges and choices by name, but got {self.space!r}")
        for name, part in self.space.items():
            if not isinstance(part, Range | Choice):
                raise ValueError(f"SPACE must hold Range(low, high) or Choice(value, ...), but got {name}={part!r}")
        taken = list(inspect.signature(self.candidate).parameters)
        if taken[:1] != ["seed"] or set(taken[1:]) != set(self.space):
            raise ValueError(
                f"candidate must take seed, then the names in SPACE ({', '.join(self.space)}), "
                f"but takes {', '.join(taken) or 'nothing'}"
            )

    def has(self, point: Point) -> bool:
        """Whether the point is one of the space."""
        return point.keys() == self.space.keys() and all(part.has(point[name]) for name, part in self.space.items())

    def spec(self, point: Point, seed: int) -> RunSpec:
        """The run of a point and a seed, labelled with the point. Raises ValueError, naming the point."""
        try:
            spec = self.candidate(seed, **point)
            if not isinstance(spec, RunSpec):
                raise ValueError(f"candidate must return a RunSpec, but got {spec!r}")
            if spec.seed != seed:
                raise ValueError(f"the run must have the seed that it is asked for, {seed}, but got seed={spec.seed}")
            return replace(self.change(spec), label=name_of(point))
        except Exception as error:
            raise ValueError(f"{self.name}: candidate at {name_of(point)}: {error}") from error

    @cached_property
    def tried(self) -> list[RunSpec]:
        """Runs all over the space, each planned: its corners (64 of them at most) and 8 points inside.

        Raises ValueError for the first that cannot be, and where a name changes nothing.
        """
        specs = []
        for point in self._probes():
            specs.append(self.spec(point, seed=0))
            specs[-1].plan()
        for name, part in self.space.items():
            if not any(len({self.spec(at | {name: end}, 0).key for end in _ends(part)}) > 1 for at in self._probes()):
                raise ValueError(f"{self.name}: every name in SPACE must change the run, but {name} does not")
        return specs

    def _probes(self) -> Iterator[Point]:
        draw = random.Random(0)
        ends = {name: _ends(part) for name, part in self.space.items()}
        corners: Iterator[tuple[Value, ...]] = itertools.product(*ends.values())
        if math.prod(map(len, ends.values())) > CORNERS:
            corners = (tuple(map(draw.choice, ends.values())) for _ in range(CORNERS))
        inside = (tuple(draw.choice(_levels(part)) for part in self.space.values()) for _ in range(INSIDE))
        for values in itertools.chain(corners, inside):
            yield dict(zip(self.space, values, strict=True))

    @property
    def key(self) -> str:
        """A hash of the space and of what it makes at its corners: another one is another search."""
        content = [
            {name: repr(part) for name, part in self.space.items()},
            [spec.key for spec in self.tried],
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _ends(part: Range | Choice) -> tuple[Value, ...]:
    return part.values if isinstance(part, Choice) else part.values(2)


def _levels(part: Range | Choice) -> tuple[Value, ...]:
    return part.values if isinstance(part, Choice) else part.values(1000)
