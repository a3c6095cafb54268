"""Accuracy and loss as training goes on: against epochs, updates and seconds."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from lrbs_core.figures.drawing import Look, Panel, axes, positive
from lrbs_core.journal import Row
from lrbs_core.results import RunRecord, curves
from lrbs_core.specs import RunSpec
from lrbs_core.statistics import mean_interval

__all__ = ["accuracy_chart", "accuracy_numbers", "metric_chart", "metric_numbers", "seconds_numbers"]


def metric_numbers(pairs: Sequence[tuple[RunSpec, RunRecord]], metric: str) -> pd.DataFrame:
    """A metric by policy and row: mean over seeds and 95 % interval, with the epoch and updates of the row."""
    places: dict[tuple[str, float], Row] = {}
    values: dict[tuple[str, float], list[float]] = {}
    for spec, record in pairs:
        for row in record.rows:
            place = (spec.label, row["row"])
            places.setdefault(place, row)
            values.setdefault(place, []).append(row[metric])
    lines = [
        {"policy": policy, **{name: places[policy, number][name] for name in ("row", "epoch", "updates")}}
        | mean_interval(values[policy, number])._asdict()
        for policy, number in places
    ]
    return pd.DataFrame(lines, columns=["policy", "row", "epoch", "updates", "mean", "low", "high", "n"])


def seconds_numbers(pairs: Sequence[tuple[RunSpec, RunRecord]], metric: str) -> pd.DataFrame:
    """A metric by policy and training time: mean over seeds and 95 % interval.

    No two seeds have rows at the same second. Each seed's curve is taken as straight lines between its rows, at the
    times of all rows of all seeds of the policy from the latest first row to the earliest last row: in between the mean
    is a straight line then too. No curve goes on beyond its rows, so that one slow or short run shortens the policy's.
    """
    lines = []
    for policy, table in curves(pairs).groupby("policy", sort=False):
        seeds = [
            (seed["train_seconds"].to_numpy(float), seed[metric].to_numpy(float)) for _, seed in table.groupby("seed")
        ]
        start, end = max(times[0] for times, _ in seeds), min(times[-1] for times, _ in seeds)
        for time in np.unique(np.concatenate([times for times, _ in seeds])):
            if start <= time <= end:
                measured = mean_interval([float(np.interp(time, *seed)) for seed in seeds])
                lines.append({"policy": policy, "train_seconds": float(time), **measured._asdict()})
    return pd.DataFrame(lines, columns=["policy", "train_seconds", "mean", "low", "high", "n"])


def metric_chart(numbers: pd.DataFrame, metric: str, policies: Sequence[str] | None = None) -> alt.ConcatChart:
    """Mean with 95 % band over seeds against what the frame has: epochs and updates (log axis), or training time.

    A loss has a log axis (Smith et al. 2018, Figure 2); a policy of one seed has no band.
    """
    look, log = Look(numbers, policies), metric.endswith("_loss")
    drawn = positive(numbers, "mean", "low", "high") if log else numbers
    y = axes(metric, numbers[["mean", "low", "high"]].to_numpy(float).ravel(), log)

    def panel(name: str) -> Panel:
        x = alt.X(f"{name}:Q", **axes(name, numbers[name] if name == "updates" else [], log=True))
        line = look.line(drawn).encode(x=x, y=alt.Y("mean:Q", **y))
        band = alt.Chart(drawn).mark_area(opacity=0.12)
        return look.panel(band.encode(x=x, y=alt.Y("low:Q", **y), y2="high:Q", color=look.colour) + line)

    shown = [name for name in ("epoch", "updates", "train_seconds") if name in numbers]
    return look.beside([panel(name) for name in shown], columns=2)


def accuracy_numbers(pairs: Sequence[tuple[RunSpec, RunRecord]]) -> pd.DataFrame:
    """`metric_numbers` of the test accuracy."""
    return metric_numbers(pairs, "test_accuracy")


def accuracy_chart(numbers: pd.DataFrame, policies: Sequence[str] | None = None) -> alt.ConcatChart:
    """`metric_chart` of the test accuracy."""
    return metric_chart(numbers, "test_accuracy", policies)
