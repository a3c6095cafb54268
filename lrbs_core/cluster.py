"""Ray Tune: the runs of a sweep over a cluster, each in an actor that serves one run after another."""

from __future__ import annotations

import atexit
import io
import logging
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Tune's own files (a CSV, a JSON and an event log a trial) repeat the journal.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
# The new output engine prints on standard output whatever its verbosity; lrbs shows its own progress.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# That a worker died is said in a line (`_Telling`), without the traceback of a call to it.
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
# A Ray that starts here keeps to 127.0.0.1, which is its default on a Mac only. Others are joined as ever.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import ray
from ray import cloudpickle, tune
from ray.tune.experiment import Trial
from ray.util.metrics import Counter, Gauge

from lrbs_core import preemption
from lrbs_core.journal import Row, RunFolder
from lrbs_core.specs import Machine
from lrbs_core.sweeping import Train, run, until

__all__ = ["run_on_ray"]

log = logging.getLogger("lrbs")

# How often a run whose worker or node died is started again, from its checkpoint.
RESTARTS = 3
# The worker of a driver that was killed may hold its run's journal for a while before it dies too.
SECONDS_TO_LET_GO = 60
# How long a worker that is ended waits for its run's checkpoint, if whoever ends it does.
SECONDS_TO_CHECKPOINT = 30
# How often it is seen to that a node is left.
SECONDS_BETWEEN_LOOKS = 2
# Told of a run instead of a row, with the node's name.
UNSEEN_BY = "unseen_by"
# Ray forgets a gauge that was not set since its last report, of which it makes one a second at the most.
SECONDS_BETWEEN_METRICS = 1


def run_on_ray(
    folders: Sequence[RunFolder], machine: Machine, *, cpus: float = 1, gpus: float = 0, address: str | None = None
) -> None:
    """Runs the folders' specs through Tune, each on `cpus` and `gpus` (fractions are bookkeeping: memory is shared).

    Connects to the cluster at `address`, to one that runs here, or starts one. A run that fails leaves its error in its
    journal; one whose worker or node dies goes on elsewhere. Raises ValueError when the cluster cannot be reached, and
    when a run comes to a node that does not see the folders.
    """
    if not folders:
        return
    with joined(address, cpus, gpus):
        fit(
            folders[0],
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
    with redirect_stdout(_Brief()):
        try:
            ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except RuntimeError as error:  # it is of another Ray or Python, be it but a patch
            raise ValueError(
                f"Ray cluster {address or 'here'} cannot be joined: {' '.join(str(error).split())}"
            ) from None
        except ConnectionError as error:
            reason = str(error).splitlines()[0]
            hint = "clusters ask for a token by default: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to theirs"
            raise ValueError(f"Ray cluster {address or 'here'} cannot be joined: {reason} ({hint})") from None
        preemption.heed()  # Ray has taken SIGTERM for itself
        _tell_shortage({"CPU": cpus, "GPU": gpus})
        try:
            yield
        finally:
            ray.shutdown()


def fit(first: RunFolder, params: dict[str, Any], tune_config: tune.TuneConfig, cpus: float, gpus: float) -> None:
    """Has Tune call `train_run` with `params` and what it chooses, each time on so many CPUs and GPUs.

    Raises ValueError when a run comes to a node that does not see what is written beside the first run's folder, and
    Preempted once notice is given, which it passes on to the runs.
    """
    sweep = first.path.parent.resolve()
    with (
        tempfile.TemporaryDirectory(prefix="lrbs-ray-") as scratch,
        tempfile.NamedTemporaryFile(dir=sweep, prefix=".seen-by-every-node-") as mark,
        preemption.awaited(),
    ):
        results = tune.Tuner(
            tune.with_resources(train_run, {"cpu": cpus, "gpu": gpus}),
            param_space=params | {"mark": Path(mark.name)},
            tune_config=tune_config,
            run_config=tune.RunConfig(
                name=first.sweep,
                storage_path=scratch,
                verbose=0,
                stop=_Ending(Path(mark.name)),
                callbacks=[_Telling()],
                failure_config=tune.FailureConfig(max_failures=RESTARTS),
            ),
        ).fit()
    if preemption.given.is_set():
        raise preemption.Preempted
    for result in results:
        if result.metrics and UNSEEN_BY in result.metrics:
            raise ValueError(
                f"every node must see the folder of the runs, but {result.metrics[UNSEEN_BY]} does not see {sweep}: "
                "use an --out that all of them mount"
            )


class _Telling(tune.Callback):  # type: ignore[misc]
    """Says in a line why a run was lost, mostly as its worker or node died, and what becomes of it."""

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        log.warning("%s; it goes on from its checkpoint", _loss_of(trial))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        log.warning("%s; it is left, as it is not started again more than %d times", _loss_of(trial), RESTARTS)


def _loss_of(trial: Trial) -> str:
    """The run, and the first line of what Ray says, or of the error that its worker met before it could begin."""
    spec = RunFolder(Path(trial.config["folder"])).spec
    # What this process wrote just now; Tune's own reader looks where it is only copied later.
    error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes()) if trial.pickled_error_file else "unknown"
    reason = str(getattr(error, "cause", error)).partition("\n")[0]
    return f"{spec.label} seed={spec.seed}: lost its worker ({reason})"


class _Ending(tune.Stopper):  # type: ignore[misc]
    """Ends all on notice, where no node is left (Tune would wait for ever), and where one does not see the runs.

    Such a node would come free at once, and be given another run.
    """

    def __init__(self, mark: Path) -> None:
        self.mark = mark
        self.over = False
        self.looks_at = 0.0

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.over = self.over or UNSEEN_BY in result
        return self.over

    def stop_all(self) -> bool:
        if preemption.given.is_set() and not self.over:
            self.mark.write_text("stop")
            self.over = True
        if not self.over and time.monotonic() >= self.looks_at:
            self.looks_at = time.monotonic() + SECONDS_BETWEEN_LOOKS
            if not ray.cluster_resources():
                log.warning("no node of the Ray cluster is left")
                self.over = True
        return self.over


class _Brief(io.TextIOBase):
    """Logs the first sentence of what Ray prints of its processes, which goes on for pages, and is no table or JSON."""

    def write(self, text: str) -> int:
        if sentence := re.sub(r"\x1b\[\d+m", "", text).strip().partition("\n")[0].partition(". ")[0]:
            log.warning("%s", sentence)
        return len(text)


def _require_listener(address: str | None) -> None:
    """Ray tries for many minutes to reach a cluster that is not there."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon:
        return  # none given, or "auto" and "local", which are quick to say no
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise ValueError(f"Ray cluster {address} cannot be reached: {error}") from None


def _tell_shortage(asked: dict[str, float]) -> None:
    """Says it where no run can start yet; an autoscaling cluster may still grow, so it is no error."""
    have = ray.cluster_resources()
    for name, amount in asked.items():
        if amount > have.get(name, 0):
            log.warning(
                "a run asks for %g %s, but the cluster has %g: waiting for more", amount, name, have.get(name, 0)
            )


def train_run(config: dict[str, Any]) -> None:
    """One run on a worker, ended early by the `rungs` of a search if it has them. Its rows go to the journal."""
    from lrbs_core.devices import describe
    from lrbs_core.training import train  # the driver needs no torch for this file

    mark: Path = config["mark"]
    if not mark.exists():  # though its folder may, from a sweep of that machine's own
        tune.report({UNSEEN_BY: f"node {socket.gethostname()} ({ray.util.get_node_ip_address()})"})
        return
    machine: Machine = config["machine"]
    folder = RunFolder(Path(config["folder"]))
    train_here: Train = partial(train, machine=machine)
    if config.get("rungs") is not None:
        train_here = until(train_here, partial(config["rungs"].stops, folder))
    deadline = time.monotonic() + SECONDS_TO_LET_GO
    while True:
        try:
            with _noticing(mark), _metrics(folder) as newest:
                for row in run(folder, train_here, describe(machine)):
                    newest.update(row)
                    try:
                        tune.report(row)
                    except SystemExit:  # Tune ends the run here, but it wants a checkpoint first
                        preemption.given.set()
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(1)
                continue
        except Exception:
            log.exception("run %s", folder.spec.label)
        except preemption.Preempted:
            pass
        # An error is in the journal as failed; Tune's restarts are for workers that died.
        return


@contextmanager
def _noticing(mark: Path) -> Iterator[None]:
    """Gives notice to the run within when the driver has, by the mark, and when Ray ends this worker (SIGTERM).

    A run's thread cannot catch signals. Ray's main thread can, and leaves through `atexit`, where it waits for the run.
    """
    over = threading.Event()

    def end() -> None:
        preemption.given.set()
        over.wait(SECONDS_TO_CHECKPOINT)

    def watch() -> None:
        while not over.wait(1):
            with suppress(OSError):
                if mark.read_bytes():
                    preemption.given.set()

    atexit.register(end)
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()
        atexit.unregister(end)


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
