"""Delivery: the journals, told to MLflow.

Experiment = sweep; one parent run a launch, one child a spec, found by its key and never made twice. Everything is
read from the journals, with their own timestamps, so that sending it again adds nothing: MLflow keys a point by
(key, timestamp, step, value). A store that is away costs nothing but lateness.
"""

from __future__ import annotations

import csv
import io
import json
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from lrbs_core.journal import FINAL, METRICS, NOISE_SUMS, OPTIONAL, Reader, RunFolder, Status
from lrbs_core.specs import RunSpec
from lrbs_core.store import SWEEP_TAG, children, first_line, without_password

__all__ = ["Delivery", "experiment_of", "only", "tell_parents"]

POINTS_A_CALL = 1000
SECONDS_A_PASS = 2.0
# What the UI needs to open on runs (rather than on traces of language models), and what it shows above them.
EXPERIMENT_TAGS = {
    SWEEP_TAG[0]: SWEEP_TAG[1],
    "mlflow.experimentKind": "custom_model_development",
    MLFLOW_RUN_NOTE: (
        "A sweep of lrbs. Open a launch (+) to see its runs, one a policy and seed; group by the tag `lrbs.policy` and "
        "chart `test_accuracy` against `epoch`, `updates` or `train_seconds`."
    ),
}
ENDS: dict[Status, str] = {"finished": "FINISHED", "diverged": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


def tell_parents(
    client: MlflowClient, sweep: str, keys: Iterable[str], tags: dict[str, str], texts: dict[str, str]
) -> None:
    """Puts what the runs of these keys came to together on the launches that made them: tags, and artifacts by name.

    Raises ValueError in one line when the store does not take it.
    """
    try:
        runs = children(client, sweep)
        for parent in {runs[key].data.tags[MLFLOW_PARENT_RUN_ID] for key in keys if key in runs}:
            client.log_batch(parent, tags=[RunTag(name, value) for name, value in tags.items()])
            for name, text in texts.items():
                client.log_text(parent, text, name)
    except Exception as error:
        reason = without_password(first_line(error))
        raise ValueError(f"tracking store not told the outcome ({reason}): the same command tries again") from None


def experiment_of(client: MlflowClient, sweep: str) -> str:
    """The id of the sweep's experiment, made now if it is new. Raises ValueError for one that was deleted."""
    experiment = client.get_experiment_by_name(sweep)
    if experiment is None:
        try:
            return str(client.create_experiment(sweep, tags=EXPERIMENT_TAGS))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        experiment = client.get_experiment_by_name(sweep)  # another machine made it at this moment
    if experiment.lifecycle_stage != LifecycleStage.ACTIVE:
        restore = f"mlflow experiments restore -x {experiment.experiment_id}"
        raise ValueError(f"experiment {sweep} was deleted: bring it back with `{restore}`")
    name, value = SWEEP_TAG
    if name not in experiment.tags:
        client.set_experiment_tag(experiment.experiment_id, name, value)
    return str(experiment.experiment_id)


def only(client: MlflowClient, find: Callable[[], list[Run]], make: Callable[[], object]) -> Run:
    """The run that `find` finds, made unless there is one.

    MLflow's client may have made two, trying again where the first answer was lost, and so may two machines that
    deliver copies of a journal at once: of these all agree on the first by id.
    """
    runs = find()
    if not runs:
        make()
        runs = find()
    for double in runs[1:]:
        client.delete_run(double.info.run_id)
    return runs[0]


class _Sent:
    """How far one journal has been delivered."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.reader = Reader(folder.journal_path)
        self.run_id = ""
        self.rows = 0
        self.status: tuple[Status | None, int] = (None, 0)

    @property
    def pending(self) -> bool:
        """Whether the journal, as last read, holds what the store has not been told."""
        return self.reader.status is not None and (self.rows, self.status) != (
            len(self.reader.rows),
            (self.reader.status, self.reader.status_time_ms),
        )


class Delivery:
    """Delivers journals to the store, in a thread while used as a context manager.

    `parents`: the launches that new runs belong to, by sweep, where not one of its own.
    One of these at a time writes a store file (SQLite); a server or PostgreSQL takes several.
    """

    def __init__(
        self, client: MlflowClient, folders: Sequence[RunFolder], parents: Mapping[str, str] | None = None
    ) -> None:
        self.client = client
        self.error = ""
        self._sent = [_Sent(folder) for folder in folders]
        self._launch = uuid.uuid4().hex
        self._parents = dict(parents or {})
        self._locks: dict[str, FileLock] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="lrbs-delivery", daemon=True)

    def __enter__(self) -> Delivery:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.deliver()
        self.close()

    def add(self, folder: RunFolder) -> None:
        """One more journal to deliver, from the next pass on."""
        self._sent.append(_Sent(folder))

    @property
    def begun(self) -> int:
        """Runs that have a status, and so something to tell."""
        return sum(sent.reader.status is not None for sent in self._sent)

    @property
    def late(self) -> int:
        """Runs of which the store has not been told everything."""
        return sum(sent.pending for sent in self._sent)

    def deliver(self) -> None:
        """One pass over the journals. What the store does not take now is kept for the next pass; `error` says why."""
        self.error = ""
        for sent in self._sent:
            try:
                sent.reader.poll()
            except OSError as error:
                self.error = first_line(error)  # another's, say, who lets nobody read it
        for sent in filter(lambda sent: sent.pending, self._sent):
            if not self._may_write(sent.folder):
                self.error = "another lrbs process delivers this sweep"
                continue
            try:
                self._deliver(sent)
            except Exception as error:
                self.error = without_password(first_line(error))
                sent.run_id, sent.rows = "", 0  # what the store has of it, only the store knows
                if not self._reachable():
                    return  # else it is this run's own trouble, which must not hold up the others

    def _may_write(self, folder: RunFolder) -> bool:
        """Takes a sweep's lock, for as long as this lives: two who deliver at once would both do all the work."""
        if folder.sweep not in self._locks:
            # Not the thread's own: the delivering thread takes it, and whoever ends the delivery gives it back.
            lock = FileLock(folder.path.parent / ".delivery.lock", blocking=False, thread_local=False)
            try:
                lock.acquire()
            except Timeout:
                return False
            except OSError:
                pass  # another's folder, say: the lock saves work, but what is told twice is in the store once
            self._locks[folder.sweep] = lock
        return True

    def _reachable(self) -> bool:
        try:
            self.client.search_experiments(max_results=1)
        except Exception:
            return False
        return True

    def close(self) -> None:
        """Ends the parent runs whose children have all ended, and lets others deliver."""
        try:
            for sweep, parent in self._parents.items() if not self.late else ():
                states = [s.reader.status for s in self._sent if s.folder.sweep == sweep and s.reader.status]
                if all(state in ENDS for state in states):
                    self.client.set_terminated(parent, "FAILED" if "failed" in states else "FINISHED")
        except Exception as error:
            self.error = without_password(first_line(error))
        finally:
            for lock in self._locks.values():
                lock.release()

    def _loop(self) -> None:
        while not self._stop.wait(SECONDS_A_PASS):
            self.deliver()

    def _deliver(self, sent: _Sent) -> None:
        reader, status = sent.reader, sent.reader.status
        assert status is not None
        if not sent.run_id:
            sent.run_id = self._run_of(sent)
        points = [
            Metric(name, float(row[name]), int(row["time_ms"]), int(row["row"]))
            for row in reader.rows[sent.rows :]
            for name in (*METRICS, *OPTIONAL)
            if name in row
        ]
        for first in range(0, len(points), POINTS_A_CALL):
            self.client.log_batch(sent.run_id, metrics=points[first : first + POINTS_A_CALL])
        sent.rows = len(reader.rows)
        if status in ENDS:
            measured = [name for name in (*OPTIONAL, *NOISE_SUMS) if any(name in row for row in reader.rows)]
            self.client.log_text(sent.run_id, _csv(["row", "time_ms", *METRICS, *measured], reader.rows), "rows.csv")
        tags = {"lrbs.status": status, "lrbs.machine": reader.machine}
        if status == "failed":
            tags["lrbs.error"] = reader.note[-4000:]
        self.client.log_batch(sent.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        if status in ENDS:
            self.client.set_terminated(sent.run_id, ENDS[status], end_time=reader.status_time_ms)
        else:
            self.client.update_run(sent.run_id, status="RUNNING")
        sent.status = (status, reader.status_time_ms)

    def _run_of(self, sent: _Sent) -> str:
        """The MLflow run of the spec: the one there is, or a new one."""
        sweep, spec = sent.folder.sweep, sent.folder.spec
        experiment_id = experiment_of(self.client, sweep)

        def find() -> list[Run]:
            runs = []
            for run in self._tagged(experiment_id, "lrbs.key", spec.key):
                started_ms = int(run.data.tags.get("lrbs.started_ms", 0))
                if started_ms > sent.reader.started_ms:
                    raise ValueError(f"{run.info.run_name} was begun anew elsewhere: this journal of it is out of date")
                if started_ms < sent.reader.started_ms:
                    if run.data.tags.get("lrbs.status") in FINAL and sent.reader.status not in FINAL:
                        raise ValueError(
                            f"{run.info.run_name} has ended elsewhere: this journal of it is told once it has too"
                        )
                    # Its journal is gone and the run began anew: points of two journals must not mix in one run.
                    self.client.delete_run(run.info.run_id)
                else:
                    runs.append(run)
            return runs

        def make() -> None:
            if sweep not in self._parents:
                self._parents[sweep] = self._parent_of(sweep, experiment_id)
            tags = {
                MLFLOW_PARENT_RUN_ID: self._parents[sweep],
                "lrbs.key": spec.key,
                "lrbs.sweep": sweep,
                "lrbs.policy": spec.label,
                "lrbs.seed": str(spec.seed),
                "lrbs.status": "running",
                "lrbs.started_ms": str(sent.reader.started_ms),
                "lrbs.overrides": _overrides(spec),
            }
            name = f"{spec.label} seed={spec.seed}"
            self.client.create_run(experiment_id, sent.reader.started_ms, tags=tags, run_name=name)

        run = only(self.client, find, make)
        if parent := run.data.tags.get(MLFLOW_PARENT_RUN_ID):
            self._parents.setdefault(sweep, parent)
        if "lrbs.machine" not in run.data.tags:  # never got further than its creation
            self._tell_spec(str(run.info.run_id), sent.folder)
        return str(run.info.run_id)

    def _parent_of(self, sweep: str, experiment_id: str) -> str:
        runs = sum(sent.folder.sweep == sweep for sent in self._sent)
        tags = {"lrbs.sweep": sweep, "lrbs.launch": self._launch, "lrbs.runs": str(runs)}
        name = f"launch {datetime.now(UTC):%Y-%m-%d %H:%M}"
        parent = only(
            self.client,
            lambda: self._tagged(experiment_id, "lrbs.launch", self._launch),
            lambda: self.client.create_run(experiment_id, tags=tags, run_name=name),
        )
        return str(parent.info.run_id)

    def _tagged(self, experiment_id: str, tag: str, value: str) -> list[Run]:
        runs = self.client.search_runs([experiment_id], f"tags.`{tag}` = '{value}'", ViewType.ACTIVE_ONLY)
        return sorted(runs, key=lambda run: str(run.info.run_id))

    def _tell_spec(self, run_id: str, folder: RunFolder) -> None:
        spec = folder.spec
        params = [Param(name, str(value)) for name, value in flatten(spec.to_dict() | {"search": folder.point}).items()]
        self.client.log_batch(run_id, params=params)
        self.client.log_text(run_id, json.dumps(spec.to_dict(), indent=1), "spec.json")
        self.client.log_text(run_id, _plan_csv(spec), "plan.csv")


def _overrides(spec: RunSpec) -> str:
    return " ".join(f"{name}={value}" for name, value in spec.overrides)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, keys joined by dots; lists stay, as text.

    >>> flatten({"policy": {"lr": {"schedule": "Steps", "at": [60]}, "momentum": 0.9}})
    {'policy.lr.schedule': 'Steps', 'policy.lr.at': '[60]', 'policy.momentum': 0.9}
    """
    flat: dict[str, Any] = {}
    for name, part in value.items():
        if isinstance(part, dict):
            flat |= flatten(part, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.dumps(part) if isinstance(part, list) else part
    return flat


def _plan_csv(spec: RunSpec) -> str:
    phases = [phase.__dict__ for phase in spec.plan().phases]
    return _csv(list(phases[0]), phases)


def _csv(columns: list[str], rows: Iterable[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
