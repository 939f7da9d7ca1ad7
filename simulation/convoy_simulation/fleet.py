"""Section [fleet] of a scenario, and the recordings of a fleet that drives in the simulator.

DIR/fleet.json            key (hash of everything that shapes the recordings), seed, vehicles
DIR/car0-day/             a Donkeycar tub; likewise for every other vehicle
"""

import dataclasses
import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from convoy_protos.errors import UsageError
from convoy_protos.settings import to_table
from convoy_simulation.roads.appearance import appearance_named
from convoy_simulation.roads.camera import CameraSize
from convoy_simulation.roads.car_racing import Road
from convoy_simulation.roads.donkeycar_tub import TubRecord, TubWriter
from convoy_simulation.roads.recorder import RecordingConfig, record_drive
from convoy_simulation.worker_pool import Progress, no_progress, run_jobs

# Part of every key: raise it when the same settings would give other recordings.
RECORDER_VERSION = 4
FLEET_FILE = "fleet.json"
# Recordings are reproducible, so their clock is made up: 1 January 2026, an hour a vehicle.
FIRST_TIMESTAMP_S = 1_767_225_600
PAUSE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleOverride:
    """What one vehicle has different. None: as the rest of the fleet.

    Attributes:
        appearance: What its camera sees; see `roads.appearance`. Simulated vehicles only.
        frames: Frames it records. Simulated vehicles only.
        tracks: Seeds of the tracks it drives on. Simulated vehicles only.
        augment: Whether it trains on changed copies of its frames.
        mirror: Whether these may be mirrored; not where one drives on one side or in one direction.
        metrics: Whom it tells its example counts, losses and scores: "clear" the server, "summed" the
            masked sums only, "withheld" nobody.
    """

    appearance: str | None = None
    frames: int | None = None
    tracks: tuple[int, ...] | None = None
    augment: bool = True
    mirror: bool = True
    metrics: Literal["clear", "summed", "withheld"] = "clear"

    def __post_init__(self) -> None:
        if self.appearance is not None:
            appearance_named(self.appearance)
        if self.frames is not None and self.frames < 1:
            raise ValueError(f"frames must be at least 1, got {self.frames}")
        if self.tracks is not None and not self.tracks:
            raise ValueError("tracks must name at least one track seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetConfig:
    """Who takes part, and how the simulator runs them.

    With recordings given (`--data`), each recording is a vehicle and only `engine`, `workers` and
    the overrides' `augment`, `mirror` and `metrics` count.

    Attributes:
        vehicles: Simulated vehicles.
        appearances: What their cameras see, dealt out in turn; see `roads.appearance`.
        frames_per_vehicle: Frames that each records.
        tracks_per_vehicle: Random tracks, a drive each, that a vehicle's frames are spread over.
        first_track_seed: Vehicles take consecutive track seeds from here on, each its own.
        jpeg_quality: Of the recorded pictures, 1 to 95.
        camera: Size of the recorded pictures.
        recording: How drives are recorded.
        vehicle: Overrides by name: "car3", or the name of a recording.
        roadside_units: Mask helpers that stand beside the road and do not train, where [update] helpers
            asks for some; more than those stand by for one that is lost. 0: as many as those.
        engine: What clients run in: one after another, threads, or processes.
        workers: Threads or processes; 0 is one a core.
    """

    vehicles: int = 6
    appearances: tuple[str, ...] = ("day", "dark", "fog", "recoloured", "glare", "rain")
    frames_per_vehicle: int = 1000
    tracks_per_vehicle: int = 10
    first_track_seed: int = 1000
    jpeg_quality: int = 90
    camera: CameraSize = field(default_factory=CameraSize)
    recording: RecordingConfig = field(default_factory=RecordingConfig)
    vehicle: Mapping[str, VehicleOverride] = field(default_factory=dict)
    roadside_units: int = 0
    engine: Literal["serial", "threads", "processes"] = "processes"
    workers: int = 0

    def __post_init__(self) -> None:
        for name in ("vehicles", "frames_per_vehicle", "tracks_per_vehicle"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.appearances:
            raise ValueError("appearances must name at least one appearance")
        for name in self.appearances:
            appearance_named(name)
        if self.first_track_seed < 0:
            raise ValueError(f"first_track_seed must not be negative, got {self.first_track_seed}")
        if not 1 <= self.jpeg_quality <= 95:
            raise ValueError(f"jpeg_quality must be in 1..95, got {self.jpeg_quality}")
        if self.roadside_units < 0:
            raise ValueError(f"roadside_units must not be negative, got {self.roadside_units}")
        if self.workers < 0:
            raise ValueError(f"workers must not be negative, got {self.workers}")

    def override(self, name: str) -> VehicleOverride:
        """What the vehicle of this name has different."""
        return self.vehicle.get(name, VehicleOverride())


@dataclass(frozen=True, slots=True)
class VehiclePlan:
    """What one simulated vehicle records.

    Attributes:
        vehicle_id: Name of the vehicle and of its tub, for example "car1-dark".
        override_name: Its name in the scenario, for example "car1".
        appearance: Name of its camera's appearance.
        track_seeds: One drive on each.
        frames: Frames in all.
    """

    vehicle_id: str
    override_name: str
    appearance: str
    track_seeds: tuple[int, ...]
    frames: int


def plan_fleet(config: FleetConfig) -> tuple[VehiclePlan, ...]:
    """Deal out appearances and tracks.

    Raises:
        UsageError: An override names no vehicle of this fleet.
    """
    names = [f"car{index}" for index in range(config.vehicles)]
    unknown = sorted(set(config.vehicle) - set(names))
    if unknown:
        raise UsageError(
            f"[fleet.vehicle.{unknown[0]}]: the simulated vehicles are {names[0]} to {names[-1]}"
        )
    return tuple(_plan_vehicle(config, index, name) for index, name in enumerate(names))


def fleet_appearances(config: FleetConfig) -> tuple[str, ...]:
    """The different appearances in the fleet, in the order of the vehicles."""
    return tuple(dict.fromkeys(plan.appearance for plan in plan_fleet(config)))


def check_unseen(config: FleetConfig, track_seeds: Sequence[int]) -> None:
    """Check that no vehicle records on a track that drivers are to be tried on.

    Raises:
        UsageError: One does.
    """
    for plan in plan_fleet(config):
        if seen := sorted(set(plan.track_seeds) & set(track_seeds)):
            raise UsageError(
                f"[closed_loop] track_seeds: {plan.vehicle_id} records on track {seen[0]}; "
                "choose tracks that no vehicle has seen"
            )


def record_fleet(
    config: FleetConfig,
    out: Path,
    seed: int,
    workers: int = 0,
    progress: Progress = no_progress,
) -> list[Path]:
    """Record every vehicle's tub into `out`, unless they are there already.

    The folder appears whole or not at all: it is built beside `out` and renamed.

    Args:
        config: Of the fleet.
        out: A folder that does not exist, is empty, or holds this very fleet.
        seed: Of disturbances and camera noise.
        workers: Processes; 0 is one a core.
        progress: Called with vehicles done and vehicles in all.

    Returns:
        The tubs, one a vehicle, in the order of the vehicles.

    Raises:
        UsageError: `out` holds something else.
    """
    plans = plan_fleet(config)
    key = fleet_key(config, seed)
    tubs = [out / plan.vehicle_id for plan in plans]
    if _holds(out, key):
        return tubs
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: holds something other than this fleet; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        jobs = [
            _VehicleJob(plan, index, config, seed, building / plan.vehicle_id)
            for index, plan in enumerate(plans)
        ]
        run_jobs(_record_vehicle, jobs, workers, progress)
        _write_fleet_file(building / FLEET_FILE, key, seed, plans)
        building.chmod(0o755)
        _move_into_place(building, out, key)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return tubs


def cached_fleet(
    config: FleetConfig,
    cache_dir: Path,
    seed: int,
    workers: int = 0,
    progress: Progress = no_progress,
) -> list[Path]:
    """`record_fleet` into a folder of `cache_dir` named for what shapes the recordings."""
    return record_fleet(
        config, cache_dir / f"fleet-{fleet_key(config, seed)[:16]}", seed, workers, progress
    )


def fleet_key(config: FleetConfig, seed: int) -> str:
    """SHA-256 over everything that shapes the recordings, in hexadecimal."""
    shaping = {
        "version": RECORDER_VERSION,
        "seed": seed,
        "jpeg_quality": config.jpeg_quality,
        "camera": to_table(config.camera),
        "recording": to_table(config.recording),
        "vehicles": [dataclasses.asdict(plan) for plan in plan_fleet(config)],
    }
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()


def _plan_vehicle(config: FleetConfig, index: int, name: str) -> VehiclePlan:
    override = config.override(name)
    appearance = override.appearance or config.appearances[index % len(config.appearances)]
    first = config.first_track_seed + index * config.tracks_per_vehicle
    return VehiclePlan(
        vehicle_id=f"{name}-{appearance}",
        override_name=name,
        appearance=appearance,
        track_seeds=override.tracks or tuple(range(first, first + config.tracks_per_vehicle)),
        frames=override.frames or config.frames_per_vehicle,
    )


@dataclass(frozen=True, slots=True)
class _VehicleJob:
    plan: VehiclePlan
    index: int
    config: FleetConfig
    seed: int
    tub: Path


def _record_vehicle(job: _VehicleJob) -> None:
    plan, config = job.plan, job.config
    clock_s = FIRST_TIMESTAMP_S + 3600.0 * job.index
    tub = TubWriter(job.tub, config.jpeg_quality, created_at_s=clock_s)
    counts = _spread(plan.frames, len(plan.track_seeds))
    for drive, (track_seed, frames) in enumerate(zip(plan.track_seeds, counts, strict=True)):
        rng = np.random.default_rng([job.seed, job.index, drive])
        moments = record_drive(
            Road(track_seed),
            appearance_named(plan.appearance),
            config.camera,
            config.recording,
            rng,
        )
        last_s = 0.0
        for _ in range(frames):
            moment = next(moments)
            last_s = moment.time_s
            tub.append(
                TubRecord(
                    picture_HWC=moment.picture_HWC,
                    angle=moment.steering,
                    throttle=moment.throttle,
                    session_id=f"26-01-01_{drive}",
                    timestamp_ms=round((clock_s + moment.time_s) * 1000),
                )
            )
        clock_s += math.ceil(last_s) + PAUSE_S
    tub.close()


def _spread(total: int, parts: int) -> list[int]:
    """`total` in `parts` whole numbers that differ by one at most."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def _holds(out: Path, key: str) -> bool:
    try:
        stored = json.loads((out / FLEET_FILE).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(stored, dict) and stored.get("key") == key


def _write_fleet_file(path: Path, key: str, seed: int, plans: tuple[VehiclePlan, ...]) -> None:
    vehicles = [dataclasses.asdict(plan) for plan in plans]
    path.write_text(json.dumps({"key": key, "seed": seed, "vehicles": vehicles}, indent=1) + "\n")


def _move_into_place(building: Path, out: Path, key: str) -> None:
    try:
        building.replace(out)
    except OSError:
        # Somebody else may have recorded the same fleet meanwhile; theirs is as good.
        if not _holds(out, key):
            raise
