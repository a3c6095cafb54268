"""What a schedule is: the base of every curve, and how its fields make `scaled` and `stretched` generic."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

# What a field is: LEVEL a value of the schedule, EPOCHS a duration, RATE a factor an epoch; without a mark, neither.
LEVEL, EPOCHS, RATE = ({"kind": kind} for kind in ("level", "epochs", "rate"))


def exactly(value: float, factor: float) -> float:
    """value * factor in decimal arithmetic, so that a breakpoint scaled down stays the number one would write.

    >>> 3 * 0.1, exactly(3, 0.1)
    (0.30000000000000004, 0.3)
    """
    return float(decimal(value) * decimal(factor))


def decimal(value: float) -> Decimal:
    """The number as one would write it: 0.1 is a tenth, not the double beside it."""
    return Decimal(repr(float(value)))


def tidy(value: float) -> float:
    """The value without the noise of floating-point products (12 significant digits)."""
    return float(f"{value:.12g}")


def require(holds: bool, rule: str, **given: object) -> None:
    """Raises ValueError with the rule and what was given."""
    if not holds:
        raise ValueError(f"{rule} must hold, but got {', '.join(f'{name}={value!r}' for name, value in given.items())}")


def listed(names: Iterable[object]) -> str:
    """Names that somebody gave, as part of an error's one line."""
    return ", ".join(f"{name}" if f"{name}".isprintable() else f"{name!r}" for name in names) or "none"


def up_to(edges: Iterable[float], end: float) -> tuple[float, ...]:
    """The edges that are not past `end`."""
    return tuple(edge for edge in edges if edge <= end)


class Schedule(ABC):
    """epoch -> value. Abstract: see the dataclasses below."""

    @abstractmethod
    def __call__(self, epoch: float) -> float:
        """The value at `epoch` (epochs since the start, >= 0)."""

    def edges(self, end: float) -> tuple[float, ...]:
        """The epochs in (0, end] where the curve jumps, bends or turns; it is monotone between them."""
        return ()

    @property
    def flat(self) -> bool:
        """Whether it is constant between its edges (of which there are then finitely many)."""
        return False

    def scaled(self, factor: float) -> Schedule:
        """The schedule whose every value is `factor` times this one's."""
        return self._changed("level", lambda value: tidy(value * factor), lambda part: part.scaled(factor))

    def stretched(self, factor: float) -> Schedule:
        """The schedule that runs through the same values in `factor` times the epochs."""
        changed = self._changed("epochs", lambda epochs: exactly(epochs, factor), lambda part: part.stretched(factor))
        return changed._changed("rate", lambda gamma: gamma ** (1 / factor), lambda part: part)

    def _changed(
        self, kind: str, change: Callable[[float], float], descend: Callable[[Schedule], Schedule]
    ) -> Schedule:
        def walk(value: Any, marked: bool) -> Any:
            if isinstance(value, Schedule):
                return descend(value)
            if isinstance(value, tuple):
                return tuple(walk(item, marked) for item in value)
            return change(value) if marked and isinstance(value, float) else value

        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        values = {f.name: walk(getattr(self, f.name), f.metadata.get("kind") == kind) for f in fields}
        return type(self)(**values)

    def to_dict(self) -> dict[str, Any] | float:
        """JSON: a plain number for a constant, else {"schedule": name, field: value, ...}."""

        def plain(value: Any) -> Any:
            if isinstance(value, Schedule):
                return value.to_dict()
            return [plain(item) for item in value] if isinstance(value, tuple) else value

        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {"schedule": type(self).__name__} | {f.name: plain(getattr(self, f.name)) for f in fields}

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = _canonical(getattr(self, f.name))
            if f.type == "Schedule":
                value = as_schedule(value)
            elif f.type in ("float", "tuple[float, ...]"):
                _check_numbers(f.name, f.metadata.get("kind"), value, many=f.type != "float")
            object.__setattr__(self, f.name, value)
        self._check()

    def _check(self) -> None:  # noqa: B027 - most have no further rule
        """Rules beyond those of the single fields; raises ValueError."""


def _canonical(value: Any) -> Any:
    """Lists to tuples and whole numbers to floats, so that equal schedules are equal values with equal JSON."""
    if isinstance(value, list | tuple):
        return tuple(map(_canonical, value))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _check_numbers(name: str, kind: str | None, value: Any, many: bool) -> None:
    require(not many or isinstance(value, tuple), f"{name} a tuple of numbers", **{name: value})
    for number in value if many else (value,):
        require(isinstance(number, float) and math.isfinite(number), f"{name} a finite number", **{name: value})
        if kind == "epochs":
            require(number > 0, f"{name} > 0", **{name: value})
        if kind == "rate":
            require(0 < number <= 1, f"0 < {name} <= 1", **{name: value})


@dataclass(frozen=True)
class Constant(Schedule):
    """The same value for ever.

    >>> Constant(0.1)(50)
    0.1
    """

    value: float = field(metadata=LEVEL)

    def __call__(self, epoch: float) -> float:
        return self.value

    @property
    def flat(self) -> bool:
        return True

    def to_dict(self) -> float:
        return self.value


def as_schedule(value: Schedule | float) -> Schedule:
    """A plain number stands for a constant.

    >>> as_schedule(128)
    Constant(value=128.0)
    """
    return value if isinstance(value, Schedule) else Constant(value)
