"""Plans and reports as a terminal shows them, and the plan as JSON."""

from __future__ import annotations

import math
import os
from collections import Counter
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lrbs_core.documents import planned_claims, policies_of
from lrbs_core.noise import measured_ends
from lrbs_core.planning import micro_batch_limit, micro_batches
from lrbs_core.policies import Policy
from lrbs_core.range_test import ADVICE, NOT_REACHED
from lrbs_core.schedules import schedule_from_dict
from lrbs_core.specs import MICRO_BATCH
from lrbs_core.sweeping import Sweep
from lrbs_core.twins import notes
from lrbs_core.validation import JUDGED

__all__ = ["print_discovery", "print_overview", "print_plan", "print_range", "print_search"]

# Trials of a search that are shown.
BEST = 10
# Columns of a table in a file or a pipe, at most.
WIDEST = 1000


def print_plan(sweep: Sweep, speeds: dict[str, float], micro_batch: int | None) -> None:
    """A table of phases for each policy. `speeds`: examples a second by model, for the hours.

    Without a `micro_batch`, the most examples in one forward/backward are what they are by default on a GPU.
    """
    console, first, epochs = _console(), sweep.runs[0], [spec.epochs for spec in sweep.runs]
    console.print(
        f"[bold]{escape(sweep.name)}[/bold]: {len(sweep.runs)} runs, {first.train_examples:,} examples"
        f"{f' ({first.validation_examples:,} more set aside for validation)' if first.validation else ''}, "
        f"{' to '.join(f'{epoch:g}' for epoch in sorted({min(epochs), max(epochs)}))} epochs, "
        f"partial batches: {first.partial}{_small_version(dict(first.overrides))}",
        soft_wrap=True,
    )
    for spec in policies_of(sweep):
        plan, speed = spec.plan(), speeds.get(spec.model)
        limit = micro_batch_limit(micro_batch, MICRO_BATCH["cuda"], spec.ghost_size)
        raised = micro_batch is None and limit > MICRO_BATCH["cuda"]
        parts = len(micro_batches(plan.peak_batch_size, limit, spec.ghost_size))
        runs = sum(other.label == spec.label for other in sweep.runs)
        console.print(
            f"\n[bold]{escape(spec.label)}[/bold]: {plan.updates:,} updates, peak batch {plan.peak_batch_size:,}"
            + (
                f" in {parts} micro-batch{'es' if parts > 1 else ''} of at most {limit:,}"
                if parts > 1 or raised
                else ""
            )
            + (f" (its ghost size, above the default of {MICRO_BATCH['cuda']:,})" if raised else "")
            + f", {runs} run{'s' if runs > 1 else ''}"
            + (f" of {plan.examples / speed / 3600:.2f} h" if speed else ""),
            soft_wrap=True,
        )
        table = _table("epochs", "lr", "batch", "momentum", "noise scale", "updates")
        for phase in plan.phases:
            last = spec.policy(math.nextafter(phase.epoch_end, 0))
            table.add_row(
                f"{phase.epoch_start:g} - {phase.epoch_end:g}",
                _span(phase.lr, last.lr, ".4g"),
                _span(phase.batch_size, last.batch_size, ","),
                _span(phase.momentum, last.momentum, "g"),
                _span(phase.noise_scale, spec.noise_scale(last), ".4g") if spec.has_noise_scale else "-",
                f"{phase.updates:,}",
            )
        console.print(table)
        for note in notes(spec, first):
            console.print(escape(note), soft_wrap=True)
    if not all(spec.model in speeds for spec in sweep.runs):
        console.print(
            "\nFor hours: --examples-per-second, or run a small version with this model first (its speed is in --out)."
        )
    if first.overrides:
        return
    for claim in sweep.claims:
        if claim.metric == "updates":
            updates = {spec.label: spec.plan().updates for spec in policies_of(sweep)} | {None: 0}
            planned = updates[claim.policy] - updates[claim.versus]
            meets = "meets" if claim.holds(planned) else "does not meet"
            less = "" if claim.versus is None else f" less those of {escape(claim.versus)}"
            console.print(
                f"{escape(claim.where)}: {planned:,} updates planned{less} {meets} {claim.expected}", soft_wrap=True
            )
    table = _table("where", "claim", "expected", "seeds", "power", left=2)
    for claim, line in zip(sweep.claims, planned_claims(sweep), strict=True):
        if claim.metric != "updates":
            told = map(escape, (line["where"], line["claim"], line["expected"]))
            table.add_row(*told, f"{line['seeds']}", _share(line["power"]))
    if table.row_count:
        console.print()
        console.print(table)
        console.print("power: how often so many seeds find the claim reproduced if the paper is right", soft_wrap=True)


def _share(power: float | None) -> str:
    return "-" if power is None else f"{power:.0%}"


def _span(first: float, last: float, form: str) -> str:
    """One value, or where it starts and ends; the last float before a 0 is shown as 0."""
    texts = (format(first, form), format(last if abs(last) > 1e-12 * abs(first) else 0, form))
    return " → ".join(dict.fromkeys(texts))


def print_overview(document: dict[str, Any]) -> None:
    """The report as tables: policies, then claims."""
    console = _console()
    console.print(f"[bold]{escape(document['sweep'])}[/bold]{_small_version(document['overrides'])}", soft_wrap=True)
    noise_measured = document["noise_measured"]
    validated = any(policy["validation_accuracy"]["mean"] is not None for policy in document["policies"])
    accuracies = ("test accuracy %", *(["validation accuracy %"] if validated else []))
    columns = ("policy", "runs", "updates", *accuracies, "train seconds", "noise scale")
    table = _table(*columns, *(["gradient noise scale"] if noise_measured else []))
    for policy in document["policies"]:
        unfinished = ", ".join(f"{count} {name}" for name, count in policy["not_finished"].items())
        table.add_row(
            escape(policy["label"]),
            f"{policy['runs']}/{policy['of']}" + (f" ({unfinished})" if unfinished else ""),
            f"{policy['updates']:,}",
            _interval(policy["test_accuracy"], 2),
            *([_interval(policy["validation_accuracy"], 2)] if validated else []),
            _interval(policy["train_seconds"], 1),
            " → ".join(
                "-" if value is None else f"{value:.3g}"
                for value in dict.fromkeys([*policy["noise_scale"][:1], *policy["noise_scale"][-1:]])
            ),
            *([" → ".join(measured_ends(policy))] if noise_measured else []),
        )
    console.print(table)
    console.print(
        "mean ± half of the 95 % interval (Student's t) over seeds; "
        + (
            f"accuracies that are all equal ± one example of the test set ({document['accuracy_resolution']:.2g} %); "
            if document["accuracy_resolution"]
            else ""
        )
        + "noise scale at the end of first and last phase"
        + (
            "; gradient noise scale, in examples, as measured in these phases, with its 95 % interval"
            if noise_measured
            else ""
        )
    )
    for policy in document["policies"]:
        for note in policy["notes"]:
            console.print(escape(f"{policy['label']}: {note}"), soft_wrap=True)
    if document["mixed_precision"]:
        console.print(escape(document["mixed_precision"]), soft_wrap=True)
    _print_comparisons(console, document)
    if document["claims"]:
        console.print(f"\nClaims of {escape(document['source'])}", soft_wrap=True)
        claims = _table("where", "claim", "expected", "measured", "verdict", "power", left=2)
        for claim in document["claims"]:
            digits = 4 if claim["metric"] == "train_loss" else 2
            measured = "" if claim["measured"] is None else _interval(claim["measured"], digits)
            claims.add_row(
                *map(escape, (claim["where"], claim["claim"], claim["expected"], measured, claim["verdict"])),
                _share(claim["power"]),
            )
        console.print(claims)
        console.print("power: how often so many runs find the claim reproduced if the paper is right", soft_wrap=True)


def _print_comparisons(console: Console, document: dict[str, Any]) -> None:
    """Each policy against the baseline, and what it took to the target."""
    from lrbs_core.report import advice

    compared = [policy["difference"] for policy in document["policies"] if policy["difference"]]
    if compared:
        margin = f" (margin {document['margin']:g} %)" if document["margin"] else ""
        console.print(f"\nTest accuracy less that of {escape(document['baseline'])}, by seed{margin}", soft_wrap=True)
        columns = ("pairs", "difference %", "p", "verdict", *(["new seeds"] if document["margin"] else []))
        table = _table("policy", *columns)
        for other in compared:
            p = "-" if other["p"] is None else f"{other['p']:.2g}"
            new = [f"{other['new_seeds'] or '-'}"] if document["margin"] else []
            table.add_row(escape(other["label"]), f"{other['n']}", _interval(other, 2), p, other["verdict"], *new)
        console.print(table)
        console.print("p of the paired t-test, corrected for the number of policies (Holm)")
        if told := advice(document):
            console.print(told, soft_wrap=True)
    if document["target"] is not None:
        table = _table("policy", f"updates to {document['target']:g} %", "95 % interval", "reached")
        for policy in document["policies"]:
            took = policy["updates_to_target"]
            median, low, high = (
                "-" if took[name] is None else f"{took[name]:,.0f}" for name in ("median", "low", "high")
            )
            table.add_row(
                escape(policy["label"]),
                median,
                f"{low} to {high}" if median != "-" else "-",
                f"{took['reached']}/{took['n']}",
            )
        console.print("\nMedian over seeds (Kaplan and Meier: a run that does not get there counts as taking longer)")
        console.print(table)


def print_range(document: dict[str, Any]) -> None:
    """The bounds of a range test, those of each seed, and the schedule to paste, or else what to do for one."""
    console = _console()
    console.print(
        f"[bold]{escape(document['sweep'])}[/bold]: {document['model']}, {escape(document['dataset'])}, "
        f"batch {document['batch_size']:,}, momentum {document['momentum']:g}",
        soft_wrap=True,
    )
    table = _table("lr", "low", "high", "at its high")
    for seed in document["seeds"]:
        bounds = (
            "-" if seed[name] is None else f"{'' if seed[f'{name}_found'] else sign}{seed[name]:.3g}"
            for name, sign in NOT_REACHED.items()
        )
        table.add_row(f"seed {seed['seed']}", *bounds, escape(seed["end"] or seed["reason"]))
    ends = (document["low"], document["high"])
    means = (
        f"{'' if document[f'{name}_found'] else sign}{document[name]['mean']:.3g}" for name, sign in NOT_REACHED.items()
    )
    table.add_row("mean", *means, f"n = {ends[0]['n']}", style="bold")
    if any(end["low"] is not None for end in ends):
        shown = ("-" if end["low"] is None else f"{end['low']:.2g} - {end['high']:.2g}" for end in ends)
        table.add_row("95 % interval", *shown)
    console.print(table)
    console.print(
        "geometric mean over seeds; interval by Student's t on log lr, and a row of the ramp either way at least"
    )
    console.print(JUDGED[document["judged_on"]], soft_wrap=True)
    for name, advice in ADVICE.items():
        if not document[f"{name}_found"]:
            console.print(advice, soft_wrap=True)
    if document["policy"] is None:
        console.print("\nNo schedule to paste: it takes both bounds.")
    else:
        console.print(f"\n{schedule_from_dict(document['policy']['lr'])!r}", soft_wrap=True, markup=False)


def print_search(document: dict[str, Any]) -> None:
    """The best trials of a search, or the Pareto front, what mattered, and the best policy to paste."""
    console, trials = _console(), document["trials"]
    counts = Counter(trial["status"] for trial in trials)
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    console.print(
        f"[bold]{escape(document['sweep'])}[/bold]: {len(trials)} trials by {document['sampler']['name']} ({told})"
        + _small_version(document["overrides"]),
        soft_wrap=True,
    )
    objectives = document["objectives"]
    shown = [trials[best["trial"]] for best in document["best"]]
    if len(objectives) == 1:
        ((name, best),) = objectives.items()
        finished = [trial for trial in trials if trial["status"] == "finished"]
        shown = sorted(finished, key=lambda trial: (-1 if best == "high" else 1) * trial[name]["mean"])[:BEST]
    metrics = {"test_accuracy": 2, "updates": 0, "train_seconds": 1}
    digits = metrics | {"validation_accuracy": 2}
    metrics = {name: digits.get(name, 4) for name in dict.fromkeys([*objectives, *metrics])}
    table = _table("trial", *document["space"], *(_titled(name, document) for name in metrics))
    for trial in shown:
        point = (escape(str(value)) for value in trial["point"].values())
        table.add_row(
            f"{trial['trial']}", *point, *(_interval(trial[name], digits) for name, digits in metrics.items())
        )
    console.print(table)
    console.print(JUDGED[document["judged_on"]], soft_wrap=True)
    if len(objectives) > 1:
        console.print(f"the Pareto front: no trial is better in all of {', '.join(objectives)}")
    for name, shares in document["importances"].items():
        if shares:
            *parts, rest = (f"{part} {share:.0%}" for part, share in shares.items())
            what = f"share of the variance of {name.replace('_', ' ')} over {counts['finished']} trials"
            console.print(f"{what}: {escape(', '.join(parts))}; the rest, {rest}", soft_wrap=True)
    if document["best"]:
        best = document["best"][0]
        console.print(f"\ntrial {best['trial']}:\n{Policy.from_dict(best['policy'])!r}", soft_wrap=True, markup=False)


def _titled(metric: str, document: dict[str, Any]) -> str:
    """A column's head; of a test metric by which nothing was chosen that it is for the report alone."""
    alone = metric.startswith("test") and document["judged_on"] != "test"
    return metric.replace("_", " ") + (" (report alone)" if alone else "")


def print_discovery(document: dict[str, Any]) -> None:
    """The last generation of a discovery, best first, and the best one's whole history as a policy to paste."""
    console, trials, plan = _console(), document["trials"], document["sampler"]
    last = trials[-1]["generation"]
    console.print(
        f"[bold]{escape(document['sweep'])}[/bold]: generation {last} of {len(document['rungs'])}, "
        f"{plan['interval']:g} epochs each, {len({trial['key'] for trial in trials})} runs"
        + _small_version(document["overrides"]),
        soft_wrap=True,
    )
    (sought,) = document["objectives"]
    metrics = list(dict.fromkeys([sought, "test_accuracy"]))
    accuracies = [f"{_titled(name, document)} %" for name in metrics]
    table = _table("member", "lr", "momentum", *accuracies, "was member", "status")
    shown = [trial for trial in trials if trial["generation"] == last]
    for trial in sorted(shown, key=lambda trial: -(trial[sought]["mean"] or 0.0)):
        settings = (f"{trial[name]:g}" for name in ("lr", "momentum"))
        parent = "-" if trial["parent"] is None else f"{trials[trial['parent']]['member']}"
        measured = (_interval(trial[name], 2) for name in metrics)
        table.add_row(f"{trial['member']}", *settings, *measured, parent, trial["status"])
    console.print(table)
    console.print(
        "lr and momentum of the last interval, before which it was that member of the generation before; "
        "the best of many looks: measure the outcome over other seeds",
        soft_wrap=True,
    )
    console.print(JUDGED[document["judged_on"]], soft_wrap=True)
    if document["best"]:
        console.print(f"\n{Policy.from_dict(document['best'][0]['policy'])!r}", soft_wrap=True, markup=False)


def _console() -> Console:
    """Of a terminal's width, or of that which $COLUMNS tells; into a file or a pipe as wide as a table is."""
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDEST
    return console


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
    if low == high:
        return f"{round(mean, digits):.15g}"
    return f"{mean:.{digits}f} ± {(high - low) / 2:.{digits}f}"
