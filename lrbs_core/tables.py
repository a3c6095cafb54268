"""Plans and reports as a terminal shows them, and the plan as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Console
from rich.table import Table

from lrbs_core.planning import micro_batches
from lrbs_core.specs import RunSpec
from lrbs_core.sweeping import Sweep

__all__ = ["plan_document", "print_overview", "print_plan"]


def plan_document(sweep: Sweep) -> dict[str, Any]:
    """`lrbs plan --json`. The plan of a label is worked out once for all its seeds."""
    plans = {spec.label: spec.plan() for spec in _policies(sweep)}
    runs = [
        {
            "label": spec.label,
            "seed": spec.seed,
            "key": spec.key,
            "epochs": spec.epochs,
            "updates": plans[spec.label].updates,
            "peak_batch_size": plans[spec.label].peak_batch_size,
            "phases": [
                {name: _tidy(value) for name, value in dataclasses.asdict(phase).items()}
                for phase in plans[spec.label].phases
            ],
        }
        for spec in sweep.runs
    ]
    return {"sweep": sweep.name, "examples": sweep.runs[0].examples, "runs": runs}


def _tidy(value: float) -> float:
    return float(f"{value:.12g}") if isinstance(value, float) else value


def _policies(sweep: Sweep) -> list[RunSpec]:
    """The first run of each label."""
    return list({spec.label: spec for spec in reversed(sweep.runs)}.values())[::-1]


def print_plan(sweep: Sweep, speeds: dict[str, float], micro_batch: int) -> None:
    """A line a policy, and a line a phase below it. `speeds`: examples a second by model, for the hours."""
    first = sweep.runs[0]
    title = f"{sweep.name}: {first.examples:,} examples, {first.epochs:g} epochs, partial batches: {first.partial}"
    if first.overrides:
        title += "\n" + ", ".join(f"{name}={value}" for name, value in first.overrides)
    table = Table(title=title, title_justify="left")
    table.add_column("policy", overflow="fold")
    for name in ("runs", "epochs", "lr", "batch", "momentum", "noise scale", "updates", "micro-batches", "hours a run"):
        table.add_column(name, justify="right")
    for spec in _policies(sweep):
        plan = spec.plan()
        speed = speeds.get(spec.model)
        table.add_row(
            f"[bold]{spec.label}[/bold]",
            str(sum(other.label == spec.label for other in sweep.runs)),
            f"{spec.epochs:g}",
            "",
            f"peak {plan.peak_batch_size}",
            "",
            "",
            f"{plan.updates}",
            str(len(micro_batches(plan.peak_batch_size, micro_batch, spec.ghost_size))),
            f"{plan.examples / speed / 3600:.2f}" if speed else "?",
        )
        for number, phase in enumerate(plan.phases):
            table.add_row(
                "",
                "",
                f"{phase.epoch_start:g} - {phase.epoch_end:g}",
                f"{phase.lr:.4g}",
                str(phase.batch_size),
                f"{phase.momentum:g}",
                f"{phase.noise_scale:.4g}",
                str(phase.updates),
                "",
                "",
                end_section=number == len(plan.phases) - 1,
            )
    console = Console(highlight=False)
    console.print(table)
    if not all(spec.model in speeds for spec in sweep.runs):
        console.print("hours: give --examples-per-second, or run a small version first (its speed is taken from --out)")


def print_overview(document: dict[str, Any]) -> None:
    """The report as tables: policies, then claims."""
    console = Console(highlight=False)
    overrides = ", ".join(f"{name}={value}" for name, value in document["overrides"].items())
    title = document["sweep"] + (f"   small version, not the paper's settings: {overrides}" if overrides else "")
    table = Table(title=title, title_justify="left", caption="mean [95 % interval] over seeds", caption_justify="left")
    table.add_column("policy", overflow="fold")
    for name in ("runs", "updates", "test accuracy %", "train seconds", "noise scale by phase"):
        table.add_column(name, justify="right")
    for policy in document["policies"]:
        unfinished = ", ".join(f"{count} {name}" for name, count in policy["not_finished"].items())
        table.add_row(
            policy["label"],
            f"{policy['runs']} of {policy['of']}" + (f" ({unfinished})" if unfinished else ""),
            str(policy["updates"]),
            _interval(policy["test_accuracy"], 2),
            _interval(policy["train_seconds"], 1),
            " ".join(f"{value:.3g}" for value in policy["noise_scale"]),
        )
    console.print(table)
    if document["claims"]:
        claims = Table(title=f"Claims of {document['source']}", title_justify="left")
        for name in ("where", "claim", "expected", "measured", "verdict"):
            claims.add_column(name, overflow="fold")
        for claim in document["claims"]:
            measured = "" if claim["measured"] is None else _interval(claim["measured"], 2)
            claims.add_row(claim["where"], claim["claim"], claim["expected"], measured, claim["verdict"])
        console.print(claims)


def _interval(measured: dict[str, float | None], digits: int) -> str:
    mean, low, high = (measured[name] for name in ("mean", "low", "high"))
    if mean is None:
        return "-"
    if low is None or high is None:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]" if low != high else f"{mean:g}"
