"""The verbs that need the simulator."""

from pathlib import Path
from typing import Annotated

import typer

from convoy_simulation.fleet import FleetConfig, plan_fleet, record_fleet


def data_record(
    out: Annotated[Path, typer.Option(help="Folder for the recordings; new, or of this fleet.")],
    vehicles: Annotated[int, typer.Option(help="How many vehicles drive.", min=1)] = 6,
    frames: Annotated[int, typer.Option(help="Frames that each vehicle records.", min=1)] = 1000,
    seed: Annotated[int, typer.Option(help="Same seed, same recordings.", min=0)] = 0,
    workers: Annotated[int, typer.Option(help="Processes; 0 is one a core.", min=0)] = 0,
) -> None:
    """Let the simulator's expert drive and write Donkeycar tubs, one a vehicle.

    Each vehicle has its own tracks and its own camera: day, dark, fog, …

    Example: convoy data record --out recordings
    """
    config = FleetConfig(vehicles=vehicles, frames_per_vehicle=frames)

    def say(done: int, total: int) -> None:
        typer.echo(f"recorded {done} of {total} vehicles", err=True)

    tubs = record_fleet(config, out, seed, workers, say)
    for plan, tub in zip(plan_fleet(config), tubs, strict=True):
        typer.echo(f"{tub}: {plan.frames} frames, {len(plan.track_seeds)} drives")
