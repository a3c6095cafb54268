"""How long `lrbs report` takes over many runs, reading them from MLflow and drawing all figures included.

The store is a new SQLite file. Of the metric histories only the last values are put in, since a report reads each
run's `rows.csv` instead of them.

    python tests/bench/report.py [--runs 1000] [--rows 200]
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from made import lrbs

from lrbs_core import store, sweeping, tracking
from lrbs_core.journal import METRICS, Journal, Row, RunFolder
from lrbs_core.specs import RunSpec

SWEEP = """
from lrbs_core import Policy, RunSpec, Steps
SOURCE, CLAIMS = "made up", ()
def runs():
    return [
        RunSpec(label=f"policy {{k}}", policy=Policy(lr=Steps(0.1 + k / 1000, at=(10,), factor=1/4), batch_size=16,
                momentum=0.9), dataset="digits", model="convnet", optimizer="sgd", weight_decay=5e-4, ghost_size=8,
                augmentation="none", normalization="channel", epochs=20, partial="keep", seed=seed)
        for k in range({policies}) for seed in range({seeds})
    ]
"""
POLICIES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lrbs-report-") as scratch:
        folder = Path(scratch)
        (folder / "many.py").write_text(SWEEP.format(policies=POLICIES, seeds=options.runs // POLICIES))
        sweep = sweeping.load(folder / "many.py")
        client = store.connect(f"sqlite:///{folder}/mlflow.db")
        whole = client.log_batch
        client.log_batch = lambda run_id, metrics=(), **rest: whole(run_id, list(metrics)[-len(METRICS) :], **rest)
        folders = [made(folder, sweep.name, spec, options.rows) for spec in sweep.runs]
        delivery = tracking.Delivery(client, folders)
        delivery.deliver()
        delivery.close()
        assert not delivery.error, delivery.error
        began = time.perf_counter()
        shown = lrbs("report", "many.py", "--html", "many.html", "--markdown", "many.md", "--csv", "many.csv",
                     "--tracking-uri", f"sqlite:///{folder}/mlflow.db", cwd=folder)  # fmt: skip
        seconds = time.perf_counter() - began
        assert shown.returncode == 0, shown.stderr
        megabytes = (folder / "many.html").stat().st_size / 1e6
        print(f"{len(sweep.runs)} runs of {options.rows} rows: {seconds:.1f} s, {megabytes:.1f} MB of HTML")


def made(root: Path, sweep: str, spec: RunSpec, rows: int) -> RunFolder:
    """The folder of a run whose accuracy rises as accuracies do."""
    folder, chance = RunFolder.create(root / "lrbs-runs", sweep, spec), random.Random(spec.key)
    top, plan = 90 + chance.gauss(0, 0.3), spec.plan()
    with Journal(folder.journal_path) as journal:
        journal.set_status("running")
        for number in range(1, rows + 1):
            done = number / rows
            accuracy = min(100.0, top * (1 - math.exp(-7 * done)) + chance.gauss(0, 0.5))
            row: Row = {
                "row": number, "time_ms": 1_700_000_000_000 + 1000 * number, "epoch": done * spec.epochs,
                "updates": int(done * plan.updates), "examples": int(done * plan.examples),
                "train_seconds": 1.0 * number,
                "lr": 0.1, "batch_size": 16, "momentum": 0.9, "noise_scale": 100.0, "train_loss": math.exp(-4 * done),
                "train_accuracy": accuracy, "test_loss": math.exp(-3 * done), "test_accuracy": accuracy,
                "examples_per_second": 1000.0,
            }  # fmt: skip
            journal.append(row)
        journal.set_status("finished")
    return folder


if __name__ == "__main__":
    main()
