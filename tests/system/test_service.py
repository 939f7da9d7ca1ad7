"""The cloud service and resident agents, as processes on 127.0.0.1: a run comes through whatever dies."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psutil
import pytest
from small_federation import PLAIN, round_lines, small_run
from small_fleet import record_small_fleet
from small_server import small_server

from convoy_edge_client.vehicle_config import load_vehicle_config
from convoy_protos.flower_internals import register_node, start_run
from convoy_protos.run_bundle import build_run_bundle
from convoy_server.audit import verify_audit
from convoy_server.run_config import RUN_KEY, run_config_to_json
from convoy_server.service.run_names import NAME_KEY
from convoy_server.service.status_file import read_status

CONVOY = Path(sys.executable).parent / "convoy"
SERVER_TOML = """\
state = "state"
[fleet_door]
host = "127.0.0.1"
port = {fleet_door}
certificate = "tls/server.pem"
key = "tls/server.key"
ca = "tls/tls-ca.pem"
[private_door]
port = {private_door}
[services]
host = "127.0.0.1"
port = {services}
[metrics]
port = {metrics}
[identity]
aggregator = "aggregator"
[runs]
keep_free_mb = 1
"""
AGENT_TOML = """\
[vehicle]
vehicle_id = "{name}"
recordings = ["{recordings}"]
identity = ""
least_protection = "none"
[server]
address = "127.0.0.1:{port}"
root_certificates = "{ca}"
[guards]
minimum_free_memory_mb = 0
minimum_free_disk_mb = 0
"""


@pytest.fixture
def service(tmp_path):
    """Starts processes; at the end each of them is ended by its id."""
    started = []

    def start(*arguments):
        with (tmp_path / f"log-{len(started)}").open("wb") as log:
            process = subprocess.Popen([str(CONVOY), *arguments], stdout=log, stderr=log)
        started.append(process)
        return process

    yield start
    for process in reversed(started):
        process.terminate()
    for process in reversed(started):
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_run_survives_the_death_of_every_process(service, tmp_path):
    config = small_server(tmp_path, made=datetime.now(UTC))
    private = f"127.0.0.1:{config.private_door.port}"
    (tmp_path / "server.toml").write_text(SERVER_TOML.format(**config.ports))
    supervisor = service("server", "--config", str(tmp_path / "server.toml"))
    fleet = record_small_fleet(tmp_path / "fleet", vehicle_count=2)
    agents = []
    for name, file in fleet.vehicles.items():
        folder = tmp_path / name
        (folder / "state").mkdir(parents=True)
        public_key = new_node_key(folder / "state" / "node.key")
        wait_for(partial(registers, private, public_key, name), 120, "the SuperLink is up")
        recordings = load_vehicle_config(file).recording_paths[0]
        (folder / "agent.toml").write_text(
            AGENT_TOML.format(
                name=name,
                recordings=recordings,
                port=config.fleet_door.port,
                ca=config.fleet_door.ca,
            )
        )
        agents.append(service("agent", "--config", str(folder / "agent.toml")))

    rounds = 12
    run = small_run(rounds=rounds, evaluate_every=4, update=PLAIN, min_vehicles=2)
    bundle = build_run_bundle({RUN_KEY: run_config_to_json(run), NAME_KEY: "night"})
    start_run(private, bundle)
    out = config.runs_folder / "night"
    wait_for(lambda: finished_rounds(out) >= 1, 120, "the first round ends")
    for module in ("serverapp_process", "executor", "two_doors"):
        before = finished_rounds(out)
        kill(supervisor, module)
        wait_for(lambda: finished_rounds(out) > before, 150, f"it goes on without {module}")  # noqa: B023
    wait_for(
        lambda: (read_status(out) or 0) and read_status(out).state == "finished", 120, "the end"
    )
    assert [line["round"] for line in round_lines(out)] == list(range(1, rounds + 1))
    assert all(line["outcome"] == "done" for line in round_lines(out))
    verify_audit(out)
    assert all(agent.poll() is None for agent in agents)


def registers(private, public_key, name):
    from convoy_protos.errors import SuperLinkError  # noqa: PLC0415

    try:
        register_node(private, public_key, name)
    except SuperLinkError:
        return False
    return True


def new_node_key(path):
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP384R1())
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    return key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )


def finished_rounds(out):
    return len(round_lines(out)) if (out / "rounds.jsonl").exists() else 0


def kill(supervisor, module):
    """The process of that name below the supervisor, without warning."""
    for child in psutil.Process(supervisor.pid).children(recursive=True):
        if any(module in part for part in child.cmdline()):
            os.kill(child.pid, signal.SIGKILL)
            return
    pytest.fail(f"{module} does not run")


def wait_for(condition, patience_s, what):
    end_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end_s, f"waited {patience_s} s in vain until {what}"
        time.sleep(0.1)
