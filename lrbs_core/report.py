"""Reports: a sweep's policies side by side, and each of its claims beside what was measured; as JSON and Markdown."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lrbs_core.claims import Measured, Verdict, verdict
from lrbs_core.journal import printable, write_whole
from lrbs_core.noise import GradientNoise, noise_text
from lrbs_core.planning import Phase
from lrbs_core.power import POWER, claim_power
from lrbs_core.range_test import ADVICE, NOT_REACHED
from lrbs_core.results import (
    RunRecord,
    accuracy_resolution,
    measure,
    mixed_precision,
    noise_by_phase,
    run_table,
)
from lrbs_core.schedules import schedule_from_dict
from lrbs_core.specs import RunSpec
from lrbs_core.statistics import Comparison, compare, mean_interval
from lrbs_core.sweeping import Sweep
from lrbs_core.targets import TargetMedian, median_to_target, to_target
from lrbs_core.twins import deviations, notes
from lrbs_core.validation import JUDGED

__all__ = ["advice", "command", "markdown", "overview", "range_markdown", "write_section"]


def overview(
    sweep: Sweep,
    pairs: Sequence[tuple[RunSpec, RunRecord]],
    baseline: str | None = None,
    margin: float = 0.0,
    target: float | None = None,
) -> dict[str, Any]:
    """The report as one JSON document: policies with mean and 95 % interval over finished runs, claims with verdicts.

    The test accuracy of each policy is compared with that of the `baseline` (else the first), paired by seed, and
    `margin` is the difference in percent that does not matter (`statistics.compare`). With a `target` accuracy in
    percent: the updates it took (`targets.median_to_target`). A diverged run leaves its policy without a verdict.
    Equal accuracies have an interval of one example of the test set either way (`accuracy_resolution`). How far a
    policy's noise scale is off the baseline's, by phase, and notes on it: see `twins`.

    A claim is about the paper's own settings. Of runs made with overrides it is judged only where it compares two
    policies, both run so; a number of its own is shown beside the paper's as one of "other settings". At the paper's
    settings it has the power with which so many runs find it if the paper is right (`power.claim_power`).
    """
    table = run_table(pairs)
    labels = list(dict.fromkeys(spec.label for spec in sweep.runs))
    baseline = labels[0] if baseline is None else baseline
    resolution = accuracy_resolution(pairs)
    found = compare(_accuracies(pairs, labels), baseline, margin, resolution=resolution)
    compared = {other.label: other for other in found}
    first = next(spec for spec in sweep.runs if spec.label == baseline)
    overridden = any(spec.overrides for spec in sweep.runs)
    # What is told of a policy's finished runs, where they have it, and what two values differ by at least.
    shown = {"test_accuracy": resolution, "validation_accuracy": 0.0, "train_loss": 0.0, "train_seconds": 0.0}
    policies, noise_measured = [], False
    for label in labels:
        spec = next(spec for spec in sweep.runs if spec.label == label)
        plan = spec.plan()
        runs = table[table["policy"] == label]
        done = runs[runs["status"] == "finished"]
        noise = noise_by_phase(spec, plan.phases, _finished(pairs, label))
        noise_measured = noise_measured or any(math.isfinite(reading.low) for reading in noise)
        policies.append(
            {
                "label": label,
                "runs": len(done),
                "of": sum(other.label == label for other in sweep.runs),
                "not_finished": {
                    str(name): int(count) for name, count in runs["status"].value_counts().items() if name != "finished"
                },
                "updates": plan.updates,
                **{
                    name: _plain(mean_interval(done[name].astype(float).tolist(), resolution=least))
                    for name, least in shown.items()
                },
                "phases": [[phase.epoch_start, phase.epoch_end] for phase in plan.phases],
                "noise_scale": [_noise_at_end(spec, phase) for phase in plan.phases],
                "gradient_noise_scale": [_plain(noise) for noise in noise],
                "noise_scale_deviation": [_rounded(value) for value in deviations(spec, first)],
                "notes": notes(spec, first),
                "difference": _plain(compared[label]) if label in compared else None,
                "updates_to_target": None if target is None else _plain(_updates_to(target, pairs, label)),
            }
        )
    claims = []
    for claim in sweep.claims:
        measured = measure(table, claim, resolution)
        judged: Verdict = verdict(claim, measured)
        if overridden and claim.versus is None and judged != "not run":
            judged = "other settings"
        power = math.nan if overridden or measured is None else claim_power(claim, measured.n)
        claims.append(
            {
                "where": claim.where,
                "claim": claim.subject,
                "metric": claim.metric,
                "expected": claim.expected,
                "measured": None if measured is None else _plain(measured),
                "verdict": judged,
                "power": None if math.isnan(power) else round(power, 4),
            }
        )
    overrides = dict(sweep.runs[0].overrides)
    return {
        "sweep": sweep.name,
        "source": sweep.source,
        "overrides": overrides,
        "baseline": baseline,
        "margin": margin,
        "accuracy_resolution": resolution,
        "target": target,
        "mixed_precision": mixed_precision(pairs),
        "machines": sorted({record.machine for _, record in pairs if record.machine}),
        "noise_measured": noise_measured,
        "policies": policies,
        "claims": claims,
    }


def _accuracies(pairs: Sequence[tuple[RunSpec, RunRecord]], labels: Sequence[str]) -> dict[str, dict[int, float]]:
    """The final test accuracy by label and seed: of finished runs, and NaN of those that diverged."""
    found: dict[str, dict[int, float]] = {label: {} for label in labels}
    for spec, record in pairs:
        if record.status == "finished":
            found[spec.label][spec.seed] = record.rows[-1]["test_accuracy"]
        elif record.status == "diverged":
            found[spec.label][spec.seed] = math.nan
    return found


def _updates_to(target: float, pairs: Sequence[tuple[RunSpec, RunRecord]], label: str) -> TargetMedian:
    ended = [record for spec, record in pairs if spec.label == label and record.status in ("finished", "diverged")]
    return median_to_target([to_target(run.rows, target, "updates", run.status == "diverged") for run in ended])


def _noise_at_end(spec: RunSpec, phase: Phase) -> float | None:
    return _rounded(spec.noise_scale(spec.policy(math.nextafter(phase.epoch_end, 0))))


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _finished(pairs: Sequence[tuple[RunSpec, RunRecord]], label: str) -> list[RunRecord]:
    return [record for spec, record in pairs if spec.label == label and record.status == "finished"]


def _plain(measured: Measured | Comparison | TargetMedian | GradientNoise) -> dict[str, Any]:
    """JSON knows no NaN: a number that is missing is null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in measured._asdict().items()
    }


def advice(document: dict[str, Any]) -> str:
    """What to do about comparisons that a report leaves open; empty where there is none.

    Without a margin no number of seeds would make two policies equal, so that none is given.
    """
    compared = [policy["difference"] for policy in document["policies"] if policy["difference"]]
    if any(other["verdict"] == "no difference found" for other in compared):
        return (
            "No difference found is not the same as equal: name the difference that does not matter (--margin) to ask "
            "whether a policy is as good."
        )
    if any(other["new_seeds"] for other in compared):
        return (
            "New seeds: so many, judged alone, find equivalence if the true difference is 0, and a difference if it "
            f"is the margin, with a chance of {POWER:.0%} or more; planned once, from the upper {POWER:.0%} confidence "
            "limit of the deviation seen. Give the sweep's file these seeds and no older ones, and report them: judged "
            "together with the old ones a verdict is wrong in up to 10 % of studies, not 5 %, and oftener with every "
            "further look."
        )
    return ""


def command(document: dict[str, Any]) -> str:
    """What to type for the runs of a report: its names are quoted for the shell."""
    options = (f"--{name} {shlex.quote(value)}" for name, value in document["overrides"].items())
    return " ".join(["lrbs run", shlex.quote(f"sweeps/{document['sweep']}.py"), *options])


def markdown(document: dict[str, Any]) -> str:
    """The report of `overview` as a section of Markdown: how it was made, the policies, each claim with its verdict."""
    lines = [
        f"## {_escaped(document['sweep'])}" + (" at other settings than the paper's" if document["overrides"] else ""),
        "",
        f"{_escaped(document['source'])}.",
        "",
        f"    {command(document)}",
        "",
        *(f"Run on {_escaped(machine)}." for machine in document["machines"]),
        *([_escaped(document["mixed_precision"])] if document["mixed_precision"] else []),
        "",
        *_table("policy", "updates", "n", "test accuracy, %", "train loss"),
    ]
    for policy in document["policies"]:
        accuracy, loss = (_text(policy[name], digits) for name, digits in (("test_accuracy", 2), ("train_loss", 3)))
        unfinished = "".join(f", {count} {name}" for name, count in policy["not_finished"].items())
        lines.append(_line(policy["label"], f"{policy['updates']}", f"{policy['runs']}{unfinished}", accuracy, loss))
    told = [f"- {_escaped(each['label'] + ': ' + note)}." for each in document["policies"] for note in each["notes"]]
    lines += ["", *told] if told else []
    if document["noise_measured"]:
        lines += ["", *_table("policy", "epochs", "noise scale, planned", "gradient noise scale, examples")]
        for policy in document["policies"]:
            for (first, last), scale, measured in zip(
                policy["phases"], policy["noise_scale"], policy["gradient_noise_scale"], strict=True
            ):
                planned = "-" if scale is None else f"{scale:.3g}"
                lines.append(_line(policy["label"], f"{first:g} to {last:g}", planned, noise_text(measured)))
    compared = [policy["difference"] for policy in document["policies"] if policy["difference"]]
    if compared:
        margin = f", margin {document['margin']:g} %" if document["margin"] else ""
        columns = ("difference, %", "n", "p (Holm)", "verdict", *(["new seeds"] if document["margin"] else []))
        lines += ["", *_table(f"less {document['baseline']}{margin}", *columns)]
    for other in compared:
        p = "" if other["p"] is None else f"{other['p']:.2g}"
        new = [f"{other['new_seeds'] or ''}"] if document["margin"] else []
        lines.append(_line(other["label"], _text(other, 2), f"{other['n']}", p, other["verdict"], *new))
    if document["claims"]:
        lines += ["", *_table("where", "claim", "paper", "ours", "n", "verdict", "power")]
    for claim in document["claims"]:
        digits = 4 if claim["metric"] == "train_loss" else 2
        ours, n = (_text(claim["measured"], digits), claim["measured"]["n"]) if claim["measured"] else ("", "0")
        power = "" if claim["power"] is None else f"{claim['power']:.0%}"
        lines.append(_line(claim["where"], claim["claim"], claim["expected"], ours, f"{n}", claim["verdict"], power))
    return "\n".join([*lines, ""])


def range_markdown(document: dict[str, Any]) -> str:
    """The bounds of a range test (`documents.range_document`) as a section of Markdown."""
    ramp = document["ramp"]
    lines = [
        f"## {_escaped(document['sweep'])}: {_escaped(document['model'])}",
        "",
        f"Learning-rate range test on {_escaped(document['dataset'])}: lr from {ramp['low']:g} to {ramp['high']:g} "
        f"{'by factors' if ramp['geometric'] else 'in a line'} over {ramp['epochs']:g} epochs, "
        f"batch size {document['batch_size']}, momentum {document['momentum']:g}; {JUDGED[document['judged_on']]}.",
        "",
        *_table("ramp", "low", "high", "at its high"),
    ]
    for seed in document["seeds"]:
        bounds = (
            "" if seed[name] is None else f"{'' if seed[f'{name}_found'] else sign}{seed[name]:.3g}"
            for name, sign in NOT_REACHED.items()
        )
        lines.append(_line(f"seed {seed['seed']}", *bounds, seed["end"] or seed["reason"]))
    ends = (document["low"], document["high"])
    means = (
        ("" if document[f"{name}_found"] else sign)
        + f"{end['mean']:.3g}"
        + ("" if end["low"] is None else f" ({end['low']:.2g} to {end['high']:.2g})")
        for (name, sign), end in zip(NOT_REACHED.items(), ends, strict=True)
    )
    lines.append(_line("geometric mean", *means, f"n = {ends[0]['n']}"))
    for name, advice in ADVICE.items():
        if not document[f"{name}_found"]:
            lines += ["", _escaped(advice)]
    if document["policy"] is not None:
        lines += ["", f"    {schedule_from_dict(document['policy']['lr'])!r}"]
    return "\n".join([*lines, ""])


def _text(measured: dict[str, float | None], digits: int) -> str:
    mean, low, high = (measured[name] for name in ("mean", "low", "high"))
    if mean is None:
        return ""
    if low is None or high is None:
        return f"{mean:.{digits}f}"
    if low == high:
        return f"{round(mean, digits):.15g}"
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _table(*columns: str) -> list[str]:
    return [_line(*columns), "|---" * len(columns) + "|"]


def _line(*cells: str) -> str:
    return "| " + " | ".join(map(_escaped, cells)) + " |"


def _escaped(text: str) -> str:
    """The text on one line, with nothing in it that Markdown would take for markup or HTML."""
    return re.sub(MARKUP, r"\\\g<0>", " ".join(printable(text).split()))


# Within a word or before a space these are text: what papers and machines are called stays as it is.
MARKUP = r"[\\`*\[\]|~]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<!\w)_|_(?!\w)"

PAGE = """# Results

Written by `lrbs report` and `lrbs range-test` with `--markdown FILE`, never by hand: a section a sweep, in order of
their names. Mean and 95 % interval (Student's t) over n seeds; where a claim compares two policies, over runs paired
by seed. Verdicts: the whole interval lies where the claim holds (*reproduced*) or where it does not (*not*); it lies
astride (*too few runs*); the runs were made at *other settings* than the paper's, so that its number stands beside
ours for comparison only. Power: how often so many runs would find the claim reproduced if the paper is right. New
seeds: so many, judged alone, find equivalence if the true difference is 0, and a difference if it is the margin, with
a chance of 80 % or more.
"""


def write_section(path: Path, section: str) -> None:
    """Puts the section into the page in place of the one with the same heading, making the page if it is new.

    Raises ValueError for a page that another has written, of which something would be lost.
    """
    page = path.read_text() if path.exists() else ""
    if page and not page.startswith(PAGE.partition(":")[0]):
        raise ValueError(f"a page of results must be written by lrbs alone, but got {path}: give another file")
    _, *others = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    kept = [other for other in others if other.splitlines()[0] != section.splitlines()[0]]
    parts = [PAGE, *sorted([*kept, section])]
    write_whole(path, "\n".join(part.rstrip() + "\n" for part in parts).encode())
