"""The report as one HTML file that needs no network: what was compared, what won, and how sure one may be."""

from __future__ import annotations

import base64
import dataclasses
import platform
from collections.abc import Iterator, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader

from lrbs_core import figures
from lrbs_core.noise import measured_ends
from lrbs_core.power import POWER
from lrbs_core.report import advice, command
from lrbs_core.results import RunRecord
from lrbs_core.schedules import Constant, Schedule
from lrbs_core.specs import RunSpec
from lrbs_core.sweeping import Sweep
from lrbs_core.version import __version__

__all__ = ["findings", "html"]

# Fields of a spec that are told elsewhere in the report.
TOLD = {"label", "policy", "seed", "overrides"}


def html(sweep: Sweep, pairs: Sequence[tuple[RunSpec, RunRecord]], document: dict[str, Any], commit: str) -> str:
    """The `report.overview` as HTML, with figures, plan, settings and the command; every name in it is escaped."""
    template = Environment(loader=PackageLoader("lrbs_core"), autoescape=True).get_template("report.html")
    specs = list({spec.label: spec for spec in reversed(sweep.runs)}.values())[::-1]
    settings = [
        *_settings(specs),
        *(("machine", machine) for machine in document["machines"]),
        ("lrbs", f"{__version__}, commit {commit or 'unknown'}, Python {platform.python_version()}"),
    ]
    return template.render(
        document=document,
        findings=findings(document),
        measured_ends=measured_ends,
        advice=advice(document),
        validated=any(policy["validation_accuracy"]["mean"] is not None for policy in document["policies"]),
        compared=[policy["difference"] for policy in document["policies"] if policy["difference"]],
        figures=[(caption, _encoded(figures.svg(chart))) for caption, chart in _charts(specs, pairs)],
        plans=[(spec.label, spec.plan()) for spec in specs],
        settings=settings,
        command=command(document),
    )


def _encoded(svg: str) -> str:
    """For an image of its own: several SVGs in one document would take each other's ids for theirs."""
    return base64.b64encode(svg.encode()).decode()


def _charts(specs: Sequence[RunSpec], pairs: Sequence[tuple[RunSpec, RunRecord]]) -> Iterator[tuple[str, Any]]:
    """Captions and charts, of what there is to draw."""
    labels = [spec.label for spec in specs]
    accuracy, seconds = figures.accuracy_numbers(pairs), figures.seconds_numbers(pairs, "test_accuracy")
    yield (
        "Learning rate, batch size, momentum and noise scale by epoch, as planned.",
        figures.settings_chart(figures.settings_numbers(specs), labels),
    )
    yield (
        "Test accuracy against epochs and updates: mean and 95 % band over the seeds that got there.",
        figures.accuracy_chart(accuracy, labels),
    )
    if pairs and all(spec.validation for spec, _ in pairs):
        yield (
            "Accuracy on validation data, which are set aside of the training set, likewise.",
            figures.metric_chart(figures.metric_numbers(pairs, "validation_accuracy"), "validation_accuracy", labels),
        )
    yield (
        "Training loss (cross-entropy, nats), likewise.",
        figures.metric_chart(figures.metric_numbers(pairs, "train_loss"), "train_loss", labels),
    )
    yield (
        "Test accuracy against training time, as far as all seeds of a policy go." + figures.left_out(pairs, seconds),
        figures.metric_chart(seconds, "test_accuracy", labels),
    )
    if any(record.status == "finished" for _, record in pairs):
        yield (
            "What the updates buy: final test accuracy, mean and 95 % interval, against updates.",
            figures.trade_chart(figures.trade_numbers(pairs), labels),
        )
    cycles = figures.cycles_numbers(spec for spec, record in pairs if record.rows)
    if not cycles.empty:
        yield "Test accuracy of cyclical policies; dashed: cycle ends.", figures.cycles_chart(accuracy, cycles, labels)
    try:
        noise = figures.noise_numbers(pairs)
    except ValueError:
        return  # it was not measured
    yield (
        "Noise scale as planned, and gradient noise scale as measured, with its 95 % interval over all seeds; "
        "an arrow: at least so much.",
        figures.noise_chart(noise, labels),
    )


def _settings(specs: Sequence[RunSpec]) -> list[tuple[str, str]]:
    """What the runs have in common, then each policy."""
    common = []
    for name in (f.name for f in dataclasses.fields(RunSpec) if f.name not in TOLD):
        values = {str(getattr(spec, name)) for spec in specs}
        common.append((name, " or ".join(sorted(values))))
    for spec in specs:
        parts = (("lr", spec.policy.lr), ("batch size", spec.policy.batch_size), ("momentum", spec.policy.momentum))
        common.append((spec.label, ", ".join(f"{name} {_schedule(schedule)}" for name, schedule in parts)))
    return common


def _schedule(schedule: Schedule) -> str:
    return f"{schedule.value:g}" if isinstance(schedule, Constant) else repr(schedule)


def findings(document: dict[str, Any]) -> list[str]:
    """The report in a few sentences: the best mean, and each policy against the baseline with how sure one may be."""
    measured = [policy for policy in document["policies"] if policy["test_accuracy"]["mean"] is not None]
    if not measured:
        return ["No run has finished yet."]
    best = max(measured, key=lambda policy: policy["test_accuracy"]["mean"])
    accuracy, diverged = best["test_accuracy"], best["not_finished"].get("diverged")
    sentences = [
        f"Highest mean test accuracy: {best['label']}, {accuracy['mean']:.2f} % over {accuracy['n']} run(s) "
        + (f"({diverged} more diverged) " if diverged else "")
        + f"in {best['updates']:,} updates."
    ]
    updates = {policy["label"]: policy["updates"] for policy in document["policies"]}
    baseline = document["baseline"]
    for policy in measured:
        other = policy["difference"]
        if other is None or other["mean"] is None:
            continue
        share = updates[policy["label"]] / updates[baseline]
        saved = "in as many updates" if share == 1 else f"in {share:.0%} of its updates"
        half = "" if other["low"] is None else f" ± {(other['high'] - other['low']) / 2:.2f}"
        difference = f"{other['mean']:+.2f}{half} %, {other['n']} pair(s) of runs"
        if other["verdict"] == "equivalent":
            told = f"is as good as {baseline} within {document['margin']:g} % ({difference}), {saved}"
        elif other["verdict"] == "different":
            told = f"is {'better' if other['mean'] > 0 else 'worse'} than {baseline} ({difference}), {saved}"
        elif other["verdict"] == "no difference found":
            told = f"shows no difference from {baseline} ({difference}), {saved}: equal only within a margin (--margin)"
        else:
            new = (
                f": {other['new_seeds']} new seeds, judged alone, would tell with a chance of {POWER:.0%}"
                if other["new_seeds"]
                else ""
            )
            told = f"cannot be told from {baseline} yet ({difference}), {saved}{new}"
        sentences.append(f"{policy['label']} {told}.")
    return sentences
