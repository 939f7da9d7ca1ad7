"""The cloud service and resident agents, as processes on 127.0.0.1: a run comes through whatever dies."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from small_device import let_in, wait_for
from small_doors import server_in
from small_federation import (
    PLAIN,
    model_bytes,
    protect,
    round_lines,
    run_small_federation,
    small_run,
)
from small_fleet import record_small_fleet

from convoy_compression.update.codec import UpdateConfig
from convoy_edge_client.vehicle_config import VehicleConfig, load_vehicle_config
from convoy_protos.flower_internals import start_run
from convoy_protos.run_bundle import NAME_KEY, RUN_KEY, build_run_bundle
from convoy_server.audit import verify_audit
from convoy_server.run_config import RunConfig, run_config_to_json
from convoy_server.service.status_file import read_status
from convoy_simulation.vehicles import AGGREGATOR

MASKED = UpdateConfig(codec="masked", modulus_bits=12, exchange_deadline_s=100.0)
CONVOY = Path(sys.executable).parent / "convoy"
AGENT_TOML = """\
[vehicle]
vehicle_id = "{name}"
recordings = ["{recordings}"]
identity = "{identity}"
least_protection = "{protection}"
[server]
address = "127.0.0.1:{port}"
root_certificates = "{ca}"
[guards]
minimum_free_memory_mb = 0
minimum_free_disk_mb = 0
"""


class Service:
    """`convoy server` and an agent for each vehicle.

    Attributes:
        config: The server's.
        private: HOST:PORT of its private door.
        processes: What was started last, by name.
    """

    def __init__(self, folder: Path, aggregator: Path | str = "aggregator") -> None:
        """Start nothing yet; see `server_in`."""
        self.config, self._server_toml = server_in(folder, aggregator)
        self.private = f"127.0.0.1:{self.config.private_door.port}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._folder = folder
        self._agents: dict[str, Path] = {}

    def start_server(self) -> None:
        """It goes on from whatever an earlier one left."""
        self._start("server", "server", "--config", str(self._server_toml))

    def let_in(self, vehicle: VehicleConfig) -> None:
        """Give a vehicle's device a key that the SuperLink knows, and a configuration."""
        folder = self._folder / f"device-{vehicle.vehicle_id}"
        (folder / "state").mkdir(parents=True)
        let_in(self.private, folder / "state" / "node.key", vehicle.vehicle_id)
        self._agents[vehicle.vehicle_id] = folder / "agent.toml"
        self._agents[vehicle.vehicle_id].write_text(
            AGENT_TOML.format(
                name=vehicle.vehicle_id,
                recordings=vehicle.recording_paths[0],
                identity=vehicle.identity,
                protection=vehicle.least_protection,
                port=self.config.fleet_door.port,
                ca=self.config.fleet_door.ca,
            )
        )

    def start_agents(self) -> None:
        """One for each vehicle that was let in."""
        for name, file in self._agents.items():
            self._start(name, "agent", "--config", str(file))

    def submit(self, run: RunConfig) -> Path:
        """Have the fleet train; returns the run directory."""
        settings = {RUN_KEY: run_config_to_json(run), NAME_KEY: "night"}
        start_run(self.private, build_run_bundle(settings))
        return self.config.runs_folder / "night"

    def kill(self, *names: str) -> None:
        """Processes that were started here, without warning; what they have started must not stay."""
        below = [
            child
            for name in names
            for child in psutil.Process(self.processes[name].pid).children(recursive=True)
        ]
        for name in names:
            self.processes[name].kill()
        for name in names:
            self.processes[name].wait()
        wait_for(lambda: not any(map(runs, below)), 20, "their children have ended")

    def kill_below_server(self, module: str) -> None:
        """The process that runs this module of the service, without warning."""
        for child in psutil.Process(self.processes["server"].pid).children(recursive=True):
            if any(module in part for part in child.cmdline()):
                os.kill(child.pid, signal.SIGKILL)
                return
        pytest.fail(f"{module} does not run")

    def end(self) -> None:
        """Every process, by its id."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, name: str, *arguments: str) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(CONVOY), *arguments], stdout=log, stderr=log
            )


@pytest.fixture
def serve(tmp_path):
    """Makes the service; nothing of it runs afterwards."""
    with contextlib.ExitStack() as stack:

        def make(aggregator="aggregator"):
            service = Service(tmp_path, aggregator)
            stack.callback(service.end)
            return service

        yield make


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_run_survives_the_death_of_every_process(serve, tmp_path):
    fleet = record_small_fleet(tmp_path / "fleet", vehicle_count=2)
    service = serve()
    service.start_server()
    for file in fleet.vehicles.values():
        service.let_in(load_vehicle_config(file))
    service.start_agents()
    rounds = 12
    out = service.submit(small_run(rounds=rounds, evaluate_every=4, update=PLAIN, min_vehicles=2))
    wait_for_a_round(out, "in all")
    for module in ("serverapp_process", "executor", "two_doors"):
        service.kill_below_server(module)
        wait_for_a_round(out, f"after the death of {module}")
    wait_until_finished(out)
    assert [line["round"] for line in round_lines(out)] == list(range(1, rounds + 1))
    assert all(line["outcome"] == "done" for line in round_lines(out))
    verify_audit(out)
    for name in fleet.vehicles:
        assert service.processes[name].poll() is None
        assert "connected as node" in (tmp_path / f"{name}.log").read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_survives_power_cuts_and_ends_with_the_model_of_a_calm_simulation(serve, tmp_path):
    """Masked sums are sums of integers: nothing but lost or doubled work could change the model."""
    fleet = record_small_fleet(tmp_path / "fleet", vehicle_count=3)
    nodes = protect(fleet, MASKED)
    run = small_run(rounds=5, evaluate_every=5, update=MASKED, min_vehicles=3, quorum=3)
    files = [Path(node["vehicle-config"]) for node in nodes.values()]
    service = serve(aggregator=files[0].parent / AGGREGATOR)
    service.start_server()
    for file in files:
        service.let_in(load_vehicle_config(file))
    service.start_agents()
    out = service.submit(run)
    wait_for_a_round(out, "in all")

    service.kill("server")
    service.start_server()
    wait_for_a_round(out, "after the death of the supervisor")

    service.kill(*service.processes)
    service.start_server()
    service.start_agents()
    wait_for_a_round(out, "after the death of everything")

    server = service.processes["server"]
    server.terminate()
    assert server.wait(timeout=60) == 0
    service.start_server()
    wait_until_finished(out)

    run_small_federation(fleet, run, tmp_path / "calm", nodes=nodes)
    assert all(line["outcome"] == "done" for line in round_lines(out))
    assert [line["round"] for line in round_lines(out)] == [1, 2, 3, 4, 5]
    assert model_bytes(out) == model_bytes(tmp_path / "calm")
    verify_audit(out)


def finished_rounds(out):
    return len(round_lines(out)) if (out / "rounds.jsonl").exists() else 0


def wait_for_a_round(out, when):
    before = finished_rounds(out)
    wait_for(lambda: finished_rounds(out) > before, 180, f"a round ends {when}")


def wait_until_finished(out):
    def finished():
        status = read_status(out)
        return status is not None and status.state == "finished"

    wait_for(finished, 200, "the run ends")


def runs(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
