"""Plans and reports as a terminal shows them, and the plan as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
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
    """A table of phases for each policy. `speeds`: examples a second by model, for the hours."""
    console, first = Console(highlight=False), sweep.runs[0]
    console.print(
        f"[bold]{sweep.name}[/bold]: {len(sweep.runs)} runs, {first.examples:,} examples, {first.epochs:g} epochs, "
        f"partial batches: {first.partial}{_small_version(dict(first.overrides))}",
        soft_wrap=True,
    )
    for spec in _policies(sweep):
        plan, speed = spec.plan(), speeds.get(spec.model)
        parts = len(micro_batches(plan.peak_batch_size, micro_batch, spec.ghost_size))
        runs = sum(other.label == spec.label for other in sweep.runs)
        console.print(
            f"\n[bold]{escape(spec.label)}[/bold]: {plan.updates:,} updates, peak batch {plan.peak_batch_size:,}"
            + (f" in {parts} micro-batches of at most {micro_batch:,}" if parts > 1 else "")
            + f", {runs} run{'s' if runs > 1 else ''}"
            + (f" of {plan.examples / speed / 3600:.2f} h" if speed else ""),
            soft_wrap=True,
        )
        table = _table("epochs", "lr", "batch", "momentum", "noise scale", "updates")
        for phase in plan.phases:
            table.add_row(
                f"{phase.epoch_start:g} - {phase.epoch_end:g}",
                f"{phase.lr:.4g}",
                f"{phase.batch_size:,}",
                f"{phase.momentum:g}",
                f"{phase.noise_scale:.4g}",
                f"{phase.updates:,}",
            )
        console.print(table)
    if not all(spec.model in speeds for spec in sweep.runs):
        console.print(
            "\nFor hours: --examples-per-second, or run a small version with this model first (its speed is in --out)."
        )
    for claim in sweep.claims:
        if claim.metric == "updates" and not first.overrides:
            planned = next(spec for spec in sweep.runs if spec.label == claim.policy).plan().updates
            meets = "meets" if claim.holds(planned) else "does not meet"
            console.print(
                f"{escape(claim.where)}: {planned:,} updates planned {meets} {claim.expected}", soft_wrap=True
            )


def print_overview(document: dict[str, Any]) -> None:
    """The report as tables: policies, then claims."""
    console = Console(highlight=False)
    console.print(f"[bold]{document['sweep']}[/bold]{_small_version(document['overrides'])}", soft_wrap=True)
    table = _table("policy", "runs", "updates", "test accuracy %", "train seconds", "noise scale")
    for policy in document["policies"]:
        unfinished = ", ".join(f"{count} {name}" for name, count in policy["not_finished"].items())
        table.add_row(
            escape(policy["label"]),
            f"{policy['runs']}/{policy['of']}" + (f" ({unfinished})" if unfinished else ""),
            f"{policy['updates']:,}",
            _interval(policy["test_accuracy"], 2),
            _interval(policy["train_seconds"], 1),
            " → ".join(
                f"{value:.3g}" for value in dict.fromkeys([*policy["noise_scale"][:1], *policy["noise_scale"][-1:]])
            ),
        )
    console.print(table)
    console.print(
        "mean ± half of the 95 % interval (Student's t) over seeds; noise scale at the end of first and last phase"
    )
    if document["claims"]:
        console.print(f"\nClaims of {escape(document['source'])}", soft_wrap=True)
        claims = _table("where", "claim", "expected", "measured", "verdict", left=2)
        for claim in document["claims"]:
            measured = "" if claim["measured"] is None else _interval(claim["measured"], 2)
            claims.add_row(
                *map(escape, (claim["where"], claim["claim"], claim["expected"], measured, claim["verdict"]))
            )
        console.print(claims)


def _table(*columns: str, left: int = 1) -> Table:
    """Columns of numbers, right-aligned, after `left` columns of text."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < left else "right", overflow="fold")
    return table


def _small_version(overrides: dict[str, str]) -> str:
    if not overrides:
        return ""
    return "\nnot the paper's settings: " + escape(", ".join(f"{name}={value}" for name, value in overrides.items()))


def _interval(measured: dict[str, float | None], digits: int) -> str:
    mean, low, high = (measured[name] for name in ("mean", "low", "high"))
    if mean is None:
        return "-"
    if low is None or high is None:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {(high - low) / 2:.{digits}f}" if low != high else f"{mean:g}"
