"""What a search found, as a table, as figures, and as one HTML file that needs no network."""

from __future__ import annotations

import base64
import platform
from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt
import pandas as pd
from jinja2 import Environment, PackageLoader

from lrbs_core import figures
from lrbs_core.policies import Policy
from lrbs_core.spaces import Range
from lrbs_core.validation import JUDGED
from lrbs_core.version import __version__

__all__ = ["chosen_axes", "front", "heat_map", "html", "table"]

# Values of an axis of the heat map: a range of which more were tried is cut into so many.
LEVELS = 6


def table(document: dict[str, Any]) -> pd.DataFrame:
    """One line a finished trial of `Search.document`: trial, point, and the mean of each metric over its seeds."""
    metrics = [name for name, value in document["trials"][0].items() if isinstance(value, dict) and "mean" in value]
    lines = [
        {"trial": trial["trial"], **trial["point"], **{name: trial[name]["mean"] for name in metrics}}
        for trial in document["trials"]
        if trial["status"] == "finished"
    ]
    return pd.DataFrame(lines, columns=["trial", *document["space"], *metrics])


def chosen_axes(document: dict[str, Any], axes: Sequence[str] | None) -> tuple[str, str]:
    """The two names that a heat map is over: those asked for, else those that mattered most to the first objective.

    Raises ValueError where there are no two that are searched and of numbers.
    """
    space = document["space"]
    numeric = [name for name, part in space.items() if "low" in part or all(map(_is_number, part["values"]))]
    if axes is None:
        order = list(next(iter(document["importances"].values())))
        axes = sorted(numeric, key=lambda name: order.index(name) if name in order else len(order))[:2]
    if len(set(axes)) != 2 or not set(axes) <= set(numeric):
        raise ValueError(
            f"a heat map needs two of the names that are searched and of numbers ({', '.join(numeric) or 'none'}), "
            f"but got {', '.join(axes) or 'none'}"
        )
    return axes[0], axes[1]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def heat_map(document: dict[str, Any], axes: Sequence[str] | None = None) -> alt.LayerChart:
    """The first objective over two names; of a range of which many values were tried, by the nearest of six levels.

    Raises ValueError as `chosen_axes` does, and where no trial has finished.
    """
    x, y = chosen_axes(document, axes)
    value, found = next(iter(document["objectives"])), table(document)
    if found.empty:
        raise ValueError("a heat map needs a finished trial, but got none")
    for name in (x, y):
        part = document["space"][name]
        if "low" in part and found[name].nunique() > LEVELS:
            span = Range(**part)
            found[name] = [span.nearest(at, LEVELS) for at in found[name]]
    return figures.heat_chart(figures.heat_numbers(found, x, y, value), x, y, value)


def front(document: dict[str, Any]) -> Iterator[tuple[str, alt.LayerChart]]:
    """The Pareto front in a figure for each objective after the first, with a caption."""
    best = {best["trial"] for best in document["best"]}
    first, *others = document["objectives"]
    for other in others:
        numbers = figures.front_numbers(table(document), other, first, best)
        yield (
            f"Trials by {other} and {first}; joined and numbered: the Pareto front of all objectives.",
            figures.front_chart(numbers, other, first),
        )


def html(document: dict[str, Any], axes: Sequence[str] | None, command: str) -> str:
    """The document as HTML, with figures and the command; every name in it is escaped."""
    template = Environment(loader=PackageLoader("lrbs_core"), autoescape=True).get_template("search.html")
    charts = list(front(document)) if document["best"] else []
    try:
        x, y = chosen_axes(document, axes)
        charts.append((f"Mean {next(iter(document['objectives']))} over {x} and {y}.", heat_map(document, (x, y))))
    except ValueError:
        if axes is not None:
            raise
    counts = pd.Series([trial["status"] for trial in document["trials"]]).value_counts()
    return template.render(
        document=document,
        counts=[(str(status), int(count)) for status, count in counts.items()],
        figures=[(caption, base64.b64encode(figures.svg(chart).encode()).decode()) for caption, chart in charts],
        policies=[(best["trial"], repr(Policy.from_dict(best["policy"]))) for best in document["best"]],
        others=[name for name in document["objectives"] if name not in ("test_accuracy", "updates", "train_seconds")],
        judged=JUDGED[document["judged_on"]],
        version=f"{__version__}, Python {platform.python_version()}",
        command=command,
    )
