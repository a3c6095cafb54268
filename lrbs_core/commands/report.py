"""`lrbs report`: policies side by side, from MLflow."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from lrbs_core import tables
from lrbs_core.commands.launching import say
from lrbs_core.commands.options import (
    AsJson,
    Data,
    DataDir,
    Markdown,
    Model,
    Scale,
    Seeds,
    Store,
    SweepFile,
    Validation,
    drawn,
    load_sweep,
    written,
)

__all__ = ["report"]


def report(
    sweep_file: SweepFile,
    scale: Scale = None,
    model: Model = None,
    dataset: Data = None,
    seeds: Seeds = None,
    validation: Validation = None,
    data_dir: DataDir = Path("data"),
    tracking_uri: Store = None,
    csv: Annotated[Path | None, typer.Option(help="Write one row a run to this file.", callback=written)] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw accuracy against epochs and updates: a .svg or .png file.", callback=drawn)
    ] = None,
    noise_figure: Annotated[
        Path | None,
        typer.Option(help="Draw the noise scale, planned and measured: a .svg or .png file.", callback=drawn),
    ] = None,
    markdown: Markdown = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the report with its figures to this file.", callback=written)
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="The policy to compare with; else the first.")] = None,
    margin: Annotated[
        float, typer.Option(help="The difference in test accuracy, in percent, that does not matter to you.")
    ] = 0.0,
    target: Annotated[float | None, typer.Option(help="Tell the updates to this test accuracy, in percent.")] = None,
    as_json: AsJson = False,
) -> None:
    """Policies side by side and each claim beside what was measured, from MLflow."""
    sweep = load_sweep(sweep_file, scale, model, dataset, seeds, data_dir, validation)
    from lrbs_core import report as page
    from lrbs_core import results, store, tracking

    client = store.connect(tracking_uri)
    records = store.read(client, sweep.name, [spec.key for spec in sweep.runs])
    pairs = [(spec, records[spec.key]) for spec in sweep.runs if spec.key in records]
    if not pairs:
        where = store.without_password(client.tracking_uri)
        say(f"no run of {sweep.name}, as given, is in {where} yet: start it with `lrbs run {sweep_file}`")
        for overrides, count in store.overrides_present(client, sweep.name).items():
            say(f"not in this report: {count} run(s) made with {overrides or 'no overrides'}")
    document = page.overview(sweep, pairs, baseline, margin, target)
    if as_json:
        print(json.dumps(document, indent=1))
    else:
        tables.print_overview(document)
    if not pairs and (figure or noise_figure or markdown or html):
        raise ValueError("a figure or page needs at least one run, but the store has none of this sweep")
    if csv is not None:
        results.run_table(pairs).to_csv(csv, index=False)
    if markdown is not None:
        page.write_section(markdown, page.markdown(document))
    if html is not None:
        from lrbs_core.html import html as html_of

        text = html_of(sweep, pairs, document, _commit(sweep_file))
        html.write_text(text)
        tracking.tell_parents(client, sweep.name, [spec.key for spec, _ in pairs], {}, {"report.html": text})
    if figure is not None or noise_figure is not None:
        from lrbs_core import figures

        labels = list(dict.fromkeys(spec.label for spec in sweep.runs))
        if figure is not None:
            figures.save(figures.accuracy_chart(figures.accuracy_numbers(pairs), labels), figure)
        if noise_figure is not None:
            figures.save(figures.noise_chart(figures.noise_numbers(pairs), labels), noise_figure)


def _commit(sweep_file: Path) -> str:
    """The git commit of the sweep's folder, with a + where files of it have changed since; empty outside git."""
    git = ["git", "-C", str(sweep_file.resolve().parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "."], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.stdout.strip() + ("+" if changed.stdout else "")
