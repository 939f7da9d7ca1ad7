"""Whoever stops the service waits for longer than a round gets to end in."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
SECONDS_BEYOND = 60


def seconds_of_systemd():
    text = (DEPLOY / "systemd" / "convoy-server.service").read_text()
    return int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.M)[1])


def seconds_of_compose():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    return int(services["server"]["stop_grace_period"].removesuffix("s"))


def seconds_of_kubernetes():
    values = DEPLOY / "kubernetes" / "convoy-server" / "values.yaml"
    return yaml.safe_load(values.read_text())["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("seconds", [seconds_of_systemd, seconds_of_compose, seconds_of_kubernetes])
def test_a_round_has_its_time(seconds):
    drain_s = tomllib.loads((DEPLOY / "server.toml").read_text())["runs"]["drain_s"]
    assert seconds() >= drain_s + SECONDS_BEYOND
