"""Schedules: one number as a function of the epoch.

A schedule is a frozen value that one calls. Its axis is the epoch (a float: examples seen / N), never the
update, so that it means the same at every batch size. It is right-continuous: at a breakpoint the new
value holds. Values print, compare, hash, pickle, and go to JSON and back.

A new schedule is one dataclass in a file of this folder and one name in `KINDS` below.
"""

from __future__ import annotations

import dataclasses
import reprlib
from typing import Any

from lrbs_core.schedules.base import Constant, Schedule, as_schedule, exactly, listed
from lrbs_core.schedules.combined import Power, Product, Stages, Warmup, warmup_linear, warmup_polynomial
from lrbs_core.schedules.curves import Cosine, Exponential, Linear, Piecewise, Polynomial, Steps
from lrbs_core.schedules.cyclical import ExpRange, Hann, Triangular, Triangular2, Welch, cycle_ends
from lrbs_core.schedules.growth import FromOdds, Growth, Odds, Shrinkage, concrete, extreme

__all__ = [
    "KINDS", "Constant", "Cosine", "ExpRange", "Exponential", "FromOdds", "Growth", "Hann", "Linear", "Odds",
    "Piecewise", "Polynomial", "Power", "Product", "Schedule", "Shrinkage", "Stages", "Steps", "Triangular",
    "Triangular2", "Warmup", "Welch", "as_schedule", "concrete", "cycle_ends", "exactly", "extreme",
    "schedule_from_dict", "warmup_linear", "warmup_polynomial",
]  # fmt: skip

KINDS: dict[str, type[Schedule]] = {
    kind.__name__: kind
    for kind in (
        Constant, Piecewise, Steps, Polynomial, Linear, Cosine, Exponential, Triangular, Triangular2, ExpRange,
        Welch, Hann, Warmup, Stages, Product, Power, Growth, Shrinkage, Odds, FromOdds,
    )
}  # fmt: skip

# Schedules, and lists of them, within one another: trades make a few levels, and every level takes time.
DEPTH = 20


def schedule_from_dict(value: Any) -> Schedule:
    """The inverse of `Schedule.to_dict`. Raises ValueError on an unknown schedule or field, and where nested too deep.

    >>> schedule_from_dict({"schedule": "Linear", "start": 0.1, "end": 0.5, "epochs": 4})
    Linear(start=0.1, end=0.5, epochs=4.0)
    """
    try:
        return as_schedule(_parsed(value, DEPTH))
    except (ArithmeticError, TypeError) as error:
        raise ValueError(f"a schedule must be made of finite numbers, but got {reprlib.repr(value)}: {error}") from None


def _parsed(value: Any, depth: int) -> Any:
    if depth == 0 and isinstance(value, dict | list):
        raise ValueError(f"a schedule must be nested at most {DEPTH} deep, but got {reprlib.repr(value)} within that")
    if isinstance(value, list):
        return tuple(_parsed(item, depth - 1) for item in value)
    if not isinstance(value, dict):
        return value
    name = value.get("schedule")
    if not isinstance(name, str) or name not in KINDS:
        raise ValueError(f"schedule must be one of {', '.join(KINDS)}, but got {reprlib.repr(name)}")
    fields = [f.name for f in dataclasses.fields(KINDS[name])]  # type: ignore[arg-type]
    given = {key: _parsed(item, depth - 1) for key, item in value.items() if key != "schedule"}
    if given.keys() != set(fields):
        raise ValueError(f"{name} must have the fields {', '.join(fields)}, but got {listed(given)}")
    return KINDS[name](**given)
