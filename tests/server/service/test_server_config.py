"""server.toml is read strictly; what is wrong is named with its file, table and key."""

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from convoy_protos.errors import SettingsError, UsageError
from convoy_server.service.server_config import (
    EnrolmentConfig,
    ServerConfig,
    is_loopback,
    load_server_config,
)

EXAMPLE = Path(__file__).parents[3] / "deploy" / "server.toml"

LEAST = """
state = "state"
[fleet_door]
certificate = "tls/server.pem"
key = "tls/server.key"
ca = "tls/tls-ca.pem"
[identity]
aggregator = "/keys/aggregator"
"""


def load(folder: Path, text: str) -> ServerConfig:
    path = folder / "server.toml"
    path.write_text(text)
    return load_server_config(path)


def test_relative_paths_start_at_the_folder_of_the_file(tmp_path):
    config = load(tmp_path, LEAST)
    assert config.state_folder == tmp_path / "state"
    assert config.runs_folder == tmp_path / "runs"
    assert config.fleet_door.key == str(tmp_path / "tls/server.key")
    assert config.identity.aggregator == "/keys/aggregator"
    assert config.enrolment.authority == ""


def test_the_example_has_every_key_with_its_default(tmp_path):
    example = load(tmp_path, EXAMPLE.read_text())
    least = load(tmp_path, LEAST.replace("/keys/aggregator", "aggregator"))
    assert example == least
    table = tomllib.loads(EXAMPLE.read_text())
    assert _keys(table) == _known(example)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("port = 9091", "prt = 9091"), r"\[fleet_door\]|fleet_door.*unknown key 'prt'.*'port'"),
        (("port = 9091", "port = 0"), "fleet_door.*port must be in 1..65535, got 0"),
        (("port = 9091", 'port = "9091"'), "fleet_door port: expected int"),
        (("port = 9091", "port = 9090"), r"\[private_door\] and \[fleet_door\].*9090"),
        (('"tls/server.pem"', '""'), "certificate must not be empty"),
        (('format = "json"', 'format = "xml"'), "log format: expected one of json, text"),
        (('public_address = ""', 'public_address = "host"'), "public_address must be HOST:PORT"),
        (("keep_free_mb = 2000", "keep_free_mb = -1"), "keep_free_mb must not be negative"),
        (("port = 9094", "port = 0"), "releases.*port must be in 1..65535, got 0"),
        (('folder = ""\nhost = "0.0.0.0"\nport = 9094', 'folder = "x"\nport = 9091'), "same port"),
        (('state = "state"', ""), "state is missing"),
        (('aggregator = "aggregator"', 'aggregator = ""'), "aggregator must not be empty"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(tmp_path, change, message):
    with pytest.raises(SettingsError, match=message) as caught:
        load(tmp_path, EXAMPLE.read_text().replace(*change, 1))
    assert "server.toml" in str(caught.value)


@pytest.mark.parametrize("table", ["fleet_door", "identity"])
def test_a_missing_table_is_named_with_what_it_is_for(tmp_path, table):
    text = re.sub(rf"\[{table}\]\n(?:(?!\[).*\n)*", "", LEAST)
    with pytest.raises(SettingsError, match=rf"table \[{table}\] is missing"):
        load(tmp_path, text)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "example.org", "::"])
def test_the_private_door_stays_on_loopback(tmp_path, host):
    with pytest.raises(SettingsError, match="host must be a loopback address"):
        load(tmp_path, f'{LEAST}[private_door]\nhost = "{host}"\n')


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True), ("", False)],
)
def test_loopback_is_told_by_the_address(host, loopback):
    assert is_loopback(host) is loopback


def test_a_file_that_is_not_there_or_no_toml_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.toml"):
        load_server_config(tmp_path / "absent.toml")
    with pytest.raises(UsageError, match=r"server\.toml: no valid TOML"):
        load(tmp_path, "state = ")


def test_the_public_host_has_no_brackets():
    assert EnrolmentConfig(public_address="[2001:db8::1]:9091").public_host == "2001:db8::1"
    assert EnrolmentConfig().public_host == ""


def _keys(table: dict[str, Any]) -> dict[str, Any]:
    return {key: _keys(value) if isinstance(value, dict) else None for key, value in table.items()}


def _known(settings: Any) -> dict[str, Any]:
    return {
        one.name: _known(value) if dataclasses.is_dataclass(value) else None
        for one in dataclasses.fields(settings)
        for value in [getattr(settings, one.name)]
    }
