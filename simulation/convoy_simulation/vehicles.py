"""Who takes part in a simulated run: one vehicle for each recording, simulated or the user's own."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convoy_driving.data_config import DataConfig
from convoy_driving.dataset import VehicleDataset, load_vehicle
from convoy_driving.errors import NoUsableFramesError
from convoy_driving.recordings.reader import find_recordings
from convoy_edge_client.vehicle_config import VehicleConfig, save_fleet, save_vehicle_config
from convoy_protos.errors import UsageError
from convoy_simulation.fleet import FleetConfig, VehicleOverride, cached_fleet, plan_fleet
from convoy_simulation.worker_pool import Progress, run_jobs

logger = logging.getLogger(__name__)

FRAMES_FOLDER = "frames"
"""Inside the cache folder: decoded frames."""


def simulated_vehicles(
    fleet: FleetConfig, seed: int, cache_dir: Path, progress: Progress
) -> list[VehicleConfig]:
    """Let the simulator's expert record the fleet, unless the cache holds it already."""
    tubs = cached_fleet(fleet, cache_dir, seed, fleet.workers, progress)
    return [
        _vehicle(plan.vehicle_id, tub, fleet.override(plan.override_name), cache_dir)
        for plan, tub in zip(plan_fleet(fleet), tubs, strict=True)
    ]


def recorded_vehicles(
    paths: Sequence[Path], fleet: FleetConfig, cache_dir: Path
) -> list[VehicleConfig]:
    """One vehicle for each recording behind the paths.

    Raises:
        NotARecordingError: Nothing was found behind one of the paths.
        UsageError: An override of the scenario names none of them.
    """
    found = find_recordings(paths)
    known = [ref.vehicle_id for ref in found]
    unknown = sorted(set(fleet.vehicle) - set(known))
    if unknown:
        raise UsageError(f"[fleet.vehicle.{unknown[0]}]: the recordings are {', '.join(known)}")
    return [
        _vehicle(ref.vehicle_id, ref.path.resolve(), fleet.override(ref.vehicle_id), cache_dir)
        for ref in found
    ]


def decode(
    vehicles: Sequence[VehicleConfig], data: DataConfig, workers: int, progress: Progress
) -> list[VehicleConfig]:
    """Decode every vehicle's pictures into the cache, several vehicles at a time.

    Returns:
        The vehicles that have something to learn from and something held back.

    Raises:
        UsageError: None has.
    """
    jobs = [_DecodeJob(vehicle, data) for vehicle in vehicles]
    complaints = run_jobs(_decode, jobs, workers, progress)
    for complaint in filter(None, complaints):
        logger.warning("%s", complaint)
    usable = [
        vehicle
        for vehicle, complaint in zip(vehicles, complaints, strict=True)
        if complaint is None
    ]
    if not usable:
        raise UsageError(f"no vehicle has usable recordings: {complaints[0]}")
    return usable


def load(vehicle: VehicleConfig, data: DataConfig) -> VehicleDataset:
    """A vehicle's examples, as its own client loads them."""
    return load_vehicle(vehicle.vehicle_id, vehicle.recording_paths, data, vehicle.cache_path)


def write_vehicle_files(vehicles: Sequence[VehicleConfig], folder: Path) -> list[Path]:
    """One configuration file a vehicle, and `fleet.json` that lists them.

    Returns:
        The vehicles' files, in the order of the vehicles.
    """
    files = [folder / f"{vehicle.vehicle_id}.json" for vehicle in vehicles]
    for vehicle, file in zip(vehicles, files, strict=True):
        save_vehicle_config(vehicle, file)
    save_fleet([Path(file.name) for file in files], folder / "fleet.json")
    return files


@dataclass(frozen=True, slots=True)
class _DecodeJob:
    vehicle: VehicleConfig
    data: DataConfig


def _decode(job: _DecodeJob) -> str | None:
    """Why this vehicle cannot take part, or None."""
    try:
        dataset = load(job.vehicle, job.data)
    except NoUsableFramesError as error:
        return f"left out: {error}"
    if not len(dataset.train_indices) or (job.data.held_share and not len(dataset.held_indices)):
        return (
            f"left out: vehicle {job.vehicle.vehicle_id} has {len(dataset.steering_N)} frames, "
            "too few to learn from and to hold some back"
        )
    return None


def _vehicle(
    vehicle_id: str, recording: Path, override: VehicleOverride, cache_dir: Path
) -> VehicleConfig:
    return VehicleConfig(
        vehicle_id=vehicle_id,
        recordings=(str(recording.resolve()),),
        cache_dir=str((cache_dir / FRAMES_FOLDER).resolve()),
        augment=override.augment,
        mirror=override.mirror,
    )
