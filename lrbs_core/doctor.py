"""What a sweep needs of this machine, looked at one thing at a time: `lrbs doctor`.

Nothing is changed: a file is written in each folder and removed again. Nothing is asked beyond this machine but the
user's own store and cluster.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import urlsplit

from lrbs_core.journal import Reader, RunFolder, printable
from lrbs_core.specs import EXAMPLES, RunSpec, require_image_folder
from lrbs_core.validation import shares

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Check", "Finding", "examine"]

# A checkpoint of a ResNet-50 takes 0.2 GB, and the next is written beside it; decoded CIFAR-10 takes as much.
GB_NEEDED, GB_WANTED = 0.5, 5.0
# Of which a server's Date, in whole seconds, takes one. By the clocks it is told which journal of a run is the newer.
SECONDS_OF_SKEW = 5.0
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")

Status = Literal["ok", "warning", "fault"]


class Finding(NamedTuple):
    """What was found, and what to do about it."""

    status: Status
    found: str
    fix: str = ""


class Check(NamedTuple):
    """One line of the doctor's."""

    name: str
    status: Status
    found: str
    fix: str


def examine(
    specs: Sequence[RunSpec] | None,
    dataset: str | None,
    data_dir: Path,
    out: Path,
    tracking_uri: str | None,
    address: str | None,
) -> Iterator[Check]:
    """The checks one after another; each stands for itself, and none raises. Data: of the specs, or `dataset`."""
    clients: list[MlflowClient] = []
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("python", _python),
        ("torch", _torch),
        ("ray", lambda: _ray(address)),
        ("mlflow", lambda: _store(tracking_uri, clients)),
        ("clock", lambda: _clock(clients, out)),
        ("out", lambda: _disk(out)),
        ("data", lambda: _disk(data_dir, written=False)),
        ("cache", _cache),
        ("tmp", lambda: _disk(Path(tempfile.gettempdir()))),
        *(
            (f"dataset {name}", partial(_dataset, name, examples, aside, data_dir))
            for name, examples, aside in _needed(specs, dataset)
        ),
        ("delivery", lambda: _delivery(clients, out)),
    ]
    for name, check in checks:
        try:
            status, found, fix = check()
        except Exception as error:
            status, found, fix = "fault", f"{type(error).__name__}: {error}", ""
        yield Check(name, status, *(" ".join(printable(text).split()) for text in (found, fix)))


def _python() -> Finding:
    # pip installs lrbs for no Python that is too old.
    return Finding("ok", f"{platform.python_version()} at {sys.executable}")


def _torch() -> Finding:
    import torch

    found = f"torch {torch.__version__}"
    if not torch.cuda.is_available():
        if Path("/dev/nvidia0").exists():
            return Finding("warning", f"{found} finds no CUDA device, but a GPU is there", "see nvidia-smi")
        return Finding("ok", f"{found}, no CUDA device: runs take the CPU, {torch.get_num_threads()} threads")
    torch.ones(8, device="cuda").sum().item()  # a build without kernels for this GPU fails here, not before
    free, total = (size / 1e9 for size in torch.cuda.mem_get_info())
    bf16 = "with bf16" if torch.cuda.is_bf16_supported() else "without bf16"
    return Finding("ok", f"{found}, {torch.cuda.get_device_name()} {bf16}, {free:.0f} of {total:.0f} GB free")


def _ray(address: str | None) -> Finding:
    if find_spec("ray") is None:
        return Finding("warning", "not installed: runs are one after another", "pip install 'ray[default,tune]'")
    from lrbs_core.cluster import joined

    found, guarded = f"ray {version('ray')}", os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    places = (os.environ.get("RAY_AUTH_TOKEN"), os.environ.get("RAY_AUTH_TOKEN_PATH"))
    if guarded and not any(places) and not (Path.home() / ".ray" / "auth_token").exists():
        return Finding("fault", f"{found}, RAY_AUTH_MODE=token without a token", "ray get-auth-token --generate")
    try:
        with joined(address or "auto", 0, 0):
            import ray

            have = ray.cluster_resources()
    except ValueError as error:
        if address is None and "Could not find any running Ray instance" in str(error):
            return Finding("ok", f"{found}, no cluster here: a run starts its own")
        return Finding("fault", f"{found}: {error}", "ray start --head, or see --address and the token")
    found += f", a cluster of {have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs"
    if not guarded:
        return Finding("warning", f"{found} that asks for no token: who reaches it runs code", "RAY_AUTH_MODE=token")
    return Finding("ok", found)


def _store(uri: str | None, clients: list[MlflowClient]) -> Finding:
    """Puts the store's client into `clients` if it is reached. A store that is not there yet is not made."""
    if find_spec("mlflow") is None:
        return Finding("warning", "not installed: only --offline runs", "pip install mlflow")
    from lrbs_core import store

    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or store.DEFAULT_STORE
    shown = store.without_password(uri)
    later = "start it, or see --tracking-uri; until then: lrbs run --offline, then lrbs sync"
    try:
        has, needs, known = _revisions(uri)
    except Exception as error:
        return Finding("fault", f"tracking store {shown} cannot be reached: {store.first_line(error)}", later)
    if needs and not has:
        return Finding("ok", f"{shown} is not there yet: the first run makes it")
    if has != needs:
        # Not connected to: MLflow would bring some schemas up to date there and then, without asking.
        found = f"{shown} has the schema {has}, but mlflow {version('mlflow')} needs {needs}"
        mend = f"take a backup, then: mlflow db upgrade {shown}" if known else "pip install --upgrade mlflow"
        return Finding("fault", found, mend)
    try:
        clients.append(store.connect(uri))
    except ValueError as error:
        return Finding("fault", str(error), later)
    return Finding("ok", f"mlflow {version('mlflow')}, {shown}")


def _revisions(uri: str) -> tuple[str | None, str | None, bool]:
    """The schema of the database at `uri`, the one that MLflow needs, and if it knows the first (else that is newer).

    None and None for what is no database.
    """
    import mlflow
    import sqlalchemy
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    try:
        url = sqlalchemy.make_url(uri)
    except (ValueError, sqlalchemy.exc.ArgumentError):
        return None, None, True  # what is wrong with it, MLflow says
    if url.get_backend_name() not in DATABASES:
        return None, None, True
    migrations = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    needs, known = migrations.get_current_head(), {script.revision for script in migrations.walk_revisions()}
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        return None, needs, True
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect() as connection:
            has = MigrationContext.configure(connection).get_current_revision()
            return has, needs, has in known
    finally:
        engine.dispose()


def _clock(clients: Sequence[MlflowClient], out: Path) -> Finding:
    """This machine's clock against the MLflow server's and that of the file system of `out`."""
    ahead = {}
    for client in clients:
        if urlsplit(client.tracking_uri).scheme in ("http", "https"):
            ahead["the MLflow server"] = _server_ahead(client.tracking_uri)
    try:
        with tempfile.NamedTemporaryFile(dir=_existing(out)) as file:
            ahead[f"the file system of {out}"] = os.fstat(file.fileno()).st_mtime - time.time()
    except OSError:
        pass  # the check of the folder says so
    found = ", ".join(f"{name} {seconds:+.1f} s" for name, seconds in ahead.items())
    if any(abs(seconds) > SECONDS_OF_SKEW for seconds in ahead.values()):
        return Finding("fault", f"{found} from the clock here", "set the clocks, by NTP for instance (timedatectl)")
    return Finding("ok", f"{found} from the clock here" if found else "nothing to compare with")


def _server_ahead(uri: str) -> float:
    """Seconds by which a server's clock is ahead of the one here, to within about one."""
    import requests

    began, address = time.time(), urlsplit(uri)
    health = address._replace(path=f"{address.path.rstrip('/')}/health", query="").geturl()
    # Whatever the answer is, it has a date; a redirect may lead to a machine that is not the user's.
    answer = requests.get(health, timeout=20, allow_redirects=False)
    middle = (began + time.time()) / 2
    return parsedate_to_datetime(answer.headers["Date"]).timestamp() + 0.5 - middle


def _existing(path: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def _disk(path: Path, written: bool = True) -> Finding:
    folder = _existing(path)
    gb = shutil.disk_usage(folder).free / 1e9
    found = f"{path}, {gb:.1f} GB free" + ("" if folder == path.absolute() else ", not there yet")
    try:
        if written:
            with tempfile.NamedTemporaryFile(dir=folder) as file:
                file.write(bytes(2**20))
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        return Finding("fault", f"{found}, cannot be written: {error.strerror}", "free some, or give another folder")
    if written and gb < GB_NEEDED:
        return Finding("fault", f"{found} of the {GB_NEEDED:g} GB needed", "free some, or give another folder")
    if gb < GB_WANTED:
        return Finding("warning", found, "free some: checkpoints and decoded data may take more")
    return Finding("ok", found)


def _cache() -> Finding:
    from lrbs_core.decoding import cache_home

    return _disk(cache_home())


def _needed(specs: Sequence[RunSpec] | None, dataset: str | None) -> Iterable[tuple[str, int | None, int]]:
    """Each dataset, how many training examples it must have, where that is known, and how many are set aside."""
    if dataset is not None:
        return [(dataset, EXAMPLES.get(dataset), 0)]
    return dict.fromkeys((spec.dataset, spec.examples, spec.validation_examples) for spec in specs or ())


def _dataset(name: str, examples: int | None, aside: int, data_dir: Path) -> Finding:
    if name == "digits":
        return Finding("ok", "comes with scikit-learn")
    if name in ("cifar10", "cifar100"):
        return _cifar(name, data_dir)
    from lrbs_core.decoding import image_names, splits_of

    try:
        if name not in EXAMPLES:
            require_image_folder(name)
        folder = data_dir / name.removeprefix("imagefolder:")
        train, _, classes = splits_of(folder)
        sizes = [len(names) for names in image_names(train, classes)]
        shares(sizes, aside)
    except ValueError as error:
        return Finding("fault", str(error), "" if "--data-dir" in str(error) else "see --data-dir")
    count = sum(sizes)
    found = f"{folder}, {count:,} training images of {len(classes)} classes"
    found += f", {aside:,} of them set aside for validation" if aside else ""
    if examples not in (None, count):
        return Finding("fault", f"{found}, but the plan has {examples:,}", "mend the folder, or the sweep's examples")
    return Finding("ok", found)


def _cifar(name: str, data_dir: Path) -> Finding:
    """The files of torchvision, by their checksums; what has been decoded already needs none."""
    from torchvision import datasets

    from lrbs_core.decoding import cache_home

    if (cache_home() / f"{name}-torchvision").exists():
        return Finding("ok", f"decoded in {cache_home()}")
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    folder, files = data_dir / kind.base_folder, [*kind.train_list, *kind.test_list]
    bad = [file for file, md5 in files if not datasets.utils.check_integrity(str(folder / file), md5)]
    if not folder.is_dir():
        return Finding("warning", f"not in {data_dir}: the first run downloads it", "offline, put its files there")
    if bad:
        found = f"{folder} lacks {', '.join(bad)}, or has them broken: the first run downloads them"
        return Finding("fault", found, "offline, put the original files there")
    return Finding("ok", f"{folder}")


def _delivery(clients: Sequence[MlflowClient], out: Path) -> Finding:
    """How many of the runs in `out` have more in their journals than the store has been told."""
    folders, unreadable = RunFolder.find(out)
    if unreadable:
        count = len(folders) + len(unreadable)
        found = f"{len(unreadable)} of {count} run(s) in {out} cannot be read, such as {unreadable[0]}"
        return Finding("fault", found, "remove their folders, or read them with the lrbs that wrote them")
    readers = [(folder, Reader(folder.journal_path).poll()) for folder in folders]
    begun = [(folder, reader) for folder, reader in readers if reader.status is not None]
    if not begun:
        return Finding("ok", f"no journals in {out}")
    if not clients:
        return Finding("warning", f"{len(begun)} run(s) in {out}, but no store to ask", f"later: lrbs sync {out}")
    from lrbs_core.store import children

    told = {sweep: children(clients[0], sweep) for sweep in {folder.sweep for folder, _ in begun}}
    late = 0
    for folder, reader in begun:
        run = told[folder.sweep].get(folder.spec.key)
        updates = reader.rows[-1]["updates"] if reader.rows else None
        has = None if run is None else (run.data.tags.get("lrbs.status"), run.data.metrics.get("updates"))
        late += has != (reader.status, updates)
    if late:
        return Finding("warning", f"{late} of {len(begun)} run(s) in {out} not told in full", f"lrbs sync {out}")
    return Finding("ok", f"all {len(begun)} run(s) in {out} told")
