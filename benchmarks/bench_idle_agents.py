"""Many agents with nothing to do, at one service: how long a question for work takes.

    python benchmarks/bench_idle_agents.py [--agents 300] [--minutes 3]

`convoy server` on loopback over TLS with node authentication, its state in SQLite. Each agent is a thread of
a few client processes, with a key and a connection of its own, and asks and tells that it is there as
`convoy agent` does after some idle minutes: a question every --every-s seconds (the default of [link]
slowest_poll_s) and a heartbeat every 30 s, each with jitter. Server and clients share the machine.
"""

import argparse
import json
import multiprocessing
import os
import random
import statistics
import threading
import time
from datetime import UTC, datetime
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path

from deployed_service import (
    SERVER_TOML,
    Processes,
    folder,
    free_ports,
    let_in,
    new_node_key,
    tls_files,
    wait_for,
)

from convoy_edge_client.agent.fleet_link import HEARTBEAT_S
from convoy_privacy.certificates import Role
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_privacy.party import save_party
from convoy_protos.errors import LinkError
from convoy_protos.flower_internals import FleetConnection

Measured = tuple[list[float], list[str]]
"""Seconds of each question, and every error."""


def main() -> None:
    """Measure and print."""
    options = parse()
    with folder() as work:
        server = Processes(work, {})
        try:
            address, keys = start_server(work, server, options.agents)
            seconds, errors = ask(address, work, keys, options)
        finally:
            server.end()
    seconds.sort()
    figures = {
        "agents": float(options.agents),
        "questions": float(len(seconds)),
        "errors": float(len(errors)),
        "median_ms": 1e3 * statistics.median(seconds),
        "p99_ms": 1e3 * seconds[int(0.99 * len(seconds))],
        "slowest_ms": 1e3 * seconds[-1],
        "load_average": os.getloadavg()[0],
    }
    for name, value in figures.items():
        print(f"{name:16} {value:.1f}")
    for error in errors[:5]:
        print(error)
    print(json.dumps({"benchmark": "bench_idle_agents", "figures": figures}))


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description="Many agents with nothing to do.")
    parser.add_argument("--agents", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--every-s", type=float, default=30.0, help="Between two questions of one.")
    parser.add_argument("--processes", type=int, default=3, help="That the agents share.")
    return parser.parse_args()


def start_server(work: Path, server: Processes, agents: int) -> tuple[str, list[Path]]:
    """The fleet door's address, and a key for each agent that it lets in."""
    names = ("fleet_door", "private_door", "services", "metrics")
    ports = dict(zip(names, free_ports(4), strict=True))
    tls_files(work)
    now = datetime.now(UTC)
    authority = FleetAuthority.create(now)
    identity = authority.issue("cloud", Role.AGGREGATOR, now)
    save_party(
        work / "aggregator",
        authority,
        identity.certificate,
        signing_key=identity.signing_key,
        sealing_key=None,
    )
    (work / "server.toml").write_text(SERVER_TOML.format(aggregator="aggregator", **ports))
    server.start("convoy", "server", "--config", str(work / "server.toml"))
    private = f"127.0.0.1:{ports['private_door']}"
    keys = []
    for number in range(agents):
        keys.append(work / f"node{number}.key")
        public_key = new_node_key(keys[-1])
        wait_for(partial(let_in, private, public_key, f"car{number}"), 120, "the SuperLink is up")
    return f"127.0.0.1:{ports['fleet_door']}", keys


def ask(address: str, work: Path, keys: list[Path], options: argparse.Namespace) -> Measured:
    """All agents ask for so many minutes."""
    context = multiprocessing.get_context("spawn")
    go, results = context.Event(), context.Queue()
    shares = [keys[part :: options.processes] for part in range(options.processes)]
    clients = [
        context.Process(
            target=agents,
            args=(address, work / "tls" / "tls-ca.pem", share, options, go, results),
        )
        for share in shares
    ]
    for client in clients:
        client.start()
    for _ in clients:
        results.get()  # all of them are connected
    go.set()
    found: list[Measured] = [results.get() for _ in clients]
    for client in clients:
        client.join()
    return [each for one in found for each in one[0]], [each for one in found for each in one[1]]


def agents(  # noqa: PLR0917 - what a process is given
    address: str,
    ca: Path,
    keys: list[Path],
    options: argparse.Namespace,
    go: Event,
    results: object,
) -> None:
    """Some of the agents, in a process of their own; `results` is a queue."""
    seconds: list[float] = []
    errors: list[str] = []
    connections = [FleetConnection(address, ca.read_bytes(), key.read_bytes()) for key in keys]
    for connection in connections:
        connection.activate(HEARTBEAT_S)
    results.put("connected")  # type: ignore[attr-defined]
    go.wait()
    end_s = time.monotonic() + 60.0 * options.minutes
    threads = [
        threading.Thread(
            target=one_agent, args=(connection, end_s, options.every_s, seconds, errors)
        )
        for connection in connections
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put((seconds, errors))  # type: ignore[attr-defined]


def one_agent(
    connection: FleetConnection,
    end_s: float,
    every_s: float,
    seconds: list[float],
    errors: list[str],
) -> None:
    """Ask and tell that we are there, until the end."""
    chance = random.Random()  # noqa: S311
    ask_s = time.monotonic() + chance.uniform(0.0, every_s)
    beat_s = time.monotonic() + chance.uniform(0.0, HEARTBEAT_S)
    while (due_s := min(ask_s, beat_s)) < end_s:
        time.sleep(max(0.0, due_s - time.monotonic()))
        began_s = time.monotonic()
        try:
            if due_s == ask_s:
                connection.pull()
                seconds.append(time.monotonic() - began_s)
            else:
                connection.heartbeat(HEARTBEAT_S)
        except LinkError as error:
            errors.append(str(error))
        if due_s == ask_s:
            ask_s = time.monotonic() + every_s * chance.uniform(0.75, 1.25)
        else:
            beat_s = time.monotonic() + HEARTBEAT_S * chance.uniform(0.8, 1.0)


if __name__ == "__main__":
    main()
