"""The Grafana dashboard: every metric and label it asks for is one that a real Ray tells while it runs a sweep."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ray.dashboard.modules.metrics.dashboards import default_dashboard_panels
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES
from test_cluster import holders

FOLDER = Path(__file__).parents[1] / "dashboards" / "grafana"
BOARD = json.loads((FOLDER / "lrbs.json").read_text())
PANELS = BOARD["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
# What this test cannot bring about: a GPU, and a worker that Ray kills for want of memory.
GPU = {"ray_node_gpus_utilization", "ray_node_gram_used", "ray_node_gram_available"}
OUT_OF_MEMORY = "ray_memory_manager_worker_eviction_total"
POLICIES = {"decaying", "growing"}
# Long enough for Ray, which reports once a second. An actor that is through with one policy goes on to the other.
SWEEP = """
import sys
from pathlib import Path
from lrbs_core.cluster import run_on_ray
from lrbs_core.journal import RunFolder
from made import MACHINE, made_spec
RUNS = (("decaying", 0), ("decaying", 1), ("growing", 2), ("growing", 3))
specs = [made_spec(label, seed, epochs=60) for label, seed in RUNS]
folders = [RunFolder.create(Path(sys.argv[1]), "tiny", spec) for spec in specs]
run_on_ray(folders, MACHINE, gpus=0.5, address=sys.argv[2])
"""


def selectors(expression):
    """(metric, {label: value it must have, or None}) of each in an expression."""
    for metric, inside in re.findall(r"\b(ray_\w+)(?:\{(.*?)\})?", expression):
        labels = re.findall(r'(\w+)(=~?)"(.*?)"', inside)
        yield metric, {label: value if equals == "=" else None for label, equals, value in labels}


def grouped(expression, word):
    return {label for inside in re.findall(rf"\b{word} \((.*?)\)", expression) for label in inside.split(", ")}


def test_every_panel_is_whole():
    assert BOARD["uid"]
    assert BOARD["title"]
    assert BOARD["schemaVersion"] >= 36
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert list(selectors(target["expr"]))
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) == grouped(target["expr"], "by")


def test_panels_lie_side_by_side():
    def overlap(a, b):
        return (
            a["x"] < b["x"] + b["w"]
            and b["x"] < a["x"] + a["w"]
            and a["y"] < b["y"] + b["h"]
            and b["y"] < a["y"] + a["h"]
        )

    places = [panel["gridPos"] for panel in PANELS]
    assert all(0 <= place["x"] < place["x"] + place["w"] <= 24 for place in places)
    assert not [pair for pair in combinations(places, 2) if overlap(*pair)]


def test_every_variable_is_defined_and_used():
    variables = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(PANELS)))
    assert used == variables.keys()


def scrape(port):
    """All samples now: {metric: [(labels, value)]}."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
        text = page.read().decode()
    samples = defaultdict(list)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name].append((sample.labels, sample.value))
    return samples


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def cluster():
    """(port of the cluster, port of its metrics): a Ray of our own, whose GPU is one by name only."""
    ports = free_ports(5)
    names = ("port", "metrics-export-port", "ray-client-server-port", "dashboard-agent-listen-port",
             "dashboard-agent-grpc-port")  # fmt: skip
    # A folder with a short name: paths of sockets have little room.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        ray = subprocess.Popen(
            [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=2", "--num-gpus=1",
             "--include-dashboard=false", f"--temp-dir={folder}", "--object-store-memory=100000000",
             *(f"--{name}={port}" for name, port in zip(names, ports, strict=True))],
            env=os.environ | environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            until = time.monotonic() + 120
            while not answers(ports[1]):
                assert ray.poll() is None
                assert time.monotonic() < until
                time.sleep(0.5)
            yield ports[0], ports[1]
        finally:
            ray.terminate()
            ray.wait(60)


def environment():
    return {"RAY_AUTH_MODE": "disabled", "RAY_metrics_report_interval_ms": "1000", "RAY_USAGE_STATS_ENABLED": "0"}


def answers(port):
    try:
        return "ray_resources" in scrape(port)
    except OSError:
        return False


@pytest.fixture(scope="module")
def scrapes(cluster, tmp_path_factory):
    """What Ray told, again and again, during a sweep of four runs, one of whose workers is killed, and after it."""
    port, metrics = cluster
    folder = tmp_path_factory.mktemp("sweep")
    process = subprocess.Popen(
        [sys.executable, "-c", SWEEP, folder, f"127.0.0.1:{port}"], cwd=Path(__file__).parent,
        env=os.environ | environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    found, killed, until = [], False, time.monotonic() + 300
    try:
        while process.poll() is None:
            assert time.monotonic() < until
            found.append(scrape(metrics))
            if not killed and len(found[-1]["ray_lrbs_examples_per_second"]) == 2:
                killed = True
                os.kill(holders(folder)[0], signal.SIGKILL)
            time.sleep(0.7)
    finally:
        process.kill()
    assert process.returncode == 0
    assert killed
    while found[-1]["ray_lrbs_runs"]:
        assert time.monotonic() < until, "what ended is still told"
        found.append(scrape(metrics))
        time.sleep(0.7)
    return found


@pytest.fixture(scope="module")
def told(scrapes):
    """{metric: [labels of each sample]} of all scrapes; from Ray's source for what needs a GPU."""
    found = defaultdict(list)
    for samples in scrapes:
        for metric, values in samples.items():
            found[metric].extend(labels for labels, _ in values)
    for metric in GPU:
        columns = METRICS_GAUGES[metric.removeprefix("ray_")].view.columns
        found[metric].append(dict.fromkeys(columns, ""))
    return found


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_ray_tells_every_metric_and_label_that_is_asked_for(told, expression):
    known = set()
    for metric, wanted in selectors(expression):
        if metric == OUT_OF_MEMORY:
            assert metric in Path(default_dashboard_panels.__file__).read_text()
            continue
        assert told[metric], metric
        labels = set.union(*map(set, told[metric])) | {"instance"}  # which Prometheus adds itself
        assert wanted.keys() | grouped(expression, "on") <= labels, metric
        for label, value in wanted.items():
            assert value is None or value in {each.get(label) for each in told[metric]}, (metric, label)
        known |= labels
    assert grouped(expression, "by") <= known or OUT_OF_MEMORY in expression


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_runs_in_flight_are_told_by_policy(scrapes):
    on = [[labels for labels, value in samples["ray_lrbs_runs"] if value] for samples in scrapes]
    assert {labels["policy"] for now in on for labels in now} == POLICIES
    assert {labels["sweep"] for now in on for labels in now} == {"tiny"}
    assert {labels["GpuIndex"] for now in on for labels in now} == {"0"}
    assert max(map(len, on)) >= 2
    assert not on[-1]
    # An actor goes on to a run of another policy, and is never told to have two.
    policies = defaultdict(set)
    for now in on:
        assert len({labels["WorkerId"] for labels in now}) == len(now)
        for labels in now:
            policies[labels["WorkerId"]].add(labels["policy"])
    assert POLICIES in policies.values()
    assert len(policies) > 2  # one came in place of the killed one


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_speed_and_cpu_time_are_told_by_policy(scrapes):
    speeds = defaultdict(list)
    for samples in scrapes:
        on = [(labels, value) for labels, value in samples["ray_lrbs_examples_per_second"] if value]
        assert len({labels["WorkerId"] for labels, _ in on}) == len(on)
        for labels, value in on:
            speeds[labels["policy"]].append(value)
    assert not on
    assert {policy for policy, values in speeds.items() if max(values) > 10} == POLICIES
    seconds = {
        tuple(labels.items()): value for samples in scrapes for labels, value in samples["ray_lrbs_cpu_seconds_total"]
    }
    assert {dict(labels)["policy"] for labels, value in seconds.items() if value > 0.1} == POLICIES
