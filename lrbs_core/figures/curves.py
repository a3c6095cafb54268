"""Accuracy and loss as training goes on: against epochs, updates and seconds."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from lrbs_core.figures.drawing import Look, Panel, axes, positive
from lrbs_core.results import RunRecord, accuracy_resolution, curves
from lrbs_core.specs import RunSpec
from lrbs_core.statistics import mean_interval

__all__ = [
    "accuracy_chart", "accuracy_numbers", "left_out", "level", "metric_chart", "metric_numbers", "seconds_numbers",
]  # fmt: skip


def level(pairs: Sequence[tuple[RunSpec, RunRecord]]) -> pd.DataFrame:
    """`results.curves` where a policy's rows of one number are of one epoch, so that a mean over seeds means something.

    A run that diverges between two evaluations has its last row early, which is left out if another seed went on.
    """
    table = curves(pairs)
    return table[table["updates"] == table.groupby(["policy", "row"])["updates"].transform("max")]


def metric_numbers(pairs: Sequence[tuple[RunSpec, RunRecord]], metric: str) -> pd.DataFrame:
    """A metric by policy and row: mean over the seeds that got there and 95 % interval, with the row's epoch, updates.

    A run that diverged between two rows of the others counts up to the row before (`level`).
    """
    place = ["policy", "row", "epoch", "updates"]
    resolution = accuracy_resolution(pairs) if metric == "test_accuracy" else 0.0
    lines = [
        dict(zip(place, at, strict=True)) | mean_interval(values.tolist(), resolution=resolution)._asdict()
        for at, values in level(pairs).groupby(place, sort=False)[metric]
    ]
    return pd.DataFrame(lines, columns=[*place, "mean", "low", "high", "n"])


def seconds_numbers(pairs: Sequence[tuple[RunSpec, RunRecord]], metric: str) -> pd.DataFrame:
    """A metric by policy and training time: mean over seeds and 95 % interval.

    No two seeds have rows at the same second. Each seed's curve is taken as straight lines between its rows, at the
    times of all rows of all seeds of the policy from the latest first row to the earliest last row: in between the mean
    is a straight line then too. No curve goes on beyond its rows, so that one slow or short run shortens the policy's,
    down to nothing (`left_out`).
    """
    lines = []
    resolution = accuracy_resolution(pairs) if metric == "test_accuracy" else 0.0
    for policy, table in curves(pairs).groupby("policy", sort=False):
        seeds = [
            (seed["train_seconds"].to_numpy(float), seed[metric].to_numpy(float)) for _, seed in table.groupby("seed")
        ]
        start, end = max(times[0] for times, _ in seeds), min(times[-1] for times, _ in seeds)
        for time in np.unique(np.concatenate([times for times, _ in seeds])):
            if start <= time <= end:
                measured = mean_interval([float(np.interp(time, *seed)) for seed in seeds], resolution=resolution)
                lines.append({"policy": policy, "train_seconds": float(time), **measured._asdict()})
    return pd.DataFrame(lines, columns=["policy", "train_seconds", "mean", "low", "high", "n"])


def left_out(pairs: Sequence[tuple[RunSpec, RunRecord]], numbers: pd.DataFrame) -> str:
    """A sentence for the caption that names the policies with rows of which these `numbers` have none; else empty."""
    drawn = set(numbers["policy"])
    labels = dict.fromkeys(spec.label for spec, record in pairs if record.rows and spec.label not in drawn)
    return f" Left out, as the times of the seeds do not overlap: {', '.join(labels)}." if labels else ""


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
