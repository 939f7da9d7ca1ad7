"""agent.toml: strict, with paths from its folder, and every error names the file and the key."""

import dataclasses
import re
from pathlib import Path

import pytest

from convoy_edge_client.agent.agent_config import (
    AgentConfig,
    GuardConfig,
    LinkConfig,
    ServerConfig,
    WorkConfig,
    host_and_port,
    load_agent_config,
)
from convoy_edge_client.updates.releases_config import ReleasesConfig
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_protos.errors import SettingsError

EVERY_KEY = Path(__file__).parents[3] / "deploy" / "agent.toml"
SMALLEST = '[vehicle]\nvehicle_id = "car-07"\nrecordings = ["tubs"]\n'


@pytest.fixture
def load(tmp_path):
    def written(text):
        (tmp_path / "agent.toml").write_text(text)
        return load_agent_config(tmp_path / "agent.toml")

    return written


def test_two_keys_are_enough(load, tmp_path):
    config = load(SMALLEST)

    assert config == AgentConfig(
        state=str(tmp_path / "state"),
        vehicle=VehicleConfig(
            vehicle_id="car-07",
            recordings=(str(tmp_path / "tubs"),),
            cache_dir=str(tmp_path / "state/cache"),
            identity=str(tmp_path / "state/identity"),
        ),
        releases=ReleasesConfig(folder=str(tmp_path / "state/releases")),
    )
    assert config.identity_path == tmp_path / "state/identity"
    assert config.node_key_path == tmp_path / "state/node.key"
    assert config.root_certificates_path == tmp_path / "state/server-ca.pem"
    assert config.training_path == tmp_path / "state/training"


def test_what_is_in_the_state_folder_moves_with_it(load, tmp_path):
    config = load(f'state = "/var/lib/convoy"\n{SMALLEST}')

    assert config.state == "/var/lib/convoy"
    assert config.vehicle.cache_dir == "/var/lib/convoy/cache"
    assert config.identity_path == Path("/var/lib/convoy/identity")
    assert config.vehicle.recordings == (str(tmp_path / "tubs"),)


def test_every_path_may_be_named(load, tmp_path):
    config = load(
        SMALLEST
        + 'cache_dir = "frames"\nidentity = "/keys"\n'
        + '[server]\nroot_certificates = "ca.pem"\nnode_key = "/keys/node"\n'
    )

    assert config.vehicle.cache_dir == str(tmp_path / "frames")
    assert config.identity_path == Path("/keys")
    assert config.root_certificates_path == tmp_path / "ca.pem"
    assert config.node_key_path == Path("/keys/node")


def test_the_commented_file_has_every_key_with_its_default():
    """A key that is added or changes its default must be put there as well."""
    text = EVERY_KEY.read_text()
    config = load_agent_config(EVERY_KEY)
    tables = {
        "vehicle": VehicleConfig,
        "server": ServerConfig,
        "work": WorkConfig,
        "guards": GuardConfig,
        "link": LinkConfig,
    }

    for name, cls in tables.items():
        section = re.search(rf"^\[{name}\]\n(.*?)(?=^\[|\Z)", text, re.M | re.S).group(1)
        keys = re.findall(r"^(\w+) = ", section, re.M)
        assert sorted(keys) == sorted(field.name for field in dataclasses.fields(cls))
        assert section.count("\n#") + section.startswith("#") >= len(keys)
    assert (config.work, config.guards, config.link) == (WorkConfig(), GuardConfig(), LinkConfig())
    assert (config.server, config.role) == (ServerConfig(), "vehicle")
    folder = EVERY_KEY.parent
    assert config.vehicle == VehicleConfig(
        vehicle_id="car-07",
        recordings=(str(folder / "recordings"),),
        cache_dir=str(folder / "state/cache"),
        identity=str(folder / "state/identity"),
    )


@pytest.mark.parametrize(
    ("addition", "words"),
    [
        ('rôle = "x"', "not valid TOML"),
        ("[guard]", "unknown key 'guard'; did you mean 'guards'"),
        ("[guards]\nmax_load = 1", "guards: unknown key 'max_load'; did you mean 'maximum_load'"),
        ("[guards]\nmaximum_load = 1.5", "maximum_load must be in 0..1, got 1.5"),
        ("[guards]\nmaximum_load = nan", "maximum_load must be in 0..1, got nan"),
        ("[guards]\nminimum_battery_percent = 101", "minimum_battery_percent must be in 0..100"),
        ("[guards]\nminimum_free_disk_mb = -1", "minimum_free_disk_mb must be in"),
        ('[guards]\nnetworks = ["lan"]', "networks: expected one of ethernet, wifi, cellular"),
        ("[guards]\nnetworks = []", "networks must name at least one"),
        ("[guards]\nresume_temperature_c = 80", r"must not be above maximum_temperature_c \(0\)"),
        ("[guards]\ncheck_every_s = 2", "check_every_s must be in 0.05..0.5"),
        (
            "[guards]\ncheck_every_s = 0.5\nsignals_timeout_s = 0.5",
            "must be at most 0.9, so that work stops within a second",
        ),
        ("[guards]\nrequire_ignition_off = true", "needs signals_command"),
        ("[guards]\nsignals_command = 3", "signals_command: expected list, got 3"),
        ('[work]\nwindows = ["22-06"]', "windows: a window is written"),
        ("[work]\nmonthly_megabytes = -1", "monthly_megabytes must not be negative"),
        ("[work]\nruns = []", r'runs must name at least one; \["\*"\] takes any'),
        ('[server]\naddress = "cloud"', "address must be HOST:PORT, got 'cloud'"),
        ('[server]\nservices = "cloud:0"', "services must be HOST:PORT"),
        ("[link]\nlargest_chunk_bytes = 1", "largest_chunk_bytes must be in 65536"),
        ("[link]\nslowest_poll_s = 0", "slowest_poll_s must be in 1..3600"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(load, addition, words):
    with pytest.raises(SettingsError, match=words) as caught:
        load(SMALLEST + addition)

    assert "agent.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'vehicle'"),
        ("vehicle = 3", "vehicle: expected dict"),
        ('state = 3\n[vehicle]\nvehicle_id = "a"\nrecordings = ["r"]', "state: expected str"),
        ("[vehicle]\nrecordings = []", "vehicle_id"),
        ('role = "boat"\n' + SMALLEST, "expected one of vehicle, roadside, got 'boat'"),
    ],
)
def test_what_is_missing_is_named_as_well(load, text, words):
    with pytest.raises(SettingsError, match=words):
        load(text)


def test_a_missing_file_says_how_to_name_it(tmp_path):
    with pytest.raises(SettingsError, match=r"agent.toml: cannot be read .*--config"):
        load_agent_config(tmp_path / "agent.toml")


@pytest.mark.parametrize(
    ("runs", "name", "joins"),
    [
        (("*",), "anything", True),
        (("night-*", "demo"), "night-12", True),
        (("night-*", "demo"), "demo", True),
        (("night-*", "demo"), "demo2", False),
        (("Demo",), "demo", False),
    ],
)
def test_runs_and_models_are_accepted_by_name(runs, name, joins):
    assert WorkConfig(runs=runs).accepts_run(name) is joins
    assert WorkConfig(models=runs).accepts_model(name) is joins


@pytest.mark.parametrize(
    ("guards", "cool_c"),
    [
        (GuardConfig(maximum_temperature_c=85), 80),
        (GuardConfig(maximum_temperature_c=85, resume_temperature_c=60), 60),
        (GuardConfig(), 0),
    ],
)
def test_it_is_cool_again_five_degrees_below_the_limit_unless_told(guards, cool_c):
    assert guards.cool_temperature_c == cool_c


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("cloud.example:443", ("cloud.example", 443)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_an_address_has_a_host_and_a_port(address, parts):
    assert host_and_port(address, "address") == parts


@pytest.mark.parametrize(
    "address", ["", ":443", "a:", "a:65536", "a:-1", "::1:443", "[::1:443", "a:²"]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError, match="address must be HOST:PORT"):
        host_and_port(address, "address")
