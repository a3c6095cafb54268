"""Curves that may turn between the edges of their parts: where is looked for on the curve, as no formula tells."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import lru_cache

from lrbs_core.schedules.base import Schedule, up_to

# Between two corners a curve is looked at at so many places evenly, and at distances from both ends that shrink by 4
# each time: a power may turn in the last part in a million before it ends.
EVENLY, NEARER = 32, 20
# Relative changes below this are taken for the noise of floating-point products.
NOISE = 1e-12


class Turning(Schedule):
    """A schedule made of others, of which one may rise while another falls.

    Its edges are the `corners`, and the epochs between them where the curve turns: exact but for rounding, as long as
    two turns never lie between two neighbouring places of those looked at.
    """

    @abstractmethod
    def corners(self, end: float) -> tuple[float, ...]:
        """The edges of its parts in (0, end]."""

    @abstractmethod
    def one_way(self, start: float, last: float) -> bool:
        """Whether it is known to be monotone from `start` to `last`, between two corners."""

    def edges(self, end: float) -> tuple[float, ...]:
        if not 0 < end < math.inf:
            return self.corners(end)
        # All ends below a power of 2 share one search, and so find the same.
        beyond = 2.0 ** math.ceil(math.log2(end))
        try:
            return up_to(_edges(self, beyond), end)
        except ValueError:  # where its parts refuse to tell as many corners
            return up_to(_edges(self, end), end)


@lru_cache(maxsize=1024)
def _edges(curve: Turning, end: float) -> tuple[float, ...]:
    corners = curve.corners(end)
    found = set(corners)
    for start, stop in itertools.pairwise(dict.fromkeys((0.0, *corners, end))):
        found.update(_turns(curve, start, stop))
    return tuple(sorted(found))


def _turns(curve: Turning, start: float, stop: float) -> Iterator[float]:
    """Where the curve turns within (start, stop), which has no corner."""
    last, span = math.nextafter(stop, 0.0), stop - start
    try:
        if curve.one_way(start, last):
            return
    except (ArithmeticError, ValueError):
        pass  # it is not defined everywhere
    near = [span * 4.0**-power for power in range(3, NEARER)]
    even = (start + span * part / EVENLY for part in range(1, EVENLY))
    places = sorted({start, *even, *(start + far for far in near), *(stop - far for far in near), last})
    kept: list[tuple[float, float]] = []
    for place in places:
        try:
            value = curve(place)
        except (ArithmeticError, ValueError):
            continue
        if not kept or abs(value - kept[-1][1]) > NOISE * max(abs(value), abs(kept[-1][1])):
            kept.append((place, value))
    for (left, before), (_, top), (right, after) in zip(kept, kept[1:], kept[2:], strict=False):
        if (top > before) == (top > after):
            turn = _peak(curve, left, right, 1.0 if top > before else -1.0)
            if start < turn < stop:
                yield turn


def _peak(curve: Callable[[float], float], left: float, right: float, sign: float) -> float:
    """The epoch of the highest value (sign 1) or lowest (-1) of a curve that turns once in between: golden section."""
    ratio = (math.sqrt(5) - 1) / 2
    inner = [right - ratio * (right - left), left + ratio * (right - left)]
    values = [sign * curve(place) for place in inner]
    while left < inner[0] < inner[1] < right:
        if values[0] < values[1]:
            left = inner[0]
            inner = [inner[1], left + ratio * (right - left)]
            values = [values[1], sign * curve(inner[1])]
        else:
            right = inner[1]
            inner = [right - ratio * (right - left), inner[0]]
            values = [sign * curve(inner[0]), values[0]]
    return max(((value, place) for value, place in zip(values, inner, strict=True)))[1]
