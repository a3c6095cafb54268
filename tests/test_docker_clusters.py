"""What starts Ray in docker/: each asks for a token, is taken by what will read it, and calls commands that exist."""

import copy
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import typer
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from lrbs_core.cli import app
from lrbs_core.version import __version__

DOCKER = Path(__file__).parents[1] / "docker"
SERVICES = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
CLUSTER = yaml.safe_load((DOCKER / "cluster.yaml").read_text())
JOB = yaml.safe_load((DOCKER / "rayjob.yaml").read_text())
JOB_CLUSTER = JOB["spec"]["rayClusterSpec"]
GROUPS = [JOB_CLUSTER["headGroupSpec"], *JOB_CLUSTER["workerGroupSpecs"]]
PODS = [group["template"]["spec"] for group in GROUPS]
IMAGE = f"lrbs:{__version__}"
# By the reference of KubeRay 1.7's API: https://docs.ray.io/en/master/cluster/kubernetes/references/api.html
JOB_FIELDS = ["entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec"]
JOB_CLUSTER_FIELDS = ["rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"]
GROUP_FIELDS = ["serviceType", "groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"]


class TestToken:
    def test_everything_that_starts_ray_asks_for_one(self):
        starters = [name for name, service in SERVICES.items() if "ray start" in service.get("command", "")]
        assert starters == ["ray-head", "ray-worker"]
        for name in starters:
            assert SERVICES[name]["environment"]["RAY_AUTH_MODE"] == "token"
            assert SERVICES[name]["environment"]["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")
        assert "--env RAY_AUTH_MODE=token" in CLUSTER["docker"]["run_options"]
        assert CLUSTER["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
        assert JOB_CLUSTER["authOptions"] == {"mode": "token"}

    def test_ray_itself_refuses_to_start_without_one(self, tmp_path, monkeypatch):
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
        command = [Path(sys.executable).with_name("ray"), "start", "--head", "--port", "0", "--include-dashboard", "0"]
        result = subprocess.run([*command, "--temp-dir", tmp_path / "ray"], capture_output=True, text=True)
        assert result.returncode != 0
        assert "no authentication token" in " ".join((result.stdout + result.stderr).lower().split())


class TestCluster:
    def filled(self, **changes):
        config = copy.deepcopy(CLUSTER)
        config["provider"] |= {"head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2", "10.0.0.3"]}
        config["auth"]["ssh_user"] = "me"
        for section, value in changes.items():
            config[section] |= value
        return config

    def test_ray_takes_it_once_it_is_filled_in(self):
        config = prepare_config(self.filled())
        validate_config(config)
        assert config["available_node_types"]["local.cluster.node"]["min_workers"] == 2
        assert config["docker"]["image"] == IMAGE
        assert "--volume /shared:/shared" in config["docker"]["run_options"]

    @pytest.mark.parametrize("missing", [{"provider": {"head_ip": None}}, {"auth": {"ssh_user": None}}])
    def test_ray_refuses_it_until_then(self, missing):
        with pytest.raises(Exception, match="None is not of type 'string'"):
            validate_config(prepare_config(self.filled(**missing)))
        section, value = next(iter(missing.items()))
        assert CLUSTER[section] | value == CLUSTER[section]


class TestRayJob:
    def test_has_the_fields_of_kuberay(self):
        assert (JOB["apiVersion"], JOB["kind"]) == ("ray.io/v1", "RayJob")
        assert set(JOB["spec"]) <= set(JOB_FIELDS)
        assert set(JOB_CLUSTER) <= set(JOB_CLUSTER_FIELDS)
        for group in GROUPS:
            assert set(group) <= set(GROUP_FIELDS)
            assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        assert JOB_CLUSTER["rayVersion"] == ray.__version__
        assert JOB_CLUSTER["headGroupSpec"]["serviceType"] == "ClusterIP"

    def test_a_retry_finds_the_journals(self):
        assert JOB["spec"]["backoffLimit"] > 0
        assert "--out /shared/" in JOB["spec"]["entrypoint"]
        for pod in PODS:
            claim = {"name": "shared", "persistentVolumeClaim": {"claimName": "lrbs-shared"}}
            assert pod["volumes"] == [claim]
            assert pod["containers"][0]["volumeMounts"] == [{"name": "shared", "mountPath": "/shared"}]

    def test_holds_no_secret_and_runs_as_nobody(self):
        for pod in PODS:
            (container,) = pod["containers"]
            assert container["image"] == IMAGE
            assert pod["securityContext"]["runAsNonRoot"]
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert all(set(entry["valueFrom"]) == {"secretKeyRef"} for entry in container.get("env", ()))

    def test_the_operator_watches_its_namespace(self):
        values = yaml.safe_load((DOCKER / "rayjob-values.yaml").read_text())
        assert values["watchNamespace"] == [JOB["metadata"]["namespace"]]
        assert f"--version {values['image']['tag'].removeprefix('v')} " in (DOCKER / "rayjob.yaml").read_text()


def commands():
    """Each command of ours, Ray's or MLflow's in docker/: of services, checks, entrypoints, and those to be typed."""
    lines = [JOB["spec"]["entrypoint"], *CLUSTER["head_start_ray_commands"], *CLUSTER["worker_start_ray_commands"]]
    for service in SERVICES.values():
        lines += [service.get("command", ""), shlex.join(service["healthcheck"]["test"][1:])]
    lines += map(shlex.join, map(json.loads, re.findall(r"CMD (\[.*\])", (DOCKER / "Dockerfile").read_text())))
    for path in DOCKER.glob("*.yaml"):
        typed = r"^#     (?:.* )?((?:lrbs|mlflow|ray) [a-z].*?)(?: *[>#].*)?$"
        lines += re.findall(typed, path.read_text(), re.MULTILINE)
    return sorted({line for line in lines if line.split(" ")[0] in ("lrbs", "mlflow", "ray")})


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")
@pytest.mark.parametrize("line", commands(), ids=lambda line: " ".join(line.split()[:2]))
def test_commands_parse(line):
    from mlflow.cli import cli as mlflow_cli
    from ray.scripts.scripts import cli as ray_cli

    tool, name, *arguments = shlex.split(line)
    group = {"lrbs": typer.main.get_command(app), "mlflow": mlflow_cli, "ray": ray_cli}[tool]
    context = group.context_class(group)
    if name.startswith("-"):
        assert name in [option for parameter in group.get_params(context) for option in parameter.opts]
    else:
        command = group.get_command(context, name)
        assert command is not None, f"{tool} has no command {name}"
        command.make_context(name, arguments, parent=context)


def test_commands_are_found():
    tools = [line.split()[:2] for line in commands()]
    for wanted in (
        "lrbs run",
        "lrbs dashboard",
        "mlflow server",
        "ray start",
        "ray up",
        "ray submit",
        "ray health-check",
    ):
        assert wanted.split() in tools
