"""How the pages show a chart and a report: panels that stack on a narrow screen, and tables."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from lrbs_core.figures.drawing import Panel
from lrbs_core.noise import measured_ends
from lrbs_core.specs import RunSpec
from lrbs_core.twins import notes

__all__ = ["plain", "show_chart", "show_claims", "show_comparisons", "show_plans", "show_policies", "show_targets"]


def show_chart(chart: alt.ConcatChart) -> None:
    """The panels of a chart, two side by side where there is room, as wide as that."""
    columns = min(2, len(chart.concat))
    for first in range(0, len(chart.concat), columns):
        for place, panel in zip(st.columns(columns), chart.concat[first : first + columns], strict=False):
            place.altair_chart(_alone(chart, panel), theme=None, width="stretch")


def _alone(chart: alt.ConcatChart, panel: Any) -> Panel:
    """A panel as a chart of its own."""
    shown = panel.copy()
    if shown.data is alt.Undefined:
        shown.data = chart.data  # Altair keeps what panels share with the whole
    if not isinstance(shown, alt.FacetChart):
        shown = shown.properties(width="container", autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
    whole: Panel = shown.configure_axis(gridColor="#eeeeee")
    return whole


def _spread(measured: dict[str, Any] | None, digits: int) -> str:
    """Mean and half of the 95 % interval, as the reports write it."""
    if measured is None or measured["mean"] is None:
        return "–"
    if measured["low"] is None:
        return f"{measured['mean']:.{digits}f}"
    if measured["low"] == measured["high"]:
        return f"{round(measured['mean'], digits):.15g}"
    return f"{measured['mean']:.{digits}f} ± {(measured['high'] - measured['low']) / 2:.{digits}f}"


def plain(text: object) -> str:
    """Text that Streamlit shows as it is: what has a meaning in Markdown is escaped."""
    return re.sub(r"([\\`*_{}\[\]()#+.!|~$:<>-])", r"\\\1", str(text))


def _table(lines: Sequence[dict[str, Any]]) -> None:
    shown = [
        {
            name: f"{value:,.0f}" if isinstance(value, int | float) else plain("–" if value is None else value)
            for name, value in line.items()
        }
        for line in lines
    ]
    st.table(pd.DataFrame(shown), hide_index=True)


def show_plans(specs: Sequence[RunSpec]) -> None:
    """What each of these runs costs, and what to know of its noise scale beside the first one's."""
    lines, told = [], []
    for spec in specs:
        plan = spec.plan()
        scales = [spec.noise_scale(spec.policy(epoch)) for epoch in (0.0, math.nextafter(spec.epochs, 0.0))]
        line = {"policy": spec.label, "updates": plan.updates, "largest batch": plan.peak_batch_size}
        lines.append(line | {"noise scale": _ends(scales) if spec.has_noise_scale else None})
        told += [f"{spec.label}: {note}." for note in notes(spec, specs[0])]
    _table(lines)
    _say(told)


def _ends(scales: Sequence[float]) -> str:
    return " → ".join(f"{scales[end]:.3g}" for end in (0, -1))


def _say(told: Sequence[str]) -> None:
    for line in told:
        st.caption(plain(line))


def show_policies(document: dict[str, Any]) -> None:
    """What each policy came to: `report.overview`."""
    lines = []
    for policy in document["policies"]:
        unfinished = "".join(f", {count} {status}" for status, count in policy["not_finished"].items())
        line = {
            "policy": policy["label"],
            "test accuracy (%)": _spread(policy["test_accuracy"], 2),
            "n": f"{policy['runs']}{unfinished}",
            "updates": policy["updates"],
            "train seconds": _spread(policy["train_seconds"], 1),
            "noise scale": None if policy["noise_scale"][0] is None else _ends(policy["noise_scale"]),
        }
        if policy["validation_accuracy"]["mean"] is not None:
            line["validation accuracy (%)"] = _spread(policy["validation_accuracy"], 2)
        if document["noise_measured"]:
            line["gradient noise scale"] = " → ".join(measured_ends(policy))
        lines.append(line)
    _table(lines)
    _say([f"{policy['label']}: {note}." for policy in document["policies"] for note in policy["notes"]])
    if document["mixed_precision"]:
        st.warning(plain(document["mixed_precision"]))


def show_comparisons(document: dict[str, Any]) -> None:
    """Each policy against the baseline, with how sure one may be."""
    lines = [
        {
            "policy": other["label"],
            "difference (%)": _spread(other, 2),
            "pairs": other["n"],
            "p (Holm)": "–" if other["p"] is None else f"{other['p']:.2g}",
            "verdict": other["verdict"],
            **({"new seeds": other["new_seeds"]} if document["margin"] else {}),
        }
        for other in (policy["difference"] for policy in document["policies"])
        if other
    ]
    if lines:
        _table(lines)


def show_targets(document: dict[str, Any]) -> None:
    """The updates that each policy took to the target accuracy."""
    lines = []
    for policy in document["policies"]:
        took = policy["updates_to_target"]
        line = {"policy": policy["label"], f"updates to {document['target']:g} %": took["median"]}
        line |= {"from": took["low"], "to": took["high"], "reached": f"{took['reached']} of {took['n']}"}
        lines.append(line)
    _table(lines)


def show_claims(document: dict[str, Any]) -> None:
    """Each claim of the paper beside what was measured."""
    _table([
        {
            "where": claim["where"],
            "claim": claim["claim"],
            "paper": claim["expected"],
            "ours": _spread(claim["measured"], 4 if claim["metric"] == "train_loss" else 2),
            "n": claim["measured"]["n"] if claim["measured"] else 0,
            "verdict": claim["verdict"],
            "power": "–" if claim["power"] is None else f"{claim['power']:.0%}",
        }
        for claim in document["claims"]
    ])  # fmt: skip
