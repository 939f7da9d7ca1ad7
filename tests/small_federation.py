"""Run a small fleet through the two real apps, as a simulation does."""

import json
import os
import signal
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from flwr.app import RecordDict
from small_fleet import DATA, SmallFleet

from convoy_compression.update.codec import UpdateConfig
from convoy_driving.models.registry import ModelConfig
from convoy_driving.training import TrainingConfig
from convoy_edge_client.vehicle_config import load_vehicle_config
from convoy_protos.flower_internals import SERVER_NODE_ID, make_context
from convoy_protos.protection import Protection, protection_of
from convoy_server.app import make_server_app
from convoy_server.rounds import RoundConfig
from convoy_server.run_config import RunConfig, run_config_to_json
from convoy_server.strategy import Canary
from convoy_simulation.faults import FaultConfig, client_app_factory
from convoy_simulation.in_process_grid import EngineName, InProcessGrid
from convoy_simulation.vehicles import AGGREGATOR, write_vehicle_files

NO_FAULTS = FaultConfig()


def protect(
    fleet: SmallFleet, update: UpdateConfig, *, units: int = 0, **changes: Any
) -> dict[int, dict[str, str]]:
    """Give every vehicle an identity and the server keys; node configurations of these vehicles.

    Args:
        fleet: Whose vehicles.
        update: What they agree to; roadside units come after them, where it asks for mask helpers.
        units: Roadside units; 0: as many as it asks for.
        changes: To every vehicle's own configuration.
    """
    own = [
        replace(load_vehicle_config(path), least_protection="masked", **changes)
        for path in fleet.vehicles.values()
    ]
    folder = Path(tempfile.mkdtemp(dir=fleet.fleet_file.parent))
    files = write_vehicle_files(own, folder, update, units)
    return {100 + index: {"vehicle-config": str(file)} for index, file in enumerate(files)}


PLAIN = UpdateConfig(codec="float32", downlink="full")
"""Every model and update as it is."""


def small_run(*, update: UpdateConfig = PLAIN, **rounds: Any) -> RunConfig:
    """A run whose rounds take a fraction of a second."""
    return RunConfig(
        name="small",
        seed=5,
        data=DATA,
        model=ModelConfig(width=0.1),
        training=TrainingConfig(learning_rate=0.02, batch_size=16),
        round=RoundConfig(**{"rounds": 2, **rounds}),
        update=update,
    )


def run_small_federation(
    fleet: SmallFleet,
    run: RunConfig,
    out: Path,
    *,
    engine: EngineName = "serial",
    workers: int = 1,
    faults: FaultConfig = NO_FAULTS,
    resume: bool = False,
    nodes: Mapping[int, dict[str, str]] | None = None,
    canary: Canary | None = None,
) -> None:
    """Run all rounds into a run directory; `nodes` other than the fleet's own play its vehicles."""
    run_config = {
        "convoy-run": run_config_to_json(run),
        "convoy-out": str(out),
        "convoy-resume": resume,
    }
    if protection_of(run.update.wire_name) is not Protection.NONE:
        (own, *_) = (nodes or fleet.nodes).values()
        run_config["convoy-keys"] = str(Path(own["vehicle-config"]).parent / AGGREGATOR)
    factory = client_app_factory(faults)
    with InProcessGrid(
        factory, nodes or fleet.nodes, engine=engine, workers=workers, run_config=run_config
    ) as grid:
        context = make_context(SERVER_NODE_ID, {}, run_config, state=RecordDict())
        make_server_app(canary=canary)(grid, context)


def announce_and_run(started: Event, *args: Any, **kwargs: Any) -> None:
    """`run_small_federation` for a process that somebody wants to kill, in a group of its own."""
    os.setpgid(0, 0)
    # A shell starts what it runs in the background with Ctrl-C ignored, tests too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    started.set()
    run_small_federation(*args, **kwargs)


def round_lines(out: Path) -> list[dict[str, Any]]:
    """The lines of rounds.jsonl without the time they took."""
    lines = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        assert line.pop("wall_s") > 0
    return lines


def model_bytes(out: Path) -> bytes:
    """The final global model as written."""
    return (out / "model.safetensors").read_bytes()
