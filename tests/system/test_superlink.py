"""The two apps through a real SuperLink and two stock SuperNodes, on 127.0.0.1."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from small_federation import PLAIN, model_bytes, protect, round_lines, small_run
from small_fleet import record_small_fleet
from small_server import free_ports

from convoy_compression.update.codec import UpdateConfig
from convoy_edge_client.vehicle_config import load_vehicle_config, save_vehicle_config
from convoy_server.audit import verify_audit
from convoy_server.run_config import run_config_to_json
from convoy_simulation.vehicles import AGGREGATOR

BIN = Path(sys.executable).parent

PYPROJECT = """\
[project]
name = "convoy-app"
version = "0.1.0"
dependencies = []

[tool.flwr.app]
publisher = "convoy"
fab-include = ["README.md"]

[tool.flwr.app.components]
serverapp = "convoy_server.app:app"
clientapp = "convoy_edge_client.app:app"

[tool.flwr.app.config]
convoy-run = {run}
convoy-out = {out}
convoy-resume = false
convoy-keys = {keys}
"""

# A stock SuperNode starts a process for each message, which takes seconds: one attempt, no hurry.
MASKED = UpdateConfig(
    codec="masked", modulus_bits=12, minimum_cohort=2, exchange_deadline_s=100.0, max_attempts=1
)


@pytest.fixture
def start(tmp_path):
    """Starts Flower's programs; at the end of the test stops each of them by its process id."""
    environment = {
        **os.environ,
        "FLWR_HOME": str(tmp_path / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    started = []

    def start_one(name, *arguments):
        with (tmp_path / f"{name}-{len(started)}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(BIN / name), *arguments],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield start_one
    for process in reversed(started):
        process.terminate()
    for process in reversed(started):
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_real_superlink_and_two_stock_supernodes_train_together(start, tmp_path):
    """First in the clear, then with masks, which takes four more exchanges a round."""
    vehicles, keys = two_vehicles(tmp_path / "fleet")
    port, *node_ports = free_ports(3)
    address = f"127.0.0.1:{port}"
    configure_flwr(tmp_path / "flwr", address)

    start(
        "flower-superlink",
        "--insecure",
        "--port",
        str(port),
        "--disable-runtime-dependency-installation",
    )
    wait_for(lambda: is_listening(port), 120, "the SuperLink listens")
    for node_port, vehicle in zip(node_ports, vehicles, strict=True):
        start(
            "flower-supernode",
            "--insecure",
            "--superlink",
            address,
            "--port",
            str(node_port),
            "--node-config",
            f'vehicle-config="{vehicle}"',
        )
    for name, update, rounds in (("plain", PLAIN, 2), ("masked", MASKED, 1)):
        out = tmp_path / name
        app = app_folder(tmp_path / f"{name}-app", out, keys, update=update, rounds=rounds)
        run = start("flwr", "run", str(app), "fleet", "--stream")
        wait_for(partial(has_finished, out), 180, f"the {name} run ends", run)

        lines = round_lines(out)
        assert [line["round"] for line in lines] == list(range(1, rounds + 1))
        for line in lines:
            assert (line["outcome"], line["completed"], line["lost"]) == ("done", 2, 0)
            assert line["rejections"] == line["evaluation_rejections"] == []
        assert set(lines[-1]["per_vehicle"]) == {"car0", "car1"}
        assert len(model_bytes(out)) > 4 * 1000
        verify_audit(out)
    (shard,) = lines[0]["shards"]
    assert shard["summed"] == ["car0", "car1"]
    assert shard["given_up"] is None


def two_vehicles(folder):
    """Configurations of vehicles that have an identity and send whatever is asked for; keys."""
    fleet = record_small_fleet(folder, vehicle_count=2)
    nodes = protect(fleet, MASKED)
    files = [Path(node["vehicle-config"]) for node in nodes.values()]
    for file in files:
        save_vehicle_config(replace(load_vehicle_config(file), least_protection="none"), file)
    return files, files[0].parent / AGGREGATOR


def has_finished(out):
    """The last thing that a run writes."""
    audit = out / "audit.jsonl"
    log = audit.read_bytes() if audit.exists() else b""
    return b'"kind":"finished"' in log and log.endswith(b"\n")


def app_folder(folder, out, keys, **settings):
    """What `flwr run` sends: settings and two names, no code."""
    folder.mkdir()
    run = run_config_to_json(small_run(evaluate_every=2, **settings))
    # A JSON string is a TOML string.
    text = PYPROJECT.format(
        run=json.dumps(run), out=json.dumps(str(out)), keys=json.dumps(str(keys))
    )
    (folder / "pyproject.toml").write_text(text)
    (folder / "README.md").write_text("A run of Convoy; the code is what is installed.\n")
    return folder


def configure_flwr(home, address):
    """Tell the `flwr` command where the SuperLink is."""
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "fleet"\n\n[superlink.fleet]\naddress = "{address}"\n'
        "insecure = true\n"
    )


def is_listening(port):
    """Whether somebody accepts connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition, patience_s, what, process=None):
    """Wait until it is true, not for ever, and not when the process it depends on has failed."""
    end_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end_s, f"waited {patience_s} s in vain until {what}"
        assert process is None or process.poll() in (None, 0), f"{process.args} failed"
        time.sleep(0.1)
