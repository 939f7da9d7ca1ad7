"""The cloud service and a resident agent for each vehicle, as processes of this machine."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
from small_device import let_in, wait_for
from small_doors import server_in
from small_federation import round_lines

from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_protos.flower_internals import start_run
from convoy_protos.run_bundle import NAME_KEY, RUN_KEY, build_run_bundle
from convoy_server.run_config import RunConfig, run_config_to_json
from convoy_server.service.status_file import Status, read_status

CONVOY = Path(sys.executable).parent / "convoy"
AGENT_TOML = """\
[vehicle]
vehicle_id = "{name}"
recordings = ["{recordings}"]
identity = "{identity}"
least_protection = "{protection}"
[server]
address = "{host}:{port}"
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

    def __init__(
        self, folder: Path, aggregator: Path | str = "aggregator", host: str = "127.0.0.1"
    ) -> None:
        """Start nothing yet; see `server_in`."""
        self.config, self._server_toml = server_in(folder, aggregator, host)
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
                host=self.config.fleet_door.host,
                port=self.config.fleet_door.port,
                ca=self.config.fleet_door.ca,
            )
        )

    def start_agents(self, *names: str) -> None:
        """One for each of these vehicles, or for every one that was let in."""
        for name in names or self._agents:
            self.start_agent(name)

    def start_agent(self, name: str, host: Sequence[str] = ()) -> None:
        """The agent of a vehicle; a command line that begins with `host` runs on another host."""
        self._start(name, "agent", "--config", str(self._agents[name]), host=host)

    def log(self, name: str) -> str:
        """What an agent or the server has said so far."""
        return (self._folder / f"{name}.log").read_text()

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
        found = [
            child
            for child in psutil.Process(self.processes["server"].pid).children(recursive=True)
            if any(module in part for part in child.cmdline())
        ]
        assert found, f"{module} does not run"
        os.kill(found[0].pid, signal.SIGKILL)

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

    def _start(self, name: str, *arguments: str, host: Sequence[str] = ()) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*host, str(CONVOY), *arguments], stdout=log, stderr=log
            )


def finished_rounds(out: Path) -> int:
    """Of a run."""
    return len(round_lines(out)) if (out / "rounds.jsonl").exists() else 0


def wait_for_a_round(out: Path, when: str, patience_s: float = 180.0) -> None:
    """One more has ended."""
    before = finished_rounds(out)
    wait_for(lambda: finished_rounds(out) > before, patience_s, f"a round ends {when}")


def wait_until_finished(out: Path, patience_s: float = 200.0) -> None:
    """It has ended well."""
    wait_for(lambda: status_of(out).state == "finished", patience_s, "the run ends")


def status_of(out: Path) -> Status:
    """What a run does now; nothing yet before it has begun."""
    return read_status(out) or Status(run=out.name)


def runs(process: psutil.Process) -> bool:
    """Whether it is there and not only its remains."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
