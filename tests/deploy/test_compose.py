"""compose.yaml: one server and three agents that find each other, and nothing open to others."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from deployed_paths import not_mounted

from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_server.service.server_config import load_server_config

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]


@pytest.fixture(scope="module")
def config():
    """The server's."""
    return load_server_config(DEPLOY / "docker" / "server.toml")


def mounts(service):
    """Source by target; a source with a default counts as its default."""
    found = {}
    for volume in SERVICES[service]["volumes"]:
        source, target = volume.removesuffix(":ro").rsplit(":", 1)
        found[target] = source.partition(":-")[2].replace("}", "") or source
    return found


def script(service):
    return "".join(SERVICES[service]["command"])


def test_there_are_as_many_agents_as_a_masked_sum_needs():
    agents = [
        name
        for name in SERVICES
        if "command" in SERVICES[name] and "exec convoy agent" in script(name)
    ]
    least = VehicleConfig.__dataclass_fields__["minimum_cohort"].default
    assert len(agents) == 3 >= least
    assert all(SERVICES[name]["environment"]["CAR"] == name for name in agents)
    assert all(f" {name}" in script("enrol") for name in agents)
    assert all(mounts(name)["/recordings"].endswith(f"/{name}") for name in agents)


def test_vehicles_dial_a_service_that_is_there_and_that_its_certificate_names(config):
    host, port = config.enrolment.public_address.rsplit(":", 1)
    assert host in SERVICES
    assert f"--role server --host {host}" in script("setup")
    assert int(port) == config.fleet_door.port


@pytest.mark.parametrize("service", ["server", "enrol"])
def test_what_server_toml_names_is_mounted(config, service):
    assert not_mounted(config, mounts(service)) == []
    assert "/etc/convoy/server.toml" in mounts(service)


def test_what_setup_makes_is_what_server_toml_names(config):
    made = script("setup")
    for path in (config.enrolment.authority, config.identity.aggregator):
        assert path in made
    assert f"--out {Path(config.fleet_door.certificate).parent}\n" in made


def test_nothing_is_published():
    assert [name for name in SERVICES if "ports" in SERVICES[name]] == []


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_gives_up_its_privileges(service):
    one = SERVICES[service]
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert one["read_only"] is True
    assert "privileged" not in one
    assert "user" not in one  # the image's, which is not root


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_service_names_is_there(service):
    one = SERVICES[service]
    assert (DEPLOY / one["build"]["context"] / one["build"]["dockerfile"]).is_file()
    assert set(one.get("depends_on", {})) <= set(SERVICES)
    for source in mounts(service).values():
        if source.startswith("."):
            assert (DEPLOY / source).is_file(), source
        elif not source.startswith("${"):
            assert source in COMPOSE["volumes"]


def test_the_compose_specification_allows_it():
    pytest.importorskip("check_jsonschema", reason="not installed: make deploy-check")
    command = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [sys.executable, *command, str(DEPLOY / "compose.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
