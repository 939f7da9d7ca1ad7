"""A fleet of a few vehicles with synthetic recordings, small enough for a test.

A bright bar stands where the road goes; steering follows it. Each vehicle sees it in another colour.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convoy_driving.data_config import DataConfig
from convoy_edge_client.vehicle_config import VehicleConfig, save_fleet, save_vehicle_config
from convoy_simulation.roads.donkeycar_tub import TubRecord, TubWriter

DATA = DataConfig(frame_height=32, frame_width=32)
"""The smallest frames that the textbook network takes."""


@dataclass(frozen=True, kw_only=True)
class SmallFleet:
    """Where the fleet lies on disk.

    Attributes:
        vehicles: Vehicle configuration files by vehicle id.
        fleet_file: Lists those files, for nodes that only know their partition.
    """

    vehicles: Mapping[str, Path]
    fleet_file: Path

    @property
    def nodes(self) -> dict[int, dict[str, str]]:
        """Node configurations for an in-process grid."""
        return {
            100 + index: {"vehicle-config": str(path)}
            for index, path in enumerate(self.vehicles.values())
        }


def record_small_fleet(folder: Path, vehicle_count: int, frames: int = 60) -> SmallFleet:
    """Write tubs and vehicle configurations; the same arguments write the same recordings."""
    vehicles = {}
    for number in range(vehicle_count):
        vehicle_id = f"car{number}"
        tub = folder / "recordings" / vehicle_id
        record_small_tub(tub, frames, seed=number)
        path = folder / "vehicles" / f"{vehicle_id}.json"
        config = VehicleConfig(
            vehicle_id=vehicle_id,
            recordings=(str(tub),),
            cache_dir=str(folder / "cache" / vehicle_id),
            least_protection="none",
        )
        save_vehicle_config(config, path)
        vehicles[vehicle_id] = path
    fleet_file = folder / "fleet.json"
    save_fleet(list(vehicles.values()), fleet_file)
    return SmallFleet(vehicles=vehicles, fleet_file=fleet_file)


def record_small_tub(tub: Path, frames: int, seed: int) -> None:
    """One Donkeycar tub with pictures of 32 x 32."""
    rng = np.random.default_rng(seed)
    colour = rng.integers(80, 256, 3)
    writer = TubWriter(tub, jpeg_quality=90, created_at_s=1.7e9)
    for index in range(frames):
        angle = float(rng.choice([-0.8, 0.0, 0.8]))
        picture_HWC = rng.integers(0, 40, (32, 32, 3), dtype=np.uint8)
        column = 14 + round(angle * 12)
        picture_HWC[8:, column : column + 4] = colour
        writer.append(
            TubRecord(
                picture_HWC=picture_HWC,
                angle=angle,
                throttle=0.5 - 0.3 * abs(angle),
                session_id="s",
                timestamp_ms=1_700_000_000_000 + index * 50,
            )
        )
    writer.close()
