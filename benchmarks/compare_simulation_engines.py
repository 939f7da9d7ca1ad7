"""Simulating rounds in process, against a bare Python loop and against Flower's Ray simulation.

    python benchmarks/compare_simulation_engines.py [--rounds 12] [--repetitions 3] [--without-ray]

The textbook network at 40 x 48 (185,080 parameters), 10 vehicles a round, one epoch in batches of 16.
Two fleets: 100 vehicles of 32 examples, whose training takes as little as anybody would bother to
simulate, and, for the sides with "long", 20 vehicles of 256. Sides with "2" use two processes or
threads.

bare        trains the same vehicles with the same function and adds up; no messages, no checkpoints
serial ...  Convoy's two apps in its in-process grid: instructions, envelopes, admission, checkpoint
            and fsync after every round, round log, audit log
ray_2       the same two apps in Flower's Ray simulation, two actors

The trivial sides send the model there and back and train nothing: what a grid itself costs.

Every measurement is a process of its own, sides take turns. A round's time is the median over the
rounds of a run but its first and last; reported is the median over the repetitions, and for ratios
the median of the ratios within each turn. CPU seconds are those of the whole process tree from the
first timed round to the last; memory is the largest sum of resident sizes, which counts pages shared
by several processes once each.
"""

import argparse
import contextlib
import functools
import itertools
import json
import logging
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from convoy_compression.update.codec import UpdateConfig
from convoy_driving.data_config import DataConfig
from convoy_driving.dataset import VehicleDataset, load_vehicle
from convoy_driving.models.registry import ModelConfig, build_model
from convoy_driving.parameters import flatten, unflatten
from convoy_driving.training import TrainingConfig, train, vehicle_seed
from convoy_edge_client.app import app as client_app
from convoy_edge_client.app import make_client_app
from convoy_edge_client.vehicle_config import (
    VehicleConfig,
    load_vehicle_config,
    save_fleet,
    save_vehicle_config,
)
from convoy_protos.flower_internals import SERVER_NODE_ID, make_context
from convoy_protos.flower_messages import model_array, update_content
from convoy_server.app import make_server_app
from convoy_server.observer import SilentObserver
from convoy_server.polling_grid import streaming
from convoy_server.round_log import RoundRecord
from convoy_server.rounds import RoundConfig
from convoy_server.run_config import RunConfig, run_config_to_json
from convoy_simulation.in_process_grid import EngineName, InProcessGrid
from convoy_simulation.resource_meter import process_tree
from convoy_simulation.roads.donkeycar_tub import TubRecord, TubWriter

COHORT = 10
FLEETS = {"short": (100, 32), "long": (20, 256)}
"""Vehicles, and examples of each."""
DATA = DataConfig(frame_height=40, frame_width=48, held_share=0.0)
MODEL = ModelConfig()
TRAINING = TrainingConfig(batch_size=16, learning_rate=0.01)
SEED = 3

TRIVIAL_ROUNDS = 60
RAY_ACTORS = {
    "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
    "init_args": {"num_cpus": 2, "log_to_driver": False, "logging_level": 40},
}


@dataclass(frozen=True)
class Measurement:
    """One run of one side.

    Attributes:
        round_s: Median wall time of a round.
        cpu_round_s: Processor time of a round, all processes.
        peak_mib: Resident memory, all processes.
        start_s: From the start of the side to the end of its first round.
    """

    round_s: float
    cpu_round_s: float
    peak_mib: float
    start_s: float


class Laps:
    """Notes when rounds end, and the processor time at the first and the last one that counts."""

    def __init__(self, rounds: int) -> None:
        self._started_s = time.perf_counter()
        self._ends_s: list[float] = []
        self._cpu_s: list[float] = []
        self._rounds = rounds

    def lap(self) -> None:
        """A round ended."""
        self._ends_s.append(time.perf_counter())
        if len(self._ends_s) in (1, self._rounds - 1):
            self._cpu_s.append(tree_cpu_s())

    def result(self) -> dict[str, float]:
        """Over all rounds but the first and the last, which do other things as well."""
        ends_s = self._ends_s[:-1]
        return {
            "round_s": statistics.median(b - a for a, b in itertools.pairwise(ends_s)),
            "cpu_round_s": (self._cpu_s[1] - self._cpu_s[0]) / (len(ends_s) - 1),
            "start_s": self._ends_s[0] - self._started_s,
        }


@dataclass(frozen=True)
class Job:
    """What a side gets.

    Attributes:
        folder: The recorded fleet.
        rounds: How many to run.
        laps: Wants to know when each of them ends.
        out: A folder to write to.
    """

    folder: Path
    rounds: int
    laps: Laps
    out: Path


class LapObserver(SilentObserver):
    """Counts a lap whenever a round is on disk."""

    def __init__(self, laps: Laps) -> None:
        self._laps = laps

    def round_finished(self, record: RoundRecord) -> None:  # noqa: ARG002 - that it ended is enough
        """A lap."""
        self._laps.lap()


def main() -> None:
    """Measure every side in turn and print the figures."""
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        for fleet, (vehicles, examples) in FLEETS.items():
            record_fleet(Path(folder) / fleet, vehicles, examples)
        sides = [name for name in SIDES if not (options.without_ray and "ray" in name)]
        runs: dict[str, list[Measurement]] = {name: [] for name in sides}
        for repetition in range(options.repetitions):
            for name in sides:
                fleet = Path(folder) / ("long" if "long" in name else "short")
                runs[name].append(run_alone(name, fleet, options.rounds))
                print(f"turn {repetition + 1}: {name:22} {runs[name][-1]}", flush=True)
    report(runs)


def report(runs: dict[str, list[Measurement]]) -> None:
    """Print a table and the JSON line."""
    figures: dict[str, float] = {"parameters": parameter_count()}
    for name, measured in runs.items():
        for field in ("round_s", "cpu_round_s", "peak_mib", "start_s"):
            figures[f"{name}_{field}"] = statistics.median(getattr(m, field) for m in measured)
    for name, other in RATIOS:
        if name in runs and other in runs:
            for field in ("round_s", "cpu_round_s", "peak_mib"):
                ratios = [
                    getattr(ours, field) / getattr(theirs, field)
                    for ours, theirs in zip(runs[name], runs[other], strict=True)
                ]
                figures[f"{name}_over_{other}_{field}"] = statistics.median(ratios)
    figures = {name: round(value, 5) for name, value in figures.items()}
    for name, value in figures.items():
        print(f"{name:48} {value}")
    print(json.dumps({"benchmark": "compare_simulation_engines", "figures": figures}))


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description="In-process simulation against its peers.")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--without-ray", action="store_true")
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--fleet", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_alone(name: str, folder: Path, rounds: int) -> Measurement:
    """Measure one side in a fresh process."""
    environment = {
        **os.environ,
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [sys.executable, __file__, "--side", name, "--fleet", str(folder)]
    peak_bytes = 0
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(  # noqa: S603 - ourselves
            [*command, "--rounds", str(rounds)], env=environment, stdout=output
        ) as process,
    ):
        while process.poll() is None:
            tree_bytes = sum(member.rss_bytes for member in process_tree(process.pid))
            peak_bytes = max(peak_bytes, tree_bytes)
            time.sleep(0.2)
        if process.returncode:
            raise SystemExit(f"{name} failed")
        output.seek(0)
        figures = json.loads(output.read().splitlines()[-1])
    return Measurement(**figures, peak_mib=peak_bytes / 2**20)


def run_side(name: str, folder: Path, rounds: int) -> None:
    """In the fresh process: measure and print one JSON line."""
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    rounds = TRIVIAL_ROUNDS if name.startswith("trivial") else rounds
    laps = Laps(rounds)
    with tempfile.TemporaryDirectory() as out:
        SIDES[name](Job(folder, rounds, laps, Path(out)))
    print(json.dumps(laps.result()), flush=True)


# The sides: each runs its rounds and calls laps.lap() after each.


def bare_serial(job: Job) -> None:
    """The loop anybody would write first."""
    trainer = BareTrainer(job.folder)
    model_N = trainer.start_N
    for number in range(1, job.rounds + 1):
        updates = (trainer.update((number, name, model_N)) for name in cohort(job.folder, number))
        model_N = model_N + mean(updates)
        job.laps.lap()


def bare_pool(job: Job) -> None:
    """The same with a pool of two processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["convoy_edge_client.app", "torch._dynamo"])
    model_N = BareTrainer(job.folder).start_N
    with context.Pool(2, initializer=start_bare_worker, initargs=(job.folder,)) as pool:
        for number in range(1, job.rounds + 1):
            tasks = [(number, name, model_N) for name in cohort(job.folder, number)]
            model_N = model_N + mean(pool.imap(bare_update, tasks))
            job.laps.lap()


def in_process(engine: EngineName, workers: int, job: Job) -> None:
    """Convoy's two apps in its in-process grid."""
    run_config = run_configuration(job)
    with InProcessGrid(
        make_client_app, nodes(job.folder), engine=engine, workers=workers, run_config=run_config
    ) as grid:
        context = make_context(SERVER_NODE_ID, {}, run_config)
        make_server_app(LapObserver(job.laps))(grid, context)


def ray(job: Job) -> None:
    """Convoy's two apps in Flower's simulation."""
    server_app = make_server_app(LapObserver(job.laps))
    for app in (server_app, client_app):
        app.lifespan()(functools.partial(with_run_config, run_configuration(job)))
    simulate_in_ray(server_app, client_app, len(names(job.folder)))


def trivial_in_process(engine: EngineName, workers: int, job: Job) -> None:
    """There and back in the in-process grid."""
    with InProcessGrid(echo_app, nodes(job.folder), engine=engine, workers=workers) as grid:
        there_and_back(grid, job)


def trivial_ray(job: Job) -> None:
    """There and back in Flower's simulation."""
    server_app = ServerApp()

    @server_app.main()
    def main_of_run(grid: Grid, _context: Context) -> None:
        there_and_back(streaming(grid), job)

    simulate_in_ray(server_app, echo_app(), len(names(job.folder)))


SIDES: dict[str, Callable[[Job], None]] = {
    "bare": bare_serial,
    "serial": functools.partial(in_process, "serial", 1),
    "bare_2": bare_pool,
    "processes_2": functools.partial(in_process, "processes", 2),
    "threads_2": functools.partial(in_process, "threads", 2),
    "ray_2": ray,
    "bare_long": bare_serial,
    "serial_long": functools.partial(in_process, "serial", 1),
    "trivial_serial": functools.partial(trivial_in_process, "serial", 1),
    "trivial_processes_2": functools.partial(trivial_in_process, "processes", 2),
    "trivial_ray_2": trivial_ray,
}

RATIOS = [
    ("serial", "bare"),
    ("processes_2", "bare_2"),
    ("threads_2", "bare_2"),
    ("serial_long", "bare_long"),
    ("ray_2", "processes_2"),
    ("trivial_ray_2", "trivial_serial"),
    ("trivial_ray_2", "trivial_processes_2"),
]


# What the bare loop does.


class BareTrainer:
    """All vehicles open, one network: no cache to look into, no bound on memory."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self._datasets: dict[str, VehicleDataset] = {}
        for name in names(folder):
            vehicle = load_vehicle_config(vehicle_file(folder, name))
            self._datasets[name] = load_vehicle(
                name, vehicle.recording_paths, DATA, vehicle.cache_path
            )
        self._model = build_model(MODEL, DATA.frame_height, DATA.frame_width, SEED)
        self.start_N = flatten(self._model)

    def update(self, job: tuple[int, str, NDArray[np.float32]]) -> tuple[int, NDArray[np.float32]]:
        """Examples and update of one vehicle in one round."""
        number, name, model_N = job
        unflatten(model_N, self._model)
        seed = vehicle_seed(SEED, number, name)
        result = train(self._model, self._datasets[name], TRAINING, seed=seed)
        return result.example_count, flatten(self._model) - model_N


def start_bare_worker(folder: Path) -> None:
    """Give a worker of the pool its trainer, the way a pool wants it: in a global."""
    globals()["trainer"] = BareTrainer(folder)


def bare_update(job: tuple[int, str, NDArray[np.float32]]) -> Any:
    """One job of the pool."""
    return globals()["trainer"].update(job)


def mean(updates: Iterable[tuple[int, NDArray[np.float32]]]) -> NDArray[np.float32]:
    """Weighted by examples."""
    total, weights = np.zeros(parameter_count(), np.float32), 0
    for count, update_N in updates:
        total += np.float32(count) * update_N
        weights += count
    return total / np.float32(weights)


# What the trivial sides do.


def echo_app() -> ClientApp:
    """A client that sends the model back as if it were an update."""
    app = ClientApp()

    @app.train()
    def echo(message: Message, _context: Context) -> Message:
        packed = message.content["model"]["packed"].data
        return Message(update_content(packed), reply_to=message)

    return app


def there_and_back(grid: Grid, job: Job) -> None:
    """Send the model to a cohort and read every reply."""
    model_N = np.zeros(parameter_count(), np.float32)
    node_ids = sorted(wait_for_nodes(grid, len(names(job.folder))))
    for number in range(job.rounds):
        content = RecordDict({"model": packed_record(model_N)})
        chosen = np.random.default_rng(number).choice(len(node_ids), COHORT, replace=False)
        messages = [Message(content, node_ids[index], "train") for index in chosen]
        replies = sum(1 for reply in grid.send_and_receive(messages) if reply.has_content())
        assert replies == COHORT
        job.laps.lap()


def packed_record(model_N: NDArray[np.float32]) -> ArrayRecord:
    """The model as one array."""
    return ArrayRecord({"packed": model_array(model_N)})


def wait_for_nodes(grid: Grid, count: int) -> list[int]:
    """Flower registers its virtual nodes in another thread."""
    while len(node_ids := list(grid.get_node_ids())) < count:
        time.sleep(0.01)
    return node_ids


# Around them.


def with_run_config(run_config: dict[str, Any], context: Context) -> Iterator[None]:
    """run_simulation has no argument for a run configuration."""
    before = context.run_config
    context.run_config = {**before, **run_config}
    yield
    context.run_config = before


def simulate_in_ray(server_app: ServerApp, app: ClientApp, vehicles: int) -> None:
    """Flower's simulation with two actors."""
    import ray as ray_package  # noqa: PLC0415 - an optional peer
    from flwr.simulation import run_simulation  # noqa: PLC0415

    temporary = tempfile.mkdtemp(prefix="ray")  # under /tmp: Ray's socket paths must be short
    config = json.loads(json.dumps(RAY_ACTORS))
    config["init_args"]["_temp_dir"] = temporary
    try:
        with contextlib.redirect_stdout(sys.stderr):
            run_simulation(server_app, app, num_supernodes=vehicles, backend_config=config)
    finally:
        ray_package.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


def run_configuration(job: Job) -> dict[str, Any]:
    """What both apps find in their context."""
    run = RunConfig(
        name="benchmark",
        seed=SEED,
        data=DATA,
        model=MODEL,
        training=TRAINING,
        round=RoundConfig(rounds=job.rounds, cohort_size=COHORT, evaluate_every=job.rounds),
        # What the bare loop does: every model and update as it is.
        update=UpdateConfig(codec="float32", downlink="full"),
    )
    return {
        "convoy-run": run_config_to_json(run),
        "convoy-out": str(job.out / "run"),
        "convoy-fleet": str(job.folder / "fleet.json"),
    }


def nodes(folder: Path) -> dict[int, Any]:
    """Node configurations for the in-process grid."""
    return {
        100 + index: {"vehicle-config": str(vehicle_file(folder, name))}
        for index, name in enumerate(names(folder))
    }


@functools.cache
def names(folder: Path) -> list[str]:
    """All vehicles."""
    return sorted(path.stem for path in (folder / "vehicles").iterdir())


def cohort(folder: Path, number: int) -> list[str]:
    """Who trains in a round of the bare loop."""
    rng = np.random.default_rng((SEED, number))
    return [str(name) for name in rng.choice(names(folder), COHORT, replace=False)]


def vehicle_file(folder: Path, name: str) -> Path:
    """A vehicle's configuration."""
    return folder / "vehicles" / f"{name}.json"


@functools.cache
def parameter_count() -> int:
    """N."""
    return flatten(build_model(MODEL, DATA.frame_height, DATA.frame_width, SEED)).size


def record_fleet(folder: Path, vehicles: int, examples: int) -> None:
    """Noise with labels: what is in the pictures does not matter here."""
    rng = np.random.default_rng(SEED)
    files = []
    for number in range(vehicles):
        name = f"car{number:03d}"
        writer = TubWriter(folder / "tubs" / name, jpeg_quality=80, created_at_s=1.7e9)
        for index in range(examples):
            picture_HWC = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            angle = float(rng.choice([-0.8, 0.0, 0.8]))
            writer.append(TubRecord(picture_HWC, angle, 0.5, "s", 1_700_000_000_000 + 50 * index))
        writer.close()
        vehicle = VehicleConfig(
            vehicle_id=name,
            recordings=(str(folder / "tubs" / name),),
            cache_dir=str(folder / "cache"),
            least_protection="none",
        )
        files.append(vehicle_file(folder, name))
        save_vehicle_config(vehicle, files[-1])
        load_vehicle(name, vehicle.recording_paths, DATA, vehicle.cache_path)
    save_fleet(files, folder / "fleet.json")


def tree_cpu_s() -> float:
    """Processor seconds of this process, its living descendants, and those they have waited for."""
    ticks: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks[int(entry.name)] = sum(int(field) for field in fields[11:15])
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    total, queue = 0, [os.getpid()]
    while queue:
        pid = queue.pop()
        total += ticks.get(pid, 0)
        queue.extend(children.get(pid, ()))
    return total / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    chosen = parse()
    if chosen.side:
        run_side(chosen.side, chosen.fleet, chosen.rounds)
    else:
        main()
