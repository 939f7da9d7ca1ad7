"""The images: built from what is there, with locked versions, and not run by root.

They are built elsewhere; here they are read, and linted where hadolint is (`make deploy-check`).
"""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path, PurePosixPath

import pytest

from convoy_server.service.server_config import load_server_config

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "docker"
DOCKERFILES = sorted(FOLDER.glob("Dockerfile.*"))
SENT = [
    line.removeprefix("!")
    for line in (ROOT / ".dockerignore").read_text().splitlines()
    if line.startswith("!")
]
each_dockerfile = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)


def instructions(path):
    """Word and rest of every instruction, continued lines joined, comments left out."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def copied(path):
    """What comes from the repository."""
    copies = [rest.split()[:-1] for word, rest in instructions(path) if word == "COPY"]
    return {name for names in copies if not names[0].startswith("--from=") for name in names}


def last_stage(path):
    found = instructions(path)
    return found[max(place for place, (word, _) in enumerate(found) if word == "FROM") :]


def test_there_is_an_image_of_the_server_and_of_both_kinds_of_device():
    assert [path.suffix for path in DOCKERFILES] == [".edge", ".jetson", ".server"]


def test_what_is_sent_to_the_builder_is_there_and_no_more():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert next(line for line in lines if not line.startswith("#")) == "*"
    assert [name for name in SENT if not (ROOT / name).exists()] == []


@each_dockerfile
def test_it_copies_every_package_and_only_what_is_sent(path):
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]
    packages = hatch["build"]["targets"]["wheel"]["packages"]

    assert copied(path) == set(SENT)
    assert {PurePosixPath(package).parts[0] for package in packages} <= copied(path)


@each_dockerfile
def test_it_is_built_in_a_stage_of_its_own_and_not_run_by_root(path):
    stages = [rest for word, rest in instructions(path) if word == "FROM"]
    final = last_stage(path)

    assert len(stages) >= 2
    assert [rest for word, rest in final if word == "USER"] == ["10001"]
    assert any("--uid 10001" in rest for word, rest in final if word == "RUN")
    assert not any("pip install" in rest for word, rest in final if word == "RUN")


@each_dockerfile
def test_its_versions_are_locked(path):
    installs = [rest for word, rest in instructions(path) if "pip install" in rest]
    assert len(installs) == 1
    assert "--constraint constraints.txt" in installs[0]


@each_dockerfile
def test_it_has_what_its_command_needs(path):
    extra = {".server": "'.[server]'", ".edge": "'.[train]'", ".jetson": "'.[train]'"}[path.suffix]
    verb = {".server": "server", ".edge": "agent", ".jetson": "agent"}[path.suffix]
    found = dict(last_stage(path))

    assert any(extra in rest for _, rest in instructions(path))
    assert json.loads(found["ENTRYPOINT"]) == ["convoy", verb]
    assert found["STOPSIGNAL"] == "SIGTERM"


@each_dockerfile
def test_flower_neither_phones_home_nor_installs_anything(path):
    environment = dict(last_stage(path))["ENV"]
    for name in ("FLWR_DISABLE_UPDATE_CHECK", "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"):
        assert f"{name}=1" in environment
    assert "FLWR_TELEMETRY_ENABLED=0" in environment


def test_the_server_shows_what_vehicles_reach_and_asks_the_metrics_whether_it_lives():
    config = load_server_config(FOLDER / "server.toml")
    found = dict(last_stage(FOLDER / "Dockerfile.server"))

    assert set(map(int, found["EXPOSE"].split())) == {config.fleet_door.port, config.services.port}
    assert f"http://{config.metrics.host}:{config.metrics.port}/healthz" in found["HEALTHCHECK"]


@each_dockerfile
def test_hadolint_finds_nothing(path):
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: make deploy-check")
    found = subprocess.run([hadolint, str(path)], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")
