"""Real servers for tests, each on a port of its own: PostgreSQL, MLflow, and one that loses answers on their way."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from made import command

# What MLflow's database holds of the sweeps that are so named, `%` for all: points by key; runs, launches without key.
POINTS = """
    SELECT tags.value, metrics.key, metrics.step, metrics.timestamp, metrics.value FROM metrics
    JOIN runs ON runs.run_uuid = metrics.run_uuid AND runs.lifecycle_stage = 'active'
    JOIN experiments ON experiments.experiment_id = runs.experiment_id AND experiments.name LIKE '{}'
    JOIN tags ON tags.run_uuid = runs.run_uuid AND tags.key = 'lrbs.key'"""
RUNS = """
    SELECT runs.lifecycle_stage, runs.status, tags.value FROM runs
    JOIN experiments ON experiments.experiment_id = runs.experiment_id AND experiments.name LIKE '{}'
    LEFT JOIN tags ON tags.run_uuid = runs.run_uuid AND tags.key = 'lrbs.key'"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A process and all that it starts, which can be killed and started again. Use as a context manager."""

    def __init__(self, command: Sequence[object], ready: Callable[[], object], **how: Any) -> None:
        self.command, self.ready, self.how = [*map(str, command)], ready, how

    def __enter__(self) -> Server:
        self.start()
        return self

    def start(self) -> None:
        with tempfile.TemporaryFile() as said:
            self.process = subprocess.Popen(
                self.command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True, **self.how
            )
            try:
                wait_until(lambda: self.process.poll() is not None or self.ready())
                if self.process.poll() is not None:
                    said.seek(0)
                    raise RuntimeError(f"{self.command}: {said.read().decode()[-2000:]}")
            except BaseException:
                self.__exit__()
                raise

    def end(self, how: signal.Signals) -> None:
        os.killpg(self.process.pid, how)
        self.process.wait()

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGTERM)


def wait_until(ready: Callable[[], object], seconds: float = 180) -> None:
    """Returns once the call gives something true; an error counts as not yet."""
    until = time.monotonic() + seconds
    while True:
        try:
            if ready():
                return
        except Exception:
            if time.monotonic() > until:
                raise
        assert time.monotonic() < until, "not ready in time"
        time.sleep(0.05)


def answers(url: str) -> Callable[[], object]:
    def ask() -> bool:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200

    return ask


def postgres_folder() -> Path | None:
    """Where PostgreSQL's programs are; Debian keeps its server out of the path."""
    found = [Path(path).parent for path in (shutil.which("initdb"),) if path]
    return next(iter([*found, *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]), None)


@contextmanager
def postgres() -> Iterator[tuple[Server, str]]:
    """A PostgreSQL with an empty database `mlflow`, deleted afterwards, and its address. It does not run as root."""
    import psycopg2

    programs, port = postgres_folder(), free_port()
    who = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="lrbs-postgres-", ignore_cleanup_errors=True) as folder:
        if who:
            shutil.chown(folder, who["user"], who["group"])
        make = [f"{programs}/initdb", "-D", f"{folder}/data", "-U", "lrbs", "--auth=trust", "--no-sync"]
        subprocess.run(make, check=True, capture_output=True, cwd=folder, **who)
        uri = f"postgresql://lrbs@127.0.0.1:{port}"

        def ready() -> bool:
            psycopg2.connect(f"{uri}/postgres").close()
            return True

        start = [f"{programs}/postgres", "-D", f"{folder}/data", "-p", port, "-h", "127.0.0.1", "-k", folder]
        with Server(start, ready, cwd=folder, **who) as server:
            connection = psycopg2.connect(f"{uri}/postgres")
            connection.autocommit = True
            connection.cursor().execute("CREATE DATABASE mlflow")
            connection.close()
            yield server, f"{uri}/mlflow"
            server.end(signal.SIGINT)  # at once, whoever is connected


def mlflow(store: str, artifacts: str, **env: str) -> tuple[Server, str]:
    """An MLflow server that hands artifacts through, and its address."""
    port = free_port()
    start = [sys.executable, "-m", "mlflow", "server", "--port", port, "--workers", 1, "--backend-store-uri", store,
             "--artifacts-destination", artifacts]  # fmt: skip
    # Its runners of jobs, which lrbs has no use for, take seconds to start.
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | env
    uri = f"http://127.0.0.1:{port}"
    return Server(start, answers(f"{uri}/health"), env=env), uri


def together(*commands: Sequence[object], cwd: Path) -> list[tuple[int, str]]:
    """Real processes of `lrbs` started at once: what each ends as and says."""
    started = [
        subprocess.Popen(command(*arguments), cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for arguments in commands
    ]
    said = [process.communicate(timeout=300)[1] for process in started]
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


class Forgetful(ThreadingHTTPServer):
    """Hands requests on to a server, but loses the answers of those that `loses(number, path)` picks."""

    def __init__(self, server: str) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.server, self.uri = server.removeprefix("http://"), f"http://127.0.0.1:{self.server_port}"
        self.loses: Callable[[int, str], bool] = lambda *_: False
        self.asked = 0

    @contextmanager
    def serving(self) -> Iterator[Forgetful]:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        yield self
        self.shutdown()
        self.server_close()


class _Forward(BaseHTTPRequestHandler):
    server: Forgetful

    def do_GET(self) -> None:
        self.server.asked += 1
        lost = self.server.loses(self.server.asked, self.path)
        connection = HTTPConnection(self.server.server)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if lost:
            return  # the connection closes without a word
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Says nothing."""
