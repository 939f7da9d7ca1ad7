"""Signed releases over gRPC on loopback: a check, an update, and many vehicles at once.

    python benchmarks/bench_releases.py [--vehicles 200] [--megabytes 0.85] [--clients 4]

The service is a thread of this process; the vehicles are threads of a few others, each with a connection
with mutual TLS of its own that is open before the clock starts. All share this machine's processors:
`server_cpu_s` is what the server alone took for all of them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from convoy_edge_client.releases.release_client import ClientTls, release_client
from convoy_privacy.releases.layout import stored_path
from convoy_server.releases.repository import SignedRelease
from convoy_simulation.releases.release_stage import MODEL
from convoy_simulation.releases.service_stage import ServiceStage

CAR = "car-0"


def main() -> None:
    """Measure and print."""
    options = parse()
    if options.fetch:
        fetch_many(json.loads(sys.stdin.readline()))
        return
    now = datetime.now(UTC)
    with tempfile.TemporaryDirectory() as folder:
        service = ServiceStage(Path(folder), now, {f"car-{n}" for n in range(options.vehicles)})
        stage = service.stage
        begin_s = time.perf_counter()
        small = stage.publish(os.urandom(int(options.megabytes * 1e6)))
        publish_s = time.perf_counter() - begin_s
        large = stage.publish(os.urandom(3_300_000))
        stage.point(large)
        with service.running() as address:
            figures = {"publish_s": round(publish_s, 3), **one_vehicle(service, address, now)}
            figures |= many_vehicles(service, address, small, options)
    for name, value in figures.items():
        print(f"{name:32} {value:>12}")
    print(json.dumps({"benchmark": "releases", "figures": figures}))


def one_vehicle(service: ServiceStage, address: str, now: datetime) -> dict[str, float]:
    """The first update of a vehicle, and a check with nothing new."""
    car = service.stage.vehicle()
    with release_client(address, service.client_tls(CAR)) as client:
        counted = Counted(client)
        car.source = counted
        begin_s = time.perf_counter()
        car.update(now)
        update_s = time.perf_counter() - begin_s
        checks_s = []
        for _ in range(20):
            counted.received = 0
            begin_s = time.perf_counter()
            car.check(now)
            checks_s.append(time.perf_counter() - begin_s)
        return {
            "first_update_3300000_bytes_s": round(update_s, 3),
            "check_with_nothing_new_s": round(statistics.median(checks_s), 4),
            "check_with_nothing_new_bytes": counted.received,
        }


class Counted:
    """A source that counts what comes."""

    def __init__(self, source) -> None:
        self._source = source
        self.received = 0

    def read(self, path: str, offset: int):
        """See ByteSource."""
        for chunk in self._source.read(path, offset):
            self.received += len(chunk)
            yield chunk


def many_vehicles(
    service: ServiceStage, address: str, release: SignedRelease, options: argparse.Namespace
) -> dict[str, float]:
    """Every vehicle fetches the same file at once; seconds until each has it."""
    target = release.files[MODEL]
    path = stored_path(target.path, target.hashes["sha256"])
    workers = []
    for worker in range(options.clients):
        names = [f"car-{n}" for n in range(worker, options.vehicles, options.clients)]
        vehicles = [
            {field: getattr(tls, field).decode() for field in ("ca", "certificate", "private_key")}
            for tls in map(service.client_tls, names)
        ]
        process = subprocess.Popen(  # noqa: S603 - this file
            [sys.executable, __file__, "--fetch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        order = {"address": address, "path": path, "length": target.length, "vehicles": vehicles}
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        workers.append(process)
    for process in workers:
        process.stdout.readline()  # connected
    begin_s = time.process_time()
    for process in workers:
        process.stdin.write("go\n")
        process.stdin.flush()
    seconds = sorted(
        second for process in workers for second in json.loads(process.stdout.readline())
    )
    server_cpu_s = time.process_time() - begin_s
    for process in workers:
        process.wait()
    return {
        "vehicles": len(seconds),
        "bytes_each": target.length,
        "server_cpu_s": round(server_cpu_s, 3),
        "fetched_p50_s": round(seconds[len(seconds) // 2], 3),
        "fetched_p99_s": round(seconds[int(len(seconds) * 0.99)], 3),
    }


def fetch_many(order: dict) -> None:
    """A worker: one thread and connection a vehicle; waits for the word."""
    go, seconds = threading.Event(), []
    begun = []
    ready = threading.Barrier(len(order["vehicles"]) + 1)

    def fetch(fields: dict) -> None:
        tls = ClientTls(**{name: value.encode() for name, value in fields.items()})
        with release_client(order["address"], tls) as client:
            list(client.read("metadata/timestamp.json", 0))
            ready.wait()
            go.wait()
            received = sum(len(chunk) for chunk in client.read(order["path"], 0))
            seconds.append(time.perf_counter() - begun[0])
            assert received == order["length"]
            ready.wait()

    threads = [threading.Thread(target=fetch, args=(one,)) for one in order["vehicles"]]
    for thread in threads:
        thread.start()
    ready.wait()
    print("connected", flush=True)
    sys.stdin.readline()
    begun.append(time.perf_counter())
    go.set()
    ready.wait()
    for thread in threads:
        thread.join()
    print(json.dumps(seconds), flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vehicles", type=int, default=200)
    parser.add_argument("--megabytes", type=float, default=0.85)
    parser.add_argument("--clients", type=int, default=4, help="processes that play the vehicles")
    parser.add_argument("--fetch", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
