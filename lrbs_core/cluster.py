"""Ray Tune: the runs of a sweep over a cluster, each in an actor that serves one run after another."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Tune's own files (a CSV, a JSON and an event log a trial) repeat the journal.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
# The new output engine prints on standard output whatever its verbosity; lrbs shows its own progress.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import ray
from ray import tune
from ray.util.metrics import Counter, Gauge

from lrbs_core.journal import Row, RunFolder
from lrbs_core.specs import Machine
from lrbs_core.sweeping import Train, run, until

__all__ = ["run_on_ray"]

# How often a run whose worker or node died is started again, from its checkpoint.
RESTARTS = 3
# The worker of a driver that was killed may hold its run's journal for a while before it dies too.
SECONDS_TO_LET_GO = 60
# Ray forgets a gauge that was not set since its last report, of which it makes one a second at the most.
SECONDS_BETWEEN_METRICS = 1


def run_on_ray(
    folders: Sequence[RunFolder], machine: Machine, *, cpus: float = 1, gpus: float = 0, address: str | None = None
) -> None:
    """Runs the folders' specs through Tune, each on `cpus` and `gpus` (fractions are bookkeeping: memory is shared).

    Connects to the cluster at `address`, to one that runs here, or starts one. The folders must be on storage that
    every node sees. A run that fails leaves its error in its journal; one whose worker dies goes on elsewhere.
    Raises ValueError when the cluster cannot be reached.
    """
    if not folders:
        return
    with joined(address, cpus, gpus):
        fit(
            folders[0].sweep,
            {"folder": tune.grid_search([str(folder.path.resolve()) for folder in folders]), "machine": machine},
            tune.TuneConfig(reuse_actors=True),
            cpus,
            gpus,
        )


@contextmanager
def joined(address: str | None, cpus: float, gpus: float) -> Iterator[None]:
    """In the cluster at `address`, the one that runs here, or a new one; says so if no run can start there yet.

    Raises ValueError when the cluster cannot be reached.
    """
    _require_listener(address)
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        reason = str(error).splitlines()[0]
        hint = (
            "" if os.environ.get("RAY_AUTH_MODE") else " (clusters ask for a token by default: set RAY_AUTH_MODE=token)"
        )
        raise ValueError(f"Ray cluster {address or 'here'} cannot be joined: {reason}{hint}") from None
    _tell_shortage({"CPU": cpus, "GPU": gpus})
    try:
        yield
    finally:
        ray.shutdown()


def fit(name: str, params: dict[str, Any], tune_config: tune.TuneConfig, cpus: float, gpus: float) -> None:
    """Has Tune call `train_run` with `params` and what it chooses, each time on so many CPUs and GPUs."""
    with tempfile.TemporaryDirectory(prefix="lrbs-ray-") as scratch:
        tune.Tuner(
            tune.with_resources(train_run, {"cpu": cpus, "gpu": gpus}),
            param_space=params,
            tune_config=tune_config,
            run_config=tune.RunConfig(
                name=name,
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=RESTARTS),
            ),
        ).fit()


def _require_listener(address: str | None) -> None:
    """Ray tries for many minutes to reach a cluster that is not there."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon:
        return  # none given, or "auto" and "local", which are quick to say no
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise ValueError(f"Ray cluster {address} cannot be reached: {error}") from None


def _tell_shortage(asked: dict[str, float]) -> None:
    """Says it where no run can start yet; an autoscaling cluster may still grow, so it is no error."""
    have = ray.cluster_resources()
    for name, amount in asked.items():
        if amount > have.get(name, 0):
            logging.warning(
                "a run asks for %g %s, but the cluster has %g: waiting for more", amount, name, have.get(name, 0)
            )


def train_run(config: dict[str, Any]) -> None:
    """One run on a worker, ended early by the `rungs` of a search if it has them. Its rows go to the journal."""
    from lrbs_core.training import describe, train  # the driver needs no torch for this file

    machine: Machine = config["machine"]
    folder = RunFolder(Path(config["folder"]))
    train_here: Train = partial(train, machine=machine)
    if config.get("rungs") is not None:
        train_here = until(train_here, partial(config["rungs"].stops, folder))
    deadline = time.monotonic() + SECONDS_TO_LET_GO
    while True:
        try:
            with _metrics(folder) as newest:
                for row in run(folder, train_here, describe(machine)):
                    newest.update(row)
                    tune.report(row)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(1)
                continue
        except Exception:
            logging.getLogger(__name__).exception("run %s", folder.spec.label)
        # An error is in the journal as failed; Tune's restarts are for workers that died.
        return


@contextmanager
def _metrics(folder: RunFolder) -> Iterator[Row]:
    """Has Ray tell Prometheus of a run until it ends, by sweep, policy and GPU (numbered as in Ray's own metrics).

    - `ray_lrbs_runs`: 1; 0 after the end, since the actor goes on to another run. What a dead worker said goes with it.
    - `ray_lrbs_examples_per_second`: as in the newest row, which the caller puts into the dictionary.
    - `ray_lrbs_cpu_seconds_total`: CPU time of the worker, without the processes that read ahead for it.
    """
    tags = {"sweep": folder.sweep, "policy": folder.spec.label, "GpuIndex": str(next(iter(ray.get_gpu_ids()), ""))}
    runs = Gauge("lrbs_runs", "Runs in flight", tuple(tags))
    speed = Gauge("lrbs_examples_per_second", "Training examples a second", tuple(tags))
    cpu = Counter("lrbs_cpu_seconds", "CPU time of training", tuple(tags))
    newest: Row = {}
    over = threading.Event()

    def tell() -> None:
        used, ended = time.process_time(), False
        while not ended:
            runs.set(1, tags)
            speed.set(newest.get("examples_per_second"), tags)
            ended = over.wait(SECONDS_BETWEEN_METRICS)
            before, used = used, time.process_time()
            cpu.inc(used - before, tags)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield newest
    finally:
        over.set()
        thread.join()
        runs.set(0, tags)
        speed.set(0, tags)
