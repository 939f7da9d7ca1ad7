"""Frames that the server may see, for distillation, calibration and the release's gates.

Never the fleet's own. With a simulated fleet the server lets the same simulator's expert drive on
tracks that no vehicle recorded; with the user's recordings only the user can say what the server
may see.
"""

import math
from dataclasses import replace
from pathlib import Path

from convoy_simulation.fleet import FleetConfig, cached_fleet, fleet_appearances
from convoy_simulation.worker_pool import Progress

TRACK_OFFSET = 100_000
"""The server's tracks are this far from the fleet's."""


def simulated_proxy(
    fleet: FleetConfig, frames: int, seed: int, cache_dir: Path, progress: Progress
) -> list[Path]:
    """Record as many frames as are wanted, under every appearance of the fleet alike."""
    appearances = fleet_appearances(fleet)
    server = replace(
        fleet,
        vehicles=len(appearances),
        appearances=appearances,
        frames_per_vehicle=math.ceil(frames / len(appearances)),
        first_track_seed=fleet.first_track_seed + TRACK_OFFSET,
        vehicle={},
    )
    return cached_fleet(server, cache_dir, seed, fleet.workers, progress)
