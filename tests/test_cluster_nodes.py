"""A sweep over several nodes: one is killed, others join, one does not see the runs; and the same as a job of Ray's."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections import defaultdict
from contextlib import ExitStack
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from made import checkpoint_bits, command, journal_rows, lrbs, unclocked, write_sweep
from servers import Server, free_port, wait_until
from test_cluster import MISSED_SOON, check

from lrbs_core import sweeping
from lrbs_core.journal import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]
EPOCHS = 8
TOKEN = "the-token-of-a-cluster-made-for-tests"
# `ray start` takes 127.0.0.1 for the address by which others reach this machine; here all is to stay within it.
RAY = ("-c", "from ray._private import services; services.resolve_ip_for_localhost = str; "
             "from ray.scripts.scripts import main; main()")  # fmt: skip
UNSHARE = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"']
CAN_UNSHARE = os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0
# `lrbs_core.cluster`, where a test has imported it, keeps a Ray from being joined. A sweep's `python` is that of tests.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"} | {
    **MISSED_SOON,
    "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0",
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
}  # fmt: skip


class Cluster:
    """A head without CPUs and nodes of `ray start`, each a session of processes. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.page = folder, free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.ends = ExitStack()

    def __enter__(self) -> "Cluster":
        ports = (f"--port={self.port}", f"--dashboard-port={self.page}", f"--ray-client-server-port={free_port()}")
        self.start("--head", "--node-ip-address=127.0.0.1", "--num-cpus=0", *ports)
        return self

    def __exit__(self, *_: object) -> None:
        self.ends.close()

    def start(self, *arguments: str, hide: tuple[Path, Path] | None = None) -> Server:
        """A node that has joined. Of `hide` it sees the first folder where all others see the second."""
        start = [sys.executable, *RAY, "start", "--block", "--object-store-memory=100000000", *arguments]
        start.append(f"--dashboard-agent-listen-port={free_port()}")
        head = "--head" in arguments
        known = 0 if head else len(self.nodes())
        # Each its own, or one would clear away what another has unpacked of a job.
        start.append(f"--temp-dir={self.folder}/{known}")
        # Of the head's own processes too, which serve jobs; a node that joins must not have this.
        env = ENVIRONMENT | ({"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} if head else {})
        node = Server([*UNSHARE, *hide, *start] if hide else start, lambda: len(self.nodes()) > known, env=env)
        node.start()
        # At SIGTERM a node would take its time to say farewell.
        self.ends.callback(lambda: node.process.poll() is None and node.end(signal.SIGKILL))
        return node

    def join(self, cpus: int = 1, hide: tuple[Path, Path] | None = None) -> Server:
        return self.start(f"--address={self.address}", f"--num-cpus={cpus}", hide=hide)

    def nodes(self, token: str = TOKEN) -> list[str]:
        """The states of all nodes so far, as Ray's dashboard tells those who have the token."""
        url = f"http://127.0.0.1:{self.page}/nodes?view=summary"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return [node["raylet"]["state"] for node in json.load(answer)["data"]["summary"]]


@pytest.fixture(scope="module")
def cluster():
    # A folder with a short name: paths of sockets have little room.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder, Cluster(Path(folder)) as it:
        yield it


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """The folder of the sweep, run one after another in one process."""
    folder = tmp_path_factory.mktemp("serial")
    result = lrbs("run", write_sweep(folder / "tiny.py", EPOCHS), "--offline", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


def check_against(serial, folder, seeds=2):
    """Rows and weights to the bit, and what MLflow was told."""
    specs = [spec for spec in sweeping.load(serial / "tiny.py").runs if spec.seed < seeds]
    rows = journal_rows(serial)
    check(folder, {spec.key: unclocked(rows[spec.key]) for spec in specs})
    for spec in specs:
        (path,), (expected,) = (list(root.rglob(f"{spec.key}/checkpoint.pt")) for root in (folder, serial))
        assert checkpoint_bits(path) == checkpoint_bits(expected)


def held(folder):
    """(node, key, process) of the runs that are being written now, a node by the session of its processes."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = [handle.readlink() for handle in (process / "fd").iterdir()]
            session = os.getsid(int(process.name))
        except OSError:
            continue
        keys = {file.parent.name for file in files if folder in file.parents and file.name == "journal.jsonl"}
        yield from ((session, key, int(process.name)) for key in keys)


def listeners(session):
    """(address, port, program) of each socket on which the session's processes take connections."""
    table = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            address, _, port = local.partition(":")
            if state == "0A":
                words = b"".join(bytes.fromhex(address)[i : i + 4][::-1] for i in range(0, len(address) // 2, 4))
                whole = words if len(words) == 16 else bytes(10) + b"\xff\xff" + words
                table[f"socket:[{inode}]"] = IPv6Address(whole), int(port, 16)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = [str(handle.readlink()) for handle in (process / "fd").iterdir()]
            if os.getsid(int(process.name)) == session:
                program = (process / "cmdline").read_text()
                yield from ((*table[file], program) for file in files if file in table)
        except OSError:
            continue


def test_runs_go_on_elsewhere_when_a_node_dies_and_another_joins(cluster, serial, tmp_path):
    drivers_own, nothing = tmp_path / "tmp", tmp_path / "nothing"
    drivers_own.mkdir(), nothing.mkdir()
    hide = (nothing, drivers_own) if CAN_UNSHARE else None  # as on machines of their own
    nodes = [cluster.join(hide=hide), cluster.join(hide=hide)]
    arguments = ["run", write_sweep(tmp_path / "tiny.py", EPOCHS), "--address", cluster.address]
    driver = subprocess.Popen(
        command(*arguments, "--out", tmp_path / "shared", "--checkpoint-seconds", 0.2), cwd=tmp_path,
        env=ENVIRONMENT | {"TMPDIR": str(drivers_own)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    first, second = (node.process.pid for node in nodes)
    stopped, took = {}, defaultdict(set)

    def both_are_stopped():
        rows = journal_rows(tmp_path)
        for node, key, worker in held(tmp_path):
            if node in (first, second) and node not in stopped and len(rows[key]) >= 2:
                os.kill(worker, signal.SIGSTOP)
                stopped[node] = key, worker
        return len(stopped) == 2 or driver.poll() is not None

    def look():
        for node, key, _ in held(tmp_path):
            took[node].add(key)
        return driver.poll() is not None

    try:
        wait_until(both_are_stopped)
        key, _ = stopped[first]
        assert list(tmp_path.rglob(f"{key}/checkpoint.pt"))
        nodes[0].end(signal.SIGKILL)
        third = cluster.join(hide=hide).process.pid
        wait_until(lambda: look() or took[third])
        os.kill(stopped[second][1], signal.SIGCONT)
        wait_until(look)
    finally:
        driver.kill()
        _, complaints = driver.communicate()
    assert driver.returncode == 0, complaints
    assert took[second]
    assert took[third]
    check_against(serial, tmp_path)


@pytest.mark.skipif(not CAN_UNSHARE, reason="only root may give a node a view of its own")
def test_a_node_that_does_not_see_the_runs_ends_the_sweep_in_one_line(cluster, tmp_path):
    """Not even where it has a folder of that name, with the very same specs, from a sweep of its own."""
    sweep, shared, own = write_sweep(tmp_path / "tiny.py", 100), tmp_path / "shared", tmp_path / "own"
    for spec in sweeping.load(sweep).runs:
        RunFolder.create(shared, "tiny", spec)
    shutil.copytree(shared, own)
    node = cluster.join(cpus=2, hide=(own, shared))
    result = lrbs("run", sweep, "--address", cluster.address, "--out", shared, cwd=tmp_path, **ENVIRONMENT)
    node.end(signal.SIGKILL)
    assert result.returncode == 2, result.stderr
    line = f"every node must see the folder of the runs, but node {socket.gethostname()} (127.0.0.1) does not see "
    assert f"lrbs: {line}{shared}/tiny: use an --out that all of them mount" in result.stderr
    assert "Traceback" not in result.stderr
    assert not journal_rows(own)
    left = {path.name for path in (shared / "tiny").iterdir()} - {".delivery.lock"}
    assert left == {path.name for path in (own / "tiny").iterdir()}


def test_a_job_runs_the_sweep_as_a_script(cluster, serial, tmp_path):
    (tmp_path / "sweeps").mkdir()
    write_sweep(tmp_path / "sweeps" / "tiny.py", EPOCHS)
    if cluster.nodes().count("ALIVE") < 2:
        cluster.join()
    options = ["--seeds", 1, "--out", tmp_path / "shared", "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    submit = ["ray", "job", "submit", "--working-dir", ".", "--", "python", "sweeps/tiny.py", *map(str, options)]
    environment = ENVIRONMENT | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{cluster.page}"}
    done = subprocess.run(submit, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "growing" in done.stdout
    check_against(serial, tmp_path, seeds=1)


def test_the_dashboard_of_the_cluster_asks_for_the_token(cluster):
    assert "ALIVE" in cluster.nodes()
    with pytest.raises(urllib.error.HTTPError, match="403"):
        cluster.nodes(token="another-token-than-that-of-the-cluster")


def test_a_ray_of_our_own_is_for_this_machine_and_asks_for_a_token(tmp_path):
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "RAY_AUTH_MODE"}
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        driver = subprocess.Popen(
            command("run", write_sweep(tmp_path / "tiny.py", 1000, seeds=1)), cwd=tmp_path, start_new_session=True,
            env=environment | {"RAY_TMPDIR": folder}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_until(lambda: driver.poll() is not None or any(journal_rows(tmp_path).values()))
            assert driver.poll() is None
            found = list(listeners(driver.pid))
            (port,) = {port for _, port, program in found if "gcs_server" in program.partition("\0")[0]}
            knock = [
                subprocess.run(
                    ["ray", "health-check", "--address", f"127.0.0.1:{port}"], capture_output=True, timeout=100,
                    env=environment | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": mode},
                ).returncode
                for mode in ("disabled", "token")
            ]  # fmt: skip
        finally:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
    assert {str(address.ipv4_mapped) for address, _, _ in found} == {"127.0.0.1"}, found
    assert len({program for _, _, program in found}) >= 5
    assert knock[0] != 0
    assert knock[1] == 0
