"""The MLflow store: reaching it, and reading runs back.

Experiment = sweep, run = spec, found by its key. What else is in the store is passed over.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_args

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Whoever delivers tries again by itself, so a single call need not insist.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# A line on standard output for every run that ends, with the whole address of the server, password and all.
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Experiment, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from lrbs_core.journal import FINAL, METRICS, OPTIONAL, WITH_ROWS, Row, Status, is_row, printable
from lrbs_core.specs import RunSpec

__all__ = [
    "DEFAULT_STORE", "SWEEP_TAG", "Group", "Known", "Record", "children", "connect", "ended", "first_line",
    "groups", "overrides_present", "read", "record", "sweeps", "without_password",
]  # fmt: skip

DEFAULT_STORE = "sqlite:///mlflow.db"
# Of an experiment, by which a sweep is told from what else there is in the store.
SWEEP_TAG = ("lrbs.experiment", "sweep")
# What of an address is not to be shown. A password may hold spaces, slashes and @; a port is none.
SECRETS = (
    (re.compile(r"(?i)((?:passw|pwd|secret|token|signature|credential|key|odbc_connect)[\w-]*=)[^&\s'\"]+"), r"\1..."),
    (re.compile(r"://[^/@\s:]*:(?!\d+(?:[/?#\s]|$))[^@\n]*@"), "://...@"),
    (re.compile(r"://(?!/)\S*@"), "://...@"),
)
# Artifacts read at once: over a network most of the time goes by in waiting.
READERS = 8


def connect(uri: str | None) -> MlflowClient:
    """A client of the store at `uri`, of $MLFLOW_TRACKING_URI, or of `mlflow.db` in this folder, made now if it is new.

    Raises ValueError in one line when the store cannot be reached; no address in it has a password.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE
    try:
        with _alone(uri):
            client = MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
    except ValueError:  # it may name a part of a password, cut where it was not meant to be
        raise ValueError(
            f"tracking store {without_password(uri)} must be an address: write @ : / in a password as %40 %3A %2F"
        ) from None
    except Exception as error:
        raise ValueError(without_password(f"tracking store {uri} cannot be reached: {first_line(error)}")) from None
    return client


def _alone(uri: str) -> AbstractContextManager[object]:
    """One at a time opens an SQLite file: of two who make the tables of a new one at once, one fails."""
    scheme, _, path = uri.partition("?")[0].partition(":///")
    file = Path(path)
    if scheme != "sqlite" or not os.access(file.parent, os.W_OK):
        return nullcontext()
    return FileLock(file.with_name(f".{file.name}.lock"))


def first_line(error: Exception) -> str:
    """What an exception says, short enough to be shown, and fit for it."""
    # What is cut off must not take the end of an address with it, by which a password is known.
    return without_password((printable(str(error)).strip().splitlines() or [type(error).__name__])[0])[:300]


def without_password(text: str) -> str:
    """An address, or a text with one in it, fit to be shown: without who asks, and without secrets of its query.

    >>> without_password("postgresql://me:se/cr@et@host/mlflow?sslmode=require&password=secret")
    'postgresql://...@host/mlflow?sslmode=require&password=...'
    """
    for secret, instead in SECRETS:
        text = secret.sub(instead, text)
    return text


class Record(NamedTuple):
    """One run as the store has it."""

    key: str
    status: Status
    machine: str
    rows: list[Row]


def sweeps(client: MlflowClient) -> list[str]:
    """The names of the sweeps in the store, the one that was written to last first."""
    name, value = SWEEP_TAG
    found: list[Experiment] = []
    token: str | None = None
    while True:
        with _asking(client):
            page = client.search_experiments(
                filter_string=f"tags.`{name}` = '{value}'", order_by=["last_update_time DESC"], page_token=token
            )
        found += page
        token = page.token
        if not token:
            return [experiment.name for experiment in found]


def children(client: MlflowClient, sweep: str) -> dict[str, Run]:
    """The MLflow runs of a sweep's specs, by key."""
    return {run.data.tags["lrbs.key"]: run for run in _runs(client, sweep) if "lrbs.key" in run.data.tags}


def _runs(client: MlflowClient, sweep: str) -> list[Run]:
    runs: list[Run] = []
    token: str | None = None
    with _asking(client):
        experiment = client.get_experiment_by_name(sweep)
        while experiment is not None:
            page = client.search_runs(
                [experiment.experiment_id], run_view_type=ViewType.ACTIVE_ONLY, max_results=1000, page_token=token
            )
            runs += page
            token = page.token
            if not token:
                break
    return runs


@contextmanager
def _asking(client: MlflowClient) -> Iterator[None]:
    """Raises ValueError where the store does not answer: what MLflow raises then holds its whole address."""
    try:
        yield
    except (MlflowException, OSError) as error:
        store = without_password(client.tracking_uri)
        raise ValueError(f"tracking store {store} does not answer: {first_line(error)}") from None


def read(client: MlflowClient, sweep: str, keys: Iterable[str]) -> dict[str, Record]:
    """The runs of these keys: an ended run's rows from its `rows.csv`, a running one's from its metric histories."""
    wanted = set(keys)
    runs = {key: run for key, run in children(client, sweep).items() if key in wanted}
    with ThreadPoolExecutor(READERS) as pool:
        return dict(zip(runs, pool.map(partial(record, client), runs.values()), strict=True))


def record(client: MlflowClient, run: Run) -> Record:
    """What one of `children` came to so far."""
    tags = run.data.tags
    status = tags.get("lrbs.status", "running")
    if status not in get_args(Status):
        raise ValueError(f"run {run.info.run_id}: lrbs.status must be one of {get_args(Status)}, but got {status!r}")
    try:
        with _asking(client):
            rows = _history(client, run) if status == "running" else _rows(_text(client, run, "rows.csv"))
        if status in WITH_ROWS and not rows:
            raise ValueError("there are none")
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"rows of run {run.info.run_id} cannot be read ({first_line(error)}): `lrbs sync DIR` sends them again"
        ) from None
    return Record(tags["lrbs.key"], status, printable(tags.get("lrbs.machine", "")), rows)


class Group(NamedTuple):
    """The runs of a sweep that were made with the same overrides, of the `runs` that their launch set out to make."""

    overrides: str
    runs: int
    pairs: list[tuple[RunSpec, Record]]


# What was read of a run, by MLflow's id: the state it was in, and then.
Known = dict[str, tuple[object, RunSpec, Record]]


def groups(client: MlflowClient, sweep: str, known: Known) -> list[Group]:
    """All that the store has of a sweep, the group that began last first; only what is not `known` is read, and kept.

    A run whose spec cannot be read is left out. Where a policy was changed under its old label, each version after the
    first has its number behind the label.
    """
    found = sorted(_runs(client, sweep), key=lambda run: run.info.start_time)
    launches = {run.info.run_id: run.data.tags.get("lrbs.runs", "0") for run in found}
    runs = [run for run in found if "lrbs.key" in run.data.tags]
    with ThreadPoolExecutor(READERS) as pool:
        pairs = list(pool.map(partial(_pair, client, known), runs))
    together: dict[str, list[tuple[RunSpec, Record]]] = defaultdict(list)
    asked: dict[str, int] = {}
    for run, pair in zip(runs, pairs, strict=True):
        overrides = run.data.tags.get("lrbs.overrides", "")
        planned = launches.get(run.data.tags.get(MLFLOW_PARENT_RUN_ID, ""), "0")
        asked[overrides] = int(planned) if planned.isdecimal() else 0
        if pair is not None:
            together[overrides].append(pair)
    return [
        Group(overrides, max(asked[overrides], len(pairs)), _told_apart(pairs))
        for overrides, pairs in reversed(together.items())
    ]


def _pair(client: MlflowClient, known: Known, run: Run) -> tuple[RunSpec, Record] | None:
    state = (run.data.tags.get("lrbs.status"), run.data.metrics.get("updates"))
    before = known.get(run.info.run_id)
    if before is None or before[0] != state:
        try:
            spec = RunSpec.from_dict(json.loads(_text(client, run, "spec.json"))) if before is None else before[1]
            known[run.info.run_id] = (state, spec, record(client, run))
        except Exception:
            return None  # not delivered whole yet, deleted meanwhile, or made by a later version
    _, spec, read = known[run.info.run_id]
    return spec, read


def _told_apart(pairs: list[tuple[RunSpec, Record]]) -> list[tuple[RunSpec, Record]]:
    versions: dict[str, list[RunSpec]] = defaultdict(list)
    told = []
    for spec, read in pairs:
        of_label, version = versions[spec.label], replace(spec, seed=0)
        if version not in of_label:
            of_label.append(version)
        number = of_label.index(version) + 1
        told.append((spec if number == 1 else replace(spec, label=f"{spec.label} ({number})"), read))
    return told


def overrides_present(client: MlflowClient, sweep: str) -> dict[str, int]:
    """How many runs the sweep has with each set of overrides, for telling a person what there is to report."""
    return Counter(run.data.tags.get("lrbs.overrides", "") for run in children(client, sweep).values())


def ended(client: MlflowClient, sweep: str) -> dict[str, Run]:
    """The MLflow runs of a sweep that have come to their end, by key; `record` reads one."""
    return {key: run for key, run in children(client, sweep).items() if run.data.tags.get("lrbs.status") in FINAL}


def _text(client: MlflowClient, run: Run, name: str) -> str:
    # By the artifact's own address: by the run's id MLflow asks its store for the run again, nine times as slow.
    address = f"{run.info.artifact_uri}/{name}"
    with tempfile.TemporaryDirectory() as scratch:
        return Path(download_artifacts(address, dst_path=scratch, tracking_uri=client.tracking_uri)).read_text()


def _rows(text: str) -> list[Row]:
    """The rows of a `rows.csv`. Raises ValueError unless they are 1..n, each a row (`is_row`)."""
    rows = []
    for number, line in enumerate(csv.DictReader(io.StringIO(text)), start=1):
        row = {name: float(value) for name, value in line.items() if name and value}
        if None in line or not is_row(row, number):
            raise ValueError(f"line {number} must be row {number} with all its metrics, whole where they count")
        rows.append(row)
    return rows


def _history(client: MlflowClient, run: Run) -> list[Row]:
    rows: dict[int, Row] = {}
    for name in (*METRICS, *OPTIONAL):
        for point in client.get_metric_history(run.info.run_id, name):
            rows.setdefault(point.step, {"row": point.step, "time_ms": point.timestamp})[name] = point.value
    return [rows[step] for step in sorted(rows) if is_row(rows[step], step)]
