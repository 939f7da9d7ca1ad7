"""Who takes part in a simulated run: one vehicle for each recording, simulated or the user's own."""

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from convoy_compression.update.codec import UpdateConfig
from convoy_driving.data_config import DataConfig
from convoy_driving.dataset import VehicleDataset, load_vehicle
from convoy_driving.errors import NoUsableFramesError
from convoy_driving.recordings.reader import find_recordings
from convoy_edge_client.vehicle_config import VehicleConfig, save_fleet, save_vehicle_config
from convoy_privacy.certificates import Identity, Role
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_privacy.party import save_party
from convoy_privacy.sealing import SealingKey, generate_sealing_key
from convoy_protos.errors import UsageError
from convoy_protos.protection import Protection, protection_of
from convoy_server.release.proxy import FRAMES_FOLDER
from convoy_server.rounds import RoundConfig
from convoy_simulation.fleet import FleetConfig, VehicleOverride, cached_fleet, plan_fleet
from convoy_simulation.worker_pool import Progress, run_jobs

logger = logging.getLogger(__name__)

ROADSIDE_UNIT = "roadside"
"""With a number: mask helpers that do not train."""
AGGREGATOR = "aggregator"
"""Inside the folder of the vehicles' files: the server's certificate and keys."""
IDENTITIES_FOLDER = "identities"
"""Beside it: those of the vehicles."""
"""Inside the cache folder: decoded frames."""

_AGREED: Final[Mapping[Protection, Literal["masked", "sealed", "none"]]] = {
    Protection.MASKED: "masked",
    Protection.SEALED: "sealed",
    Protection.NONE: "none",
}


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


def check_sum_size(update: UpdateConfig, rounds: RoundConfig, vehicle_count: int) -> None:
    """Refuse a fleet or cohort too small for a masked sum: every round would be abandoned.

    Raises:
        UsageError: Says how many it takes and what else there is.
    """
    masked = protection_of(update.wire_name) is Protection.MASKED
    small_cohort = 0 < rounds.cohort_size < vehicle_count
    fewest = rounds.cohort_size if small_cohort else vehicle_count
    if masked and fewest < update.minimum_cohort:
        who = "[round] cohort_size is" if small_cohort else "there are"
        more = "raise it" if small_cohort else "name more recordings"
        raise UsageError(
            f"[update] minimum_cohort: a masked sum takes {update.minimum_cohort} vehicles, and {who} "
            f"{fewest}: {more}, lower minimum_cohort (to 2 at least: the sum over one vehicle is its "
            'update), or take codec = "sealed", which shows single updates to the aggregator alone'
        )


def roadside_units(update: UpdateConfig, units: int = 0) -> list[str]:
    """Names of the nodes that only help to mask.

    Args:
        update: With the helpers that a masked sum asks for.
        units: [fleet] roadside_units; 0: as many as these.
    """
    count = max(units, update.helpers) if update.helpers else 0
    return [f"{ROADSIDE_UNIT}{number}" for number in range(count)]


def write_vehicle_files(
    vehicles: Sequence[VehicleConfig], folder: Path, update: UpdateConfig, units: int = 0
) -> list[Path]:
    """One configuration file and one identity a vehicle, keys for the server, and `fleet.json`.

    Where updates are masked for helpers, as many roadside units come after the vehicles.

    The fleet's CA lives as long as this call: a simulation has no use for it later, and keys do not
    show in any result. What a real vehicle's owner decides follows from the scenario here: vehicles
    agree to the codec that it names, and to as many mask helpers.

    Args:
        vehicles: Who takes part.
        folder: Where the files go.
        update: How updates travel.
        units: [fleet] roadside_units.

    Returns:
        The vehicles' files, in the order of the vehicles, then those of the roadside units.
    """
    now = datetime.now(UTC)
    authority = FleetAuthority.create(now)
    sealing_key = generate_sealing_key(update.sealing_suite, os.urandom)
    identity = authority.issue(AGGREGATOR, Role.AGGREGATOR, now)
    _save(folder / AGGREGATOR, authority, identity, sealing_key)
    files = [folder / f"{vehicle.vehicle_id}.json" for vehicle in vehicles]
    for vehicle, file in zip(vehicles, files, strict=True):
        keys = folder / IDENTITIES_FOLDER / vehicle.vehicle_id
        _save(keys, authority, authority.issue(vehicle.vehicle_id, Role.VEHICLE, now))
        own = replace(
            vehicle,
            identity=str(keys.resolve()),
            least_protection=_AGREED[protection_of(update.wire_name)],
            minimum_cohort=min(vehicle.minimum_cohort, update.minimum_cohort),
            minimum_helpers=max(1, update.helpers),
        )
        save_vehicle_config(own, file)
    for name in roadside_units(update, units):
        keys = folder / IDENTITIES_FOLDER / name
        key = generate_sealing_key(update.sealing_suite, os.urandom)
        _save(keys, authority, authority.issue(name, Role.HELPER, now), key)
        unit = VehicleConfig(
            vehicle_id=name,
            helper_identity=str(keys.resolve()),
            minimum_cohort=update.minimum_cohort,
        )
        files.append(folder / f"{name}.json")
        save_vehicle_config(unit, files[-1])
    save_fleet([Path(file.name) for file in files], folder / "fleet.json")
    return files


def _save(
    folder: Path,
    authority: FleetAuthority,
    identity: Identity,
    sealing_key: SealingKey | None = None,
) -> None:
    """Put a party's files in the place of those of an earlier start of this run."""
    shutil.rmtree(folder, ignore_errors=True)
    save_party(folder, authority, identity.certificate, identity.signing_key, sealing_key)


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
        metrics=override.metrics,
    )
