"""Section [closed_loop]: let drivers drive on tracks that nobody trained on, and score the drives.

What a drive is, the same for every driver:
  - The driver only steers. A governor holds the speed: a single picture does not show speed.
  - A learned driver sees its camera's picture, cropped and resized as in training, on one thread;
    its steering is (probability of right - probability of left) * gain. The expert sees the track.
  - Off the road means: no wheel touches it.
  - The drive ends when the lap is done, when the time is up, or `give_up_s` after leaving the road
    for good; the time not driven after giving up counts as standing off the road.
"""

# Shapes: T decisions of a drive; HWC one picture; B3 probabilities of left, straight, right.

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convoy_driving.data_config import DataConfig
from convoy_driving.onnx_driver import OnnxDriver
from convoy_driving.pictures import fit
from convoy_protos.errors import UsageError
from convoy_simulation.roads.appearance import Appearance, appearance_named
from convoy_simulation.roads.camera import CameraSize, picture
from convoy_simulation.roads.car_racing import STEPS_PER_S, Command, Road
from convoy_simulation.roads.expert import ExpertConfig, PurePursuit
from convoy_simulation.worker_pool import Progress, no_progress, run_jobs

EXPERT = "expert"

# CarRacing's reward for a fiftieth of a second in which nothing happens.
IDLE_REWARD = -0.1

Predictor = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""frames_BHWC -> probabilities of left, straight, right (B, 3) and throttle (B,)."""

DriverSource = Path | Callable[[], Predictor]
"""An ONNX file, or something that can be pickled and makes a predictor when called."""

Steer = Callable[[], float]
"""Looks and decides: steering from -1 full left to +1 full right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoopConfig:
    """How drivers are tried.

    Attributes:
        enabled: Drive at all.
        track_seeds: Tracks, one drive each; none that a vehicle has recorded.
        appearances: Cameras to drive with; empty takes those of the fleet. See `roads.appearance`.
        speed_mps: Speed held by the governor.
        physics_steps: Fiftieths of a second from one decision to the next.
        steering_gain: Steering at full certainty of one side.
        max_s: Longest drive, in simulated seconds.
        give_up_s: A drive ends this long after the car has left the road for good.
        workers: Processes; 0 is one a core.
    """

    enabled: bool = True
    track_seeds: tuple[int, ...] = (11, 12, 13, 14, 15)
    appearances: tuple[str, ...] = ()
    speed_mps: float = 45.0
    physics_steps: int = 4
    steering_gain: float = 0.28
    max_s: float = 28.0
    give_up_s: float = 2.0
    workers: int = 0

    def __post_init__(self) -> None:
        if not self.track_seeds or min(self.track_seeds) < 0:
            raise ValueError(f"track_seeds must be one or more seeds, got {self.track_seeds}")
        for name in self.appearances:
            appearance_named(name)
        for name in ("speed_mps", "steering_gain", "max_s", "give_up_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.physics_steps < 1:
            raise ValueError(f"physics_steps must be at least 1, got {self.physics_steps}")
        if self.workers < 0:
            raise ValueError(f"workers must not be negative, got {self.workers}")


@dataclass(frozen=True, slots=True)
class Drive:
    """One drive on one track.

    Attributes:
        track_seed: Which track.
        track_covered: Share of the track before first leaving the road, in [0, 1].
        off_road_share: Share of the time off the road.
        return_: Sum of CarRacing's rewards.
        path_T2: float32, positions in metres, one each decision.
        left_road_at: Index into path_T2 where the car first left the road; None if it never did.
    """

    track_seed: int
    track_covered: float
    off_road_share: float
    return_: float
    path_T2: NDArray[np.float32]
    left_road_at: int | None


@dataclass(frozen=True, slots=True)
class ClosedLoopResult:
    """Everybody's drives.

    Attributes:
        drives: By appearance, then by driver, in the order of the track seeds.
    """

    drives: Mapping[str, Mapping[str, tuple[Drive, ...]]]

    def report(self) -> dict[str, dict[str, dict[str, float]]]:
        """Means over the tracks, as in report.json "closed_loop"."""
        return {
            appearance: {driver: _means(drives) for driver, drives in by_driver.items()}
            for appearance, by_driver in self.drives.items()
        }

    def track_covered(self, driver: str, appearances: Sequence[str] | None = None) -> float:
        """Mean over tracks and appearances (None: all that it drove under)."""
        chosen = (
            self.drives if appearances is None else {key: self.drives[key] for key in appearances}
        )
        return fmean(
            drive.track_covered
            for by_driver in chosen.values()
            for drive in by_driver.get(driver, ())
        )


def closed_loop_scores(
    drivers: Mapping[str, DriverSource],
    config: ClosedLoopConfig,
    appearances: Sequence[str],
    data: DataConfig,
    *,
    camera: CameraSize | None = None,
    expert: bool = True,
    seed: int = 0,
    progress: Progress = no_progress,
) -> ClosedLoopResult:
    """Let every driver drive under every appearance on every track.

    Args:
        drivers: By name, as the report shall call them.
        config: How they are tried.
        appearances: The fleet's; config.appearances comes first if it names any.
        data: How the camera's picture becomes the frame that the drivers were trained on.
        camera: Size of the camera's picture; None is the default size.
        expert: Let the expert drive too. It does not look through the camera: once for all.
        seed: Of the cameras' noise.
        progress: Called with jobs done and jobs in all; a job is one driver under one appearance.
    """
    chosen = config.appearances or tuple(dict.fromkeys(appearances))
    jobs = [
        _Job(name, source, appearance, config, data, camera or CameraSize(), seed)
        for appearance in chosen
        for name, source in drivers.items()
    ]
    if expert:
        jobs.append(_Job(EXPERT, None, chosen[0], config, data, camera or CameraSize(), seed))
    outcomes = run_jobs(_drive_all_tracks, jobs, config.workers, progress)
    drives: dict[str, dict[str, tuple[Drive, ...]]] = {appearance: {} for appearance in chosen}
    for job, outcome in zip(jobs, outcomes, strict=True):
        for appearance in chosen if job.source is None else (job.appearance,):
            drives[appearance][job.driver] = outcome
    return ClosedLoopResult(drives)


def drive_closed_loop(road: Road, steer: Steer, config: ClosedLoopConfig, track_seed: int) -> Drive:
    """One drive from the start line.

    Args:
        road: Fresh; is driven on.
        steer: Whoever is tried.
        config: How.
        track_seed: What `road` was made of, for the record.
    """
    limit, patience = (round(seconds * STEPS_PER_S) for seconds in (config.max_s, config.give_up_s))
    path: list[tuple[float, float]] = []
    covered: float | None = None
    left_road_at: int | None = None
    total_reward, off_road_steps, off_road_in_a_row, steps, steering = 0.0, 0, 0, 0, 0.0
    ended = False
    while not ended and steps < limit and off_road_in_a_row < patience:
        if steps % config.physics_steps == 0:
            path.append((road.pose.x_m, road.pose.y_m))
            steering = min(1.0, max(-1.0, steer()))
        reward, ended = road.step(hold_speed(steering, road.speed_mps, config.speed_mps))
        steps += 1
        total_reward += reward
        off_road_in_a_row = 0 if road.on_road else off_road_in_a_row + 1
        off_road_steps += not road.on_road
        if covered is None and not road.on_road:
            covered, left_road_at = road.track_covered, len(path) - 1
    not_driven = limit - steps if off_road_in_a_row >= patience else 0
    return Drive(
        track_seed=track_seed,
        track_covered=road.track_covered if covered is None else covered,
        off_road_share=(off_road_steps + not_driven) / (steps + not_driven),
        return_=total_reward + IDLE_REWARD * not_driven,
        path_T2=np.array(path, np.float32),
        left_road_at=left_road_at,
    )


def hold_speed(steering: float, speed_mps: float, wanted_mps: float) -> Command:
    """The governor: gas below the wanted speed, brake well above it."""
    return Command(
        steering=steering,
        gas=min(max((wanted_mps - speed_mps) / 10, 0.0), 0.4),
        brake=min(max((speed_mps - wanted_mps - 5) / 20, 0.0), 0.5),
    )


def camera_steering(
    road: Road,
    predict: Predictor,
    *,
    appearance: Appearance,
    data: DataConfig,
    camera: CameraSize,
    gain: float,
    rng: np.random.Generator,
) -> Steer:
    """A driver that looks through a camera on the road's car and asks a model."""
    ground = road.ground_map()

    def steer() -> float:
        clean_HWC = picture(ground, road.pose, appearance.mount, camera)
        seen_HWC = appearance.develop(clean_HWC, rng)
        frame_HWC = fit(Image.fromarray(seen_HWC), data)
        probabilities_B3, _ = predict(frame_HWC[None])
        return float(probabilities_B3[0, 2] - probabilities_B3[0, 0]) * gain

    return steer


def expert_steering(road: Road) -> Steer:
    """The expert, who sees the track itself; only its steering is used."""
    expert = PurePursuit(road.track, ExpertConfig())
    return lambda: expert.act(road.pose, road.speed_mps).steering


@dataclass(frozen=True, slots=True)
class _Job:
    """One driver under one appearance on all tracks; source None is the expert."""

    driver: str
    source: DriverSource | None
    appearance: str
    config: ClosedLoopConfig
    data: DataConfig
    camera: CameraSize
    seed: int


def _drive_all_tracks(job: _Job) -> tuple[Drive, ...]:
    predict = None if job.source is None else open_driver(job.source, job.data)
    drives = []
    for track_seed in job.config.track_seeds:
        road = Road(track_seed)
        if predict is None:
            steer = expert_steering(road)
        else:
            steer = camera_steering(
                road,
                predict,
                appearance=appearance_named(job.appearance),
                data=job.data,
                camera=job.camera,
                gain=job.config.steering_gain,
                rng=np.random.default_rng([job.seed, track_seed]),
            )
        drives.append(drive_closed_loop(road, steer, job.config, track_seed))
    return tuple(drives)


def open_driver(source: DriverSource, data: DataConfig) -> Predictor:
    """Load the ONNX file, or call the factory.

    Raises:
        UsageError: The file wants frames of another size than `data` says.
    """
    if not isinstance(source, Path):
        return source()
    driver = OnnxDriver(source)
    wanted, given = (
        (driver.frame_height, driver.frame_width),
        (data.frame_height, data.frame_width),
    )
    if any(want not in (None, give) for want, give in zip(wanted, given, strict=True)):
        raise UsageError(
            f"{source}: sees frames of {wanted[0]}x{wanted[1]}, but [data] frame_height and "
            f"frame_width are {given[0]}x{given[1]}; set them to the model's"
        )
    return driver.predict


def _means(drives: Sequence[Drive]) -> dict[str, float]:
    return {
        "track_covered": fmean(drive.track_covered for drive in drives),
        "off_road_share": fmean(drive.off_road_share for drive in drives),
        "return": fmean(drive.return_ for drive in drives),
    }
