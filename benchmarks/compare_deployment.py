"""Rounds over a real network stack: Convoy's service and resident agents against stock Flower.

    python benchmarks/compare_deployment.py [--rounds 12] [--stock-rounds 5] [--repetitions 1]

Everything on loopback, two vehicles, TLS and node authentication on, state in SQLite.

stock      flower-superlink, two flower-supernode, Flower's FedAvg and grid; the ClientApp returns the
           model as it got it
trivial    `convoy server`, two `convoy agent`; a network of a tenth of the width learns from 60 frames
           of 32 x 32, which takes some milliseconds; updates as they are, every round written to disk,
           its audit line as well
masked     the same with the textbook network at 40 x 48 (185,080 parameters) and masked updates, which
           takes four exchanges more

A round is the time from the end of one to the end of the next, the first two left out; reported is the
median. Sides take turns. `idle` is one agent with nothing to do, measured for --idle-s seconds after it
has settled: resident memory, processor time, and bytes as the agent itself counts them.
"""

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from deployed_service import (
    BIN,
    SERVER_TOML,
    Processes,
    folder,
    free_ports,
    let_in,
    listening,
    new_node_key,
    tls_files,
    wait_for,
)

from convoy_compression.update.codec import UpdateConfig
from convoy_driving.data_config import DataConfig
from convoy_driving.models.registry import ModelConfig
from convoy_driving.training import TrainingConfig
from convoy_edge_client.vehicle_config import VehicleConfig, load_vehicle_config
from convoy_protos.flower_internals import start_run
from convoy_protos.run_bundle import NAME_KEY, RUN_KEY, build_run_bundle
from convoy_server.rounds import RoundConfig
from convoy_server.run_config import RunConfig, run_config_to_json
from convoy_simulation.roads.donkeycar_tub import TubRecord, TubWriter
from convoy_simulation.vehicles import AGGREGATOR, write_vehicle_files

VEHICLES = ("car0", "car1")
WARM_UP = 2
"""Rounds that are left out: torch is imported, recordings are decoded."""

AGENT_TOML = """\
[vehicle]
vehicle_id = "{name}"
recordings = ["{recordings}"]
identity = "{identity}"
least_protection = "none"
minimum_cohort = 2
[server]
address = "127.0.0.1:{port}"
root_certificates = "{ca}"
[guards]
minimum_free_memory_mb = 0
minimum_free_disk_mb = 0
"""
STOCK_PYPROJECT = """\
[project]
name = "stock-app"
version = "0.1.0"
dependencies = []
[tool.flwr.app]
publisher = "convoy"
[tool.flwr.app.components]
serverapp = "stock_app:server"
clientapp = "stock_app:client"
[tool.flwr.app.config]
rounds = 3
laps = ""
"""
STOCK_APP = '''\
"""FedAvg over a few numbers."""
import time
from functools import partial
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

server = ServerApp()
client = ClientApp()


@server.main()
def main(grid, context):
    laps = Path(context.run_config["laps"])

    def lap(server_round, arrays):
        with laps.open("a") as file:
            file.write(f"{time.time()}\\n")

    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros(1000, np.float32)]),
        num_rounds=context.run_config["rounds"],
        evaluate_fn=lap,
    )


@client.train()
def train(message, context):
    content = RecordDict(
        {"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})}
    )
    return Message(content, reply_to=message)
'''


@dataclass(frozen=True)
class Task:
    """What a fleet trains.

    Attributes:
        model: The network.
        data: Frames.
        update: How updates travel.
    """

    model: ModelConfig
    data: DataConfig
    update: UpdateConfig


TRIVIAL = Task(
    ModelConfig(width=0.1),
    DataConfig(frame_height=32, frame_width=32),
    UpdateConfig(codec="float32", downlink="full"),
)
MASKED = Task(
    ModelConfig(),
    DataConfig(frame_height=40, frame_width=48),
    UpdateConfig(codec="masked", minimum_cohort=2),
)


def main() -> None:
    """Measure the sides in turn and print the figures."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    rounds: dict[str, list[float]] = {"stock": [], "trivial": [], "masked": []}
    figures: dict[str, float] = {}
    for turn in range(options.repetitions):
        for side in options.sides.split(","):
            with folder() as work:
                if side == "stock":
                    laps = stock(work, options.stock_rounds)
                else:
                    task = TRIVIAL if side == "trivial" else MASKED
                    idle_s = options.idle_s if (side, turn) == ("trivial", 0) else 0.0
                    laps = convoy(work, task, options.rounds, idle_s, figures)
            rounds[side] += laps
            print(f"turn {turn + 1}: {side:8}", [round(each, 2) for each in laps], flush=True)
    for side, laps in rounds.items():
        if laps:
            figures[f"{side}_round_s"] = statistics.median(laps)
            figures[f"{side}_slowest_round_s"] = max(laps)
    if rounds["stock"] and rounds["trivial"]:
        figures["trivial_over_stock"] = figures["trivial_round_s"] / figures["stock_round_s"]
    figures["load_average"] = os.getloadavg()[0]
    figures = {name: round(value, 4) for name, value in figures.items()}
    for name, value in figures.items():
        print(f"{name:32} {value}")
    print(json.dumps({"benchmark": "compare_deployment", "figures": figures}))


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description="Convoy's service and agents against stock Flower."
    )
    parser.add_argument("--rounds", type=int, default=12, help="Of a Convoy run, at least 4.")
    parser.add_argument("--stock-rounds", type=int, default=5, help="Of a stock run, at least 4.")
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--sides", default="stock,trivial,masked")
    parser.add_argument("--idle-s", type=float, default=60.0, help="0: do not measure idling.")
    return parser.parse_args()


# The sides.


def stock(work: Path, rounds: int) -> list[float]:
    """Seconds of each round of stock Flower."""
    port, *node_ports = free_ports(1 + len(VEHICLES))
    address = f"127.0.0.1:{port}"
    tls = tls_files(work)
    home = work / "flwr"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "fleet"\n[superlink.fleet]\naddress = "{address}"\n'
        f'root-certificates = "{tls / "tls-ca.pem"}"\n'
    )
    app = work / "stock-app"
    app.mkdir()
    (app / "pyproject.toml").write_text(STOCK_PYPROJECT)
    (app / "stock_app.py").write_text(STOCK_APP)
    processes = Processes(
        work,
        {
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        },
    )
    laps = work / "laps"
    try:
        processes.start(
            "flower-superlink",
            *("--host", "127.0.0.1", "--port", str(port), "--database", str(work / "state.db")),
            *("--ssl-ca-certfile", str(tls / "tls-ca.pem")),
            *("--ssl-certfile", str(tls / "server.pem"), "--ssl-keyfile", str(tls / "server.key")),
            "--enable-supernode-auth",
            "--disable-runtime-dependency-installation",
        )
        wait_for(lambda: listening(port), 120, "the SuperLink is up")
        for name, node_port in zip(VEHICLES, node_ports, strict=True):
            public_key = new_node_key(work / name)
            (work / f"{name}.pub").write_bytes(public_key)
            registered = processes.start(
                "flwr", "supernode", "register", str(work / f"{name}.pub"), "fleet"
            )
            if registered.wait(timeout=120):
                raise SystemExit(f"{name} cannot be registered")
            processes.start(
                "flower-supernode",
                *("--superlink", address, "--root-certificates", str(tls / "tls-ca.pem")),
                *("--auth-supernode-private-key", str(work / name)),
                *("--host", "127.0.0.1", "--port", str(node_port)),
            )
        settings = f'rounds={rounds} laps="{laps}"'
        run = processes.start("flwr", "run", str(app), "fleet", "--stream", "-c", settings)
        # One line before the first round.
        return gaps(lambda: times(laps), rounds + 1, 60.0 * rounds, run)
    finally:
        processes.end()


def convoy(
    work: Path, task: Task, rounds: int, idle_s: float, figures: dict[str, float]
) -> list[float]:
    """Seconds of each round of Convoy's service and agents."""
    ports = dict(
        zip(("fleet_door", "private_door", "services", "metrics"), free_ports(4), strict=True)
    )
    tls = tls_files(work)
    files = write_vehicle_files(
        [vehicle(work, name, task.data) for name in VEHICLES], work / "vehicles", task.update
    )
    (work / "server.toml").write_text(
        SERVER_TOML.format(aggregator=files[0].parent / AGGREGATOR, **ports)
    )
    private = f"127.0.0.1:{ports['private_door']}"
    processes = Processes(work, {})
    try:
        processes.start("convoy", "server", "--config", str(work / "server.toml"))
        agents = []
        for file in files:
            own = load_vehicle_config(file)
            config = work / own.vehicle_id / "agent.toml"
            (config.parent / "state").mkdir(parents=True)
            public_key = new_node_key(config.parent / "state" / "node.key")
            wait_for(
                partial(let_in, private, public_key, own.vehicle_id), 120, "the SuperLink is up"
            )
            config.write_text(
                AGENT_TOML.format(
                    name=own.vehicle_id,
                    recordings=own.recordings[0],
                    identity=own.identity,
                    port=ports["fleet_door"],
                    ca=tls / "tls-ca.pem",
                )
            )
            agents.append(processes.start("convoy", "agent", "--config", str(config)))
        if idle_s:
            figures |= idle(agents[0].pid, work / VEHICLES[0] / "state", idle_s)
        run = RunConfig(
            name="deployment",
            seed=5,
            data=task.data,
            model=task.model,
            training=TrainingConfig(learning_rate=0.02, batch_size=16),
            round=RoundConfig(rounds=rounds, evaluate_every=rounds, min_vehicles=len(VEHICLES)),
            update=task.update,
        )
        start_run(
            private, build_run_bundle({RUN_KEY: run_config_to_json(run), NAME_KEY: "deployment"})
        )
        log = work / "runs" / "deployment" / "rounds.jsonl"
        ends: list[float] = []

        status = log.parent / "status.json"

        def finished() -> list[float]:
            if status.exists() and '"failed"' in status.read_text():
                raise SystemExit(json.loads(status.read_text())["why"])
            # The file says how long a round took, not when it ended: we are quick enough to see it.
            count = len(log.read_text().splitlines()) if log.exists() else 0
            ends.extend([time.time()] * (count - len(ends)))
            return ends

        # The last round also evaluates.
        laps = gaps(finished, rounds, 60.0 * rounds)[:-1]
        done = [json.loads(line)["outcome"] for line in log.read_text().splitlines()]
        if set(done) != {"done"}:
            raise SystemExit(f"rounds failed: {done}")
        return laps
    finally:
        processes.end()


def idle(pid: int, state: Path, seconds: float) -> dict[str, float]:
    """What an agent costs that has nothing to do."""
    traffic = state / "traffic.json"
    process = psutil.Process(pid)
    wait_for(traffic.exists, 60, "the agent has started")
    # It asks less and less often from the first minute on, and is slowest after six.
    time.sleep(seconds)
    begin_s, cpu_before, bytes_before = time.monotonic(), cpu_s(process), counted(traffic)
    time.sleep(seconds)
    took_s = time.monotonic() - begin_s
    return {
        "idle_rss_mib": process.memory_info().rss / 2**20,
        "idle_cpu_share": (cpu_s(process) - cpu_before) / took_s,
        "idle_kilobytes_per_minute": (counted(traffic) - bytes_before) / 1000 / (took_s / 60),
    }


def cpu_s(process: psutil.Process) -> float:
    """Processor time of a process so far."""
    times_of = process.cpu_times()
    return float(times_of.user + times_of.system)


def counted(traffic: Path) -> int:
    """Bytes by the agent's own ledger."""
    return int(json.loads(traffic.read_text())["bytes"])


# What both need.


def gaps(
    ends: Callable[[], list[float]],
    count: int,
    patience_s: float,
    process: subprocess.Popen[bytes] | None = None,
) -> list[float]:
    """Seconds between ends of rounds, the first ones left out, once there are `count` of them."""
    end_s = time.monotonic() + patience_s
    while len(ends()) < count:
        if time.monotonic() > end_s or (process is not None and process.poll() not in (None, 0)):
            raise SystemExit(f"{len(ends())} of {count} rounds ended")
        time.sleep(0.01)
    return [later - sooner for sooner, later in itertools.pairwise(ends()[WARM_UP - 1 : count])]


def times(path: Path) -> list[float]:
    """One a line."""
    return [float(line) for line in path.read_text().splitlines()] if path.exists() else []


def vehicle(work: Path, name: str, data: DataConfig) -> VehicleConfig:
    """One with 60 frames of noise."""
    rng = np.random.default_rng(int(name[-1]))
    tub = work / "recordings" / name
    writer = TubWriter(tub, jpeg_quality=90, created_at_s=1.7e9)
    for index in range(60):
        picture: Any = rng.integers(0, 256, (data.frame_height, data.frame_width, 3), np.uint8)
        writer.append(
            TubRecord(
                picture_HWC=picture,
                angle=float(rng.choice([-0.8, 0.0, 0.8])),
                throttle=0.3,
                session_id="s",
                timestamp_ms=1_700_000_000_000 + index * 50,
            )
        )
    writer.close()
    own = VehicleConfig(
        vehicle_id=name, recordings=(str(tub),), cache_dir=str(work / "cache" / name)
    )
    return replace(own, least_protection="none")


if __name__ == "__main__":
    main()
