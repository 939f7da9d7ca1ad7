"""Run a small fleet through the two real apps, as a simulation does."""

import json
import os
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from flwr.app import RecordDict
from small_fleet import DATA, SmallFleet

from convoy_driving.models.registry import ModelConfig
from convoy_driving.training import TrainingConfig
from convoy_server.app import make_server_app
from convoy_server.rounds import RoundConfig
from convoy_server.run_config import RunConfig, run_config_to_json
from convoy_simulation.faults import FaultConfig, client_app_factory
from convoy_simulation.flower_internals import SERVER_NODE_ID, make_context
from convoy_simulation.in_process_grid import EngineName, InProcessGrid

NO_FAULTS = FaultConfig()


def small_run(**rounds: Any) -> RunConfig:
    """A run whose rounds take a fraction of a second."""
    return RunConfig(
        name="small",
        seed=5,
        data=DATA,
        model=ModelConfig(width=0.1),
        training=TrainingConfig(learning_rate=0.02, batch_size=16),
        round=RoundConfig(**{"rounds": 2, **rounds}),
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
) -> None:
    """Run all rounds into a run directory."""
    run_config = {
        "convoy-run": run_config_to_json(run),
        "convoy-out": str(out),
        "convoy-resume": resume,
    }
    factory = client_app_factory(faults)
    with InProcessGrid(
        factory, fleet.nodes, engine=engine, workers=workers, run_config=run_config
    ) as grid:
        context = make_context(SERVER_NODE_ID, {}, run_config, state=RecordDict())
        make_server_app()(grid, context)


def announce_and_run(started: Event, *args: Any, **kwargs: Any) -> None:
    """`run_small_federation` for a process that somebody wants to kill, in a group of its own."""
    os.setpgid(0, 0)
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
