"""Record an expert who is pushed off its line now and then, so that recovering can be learned.

Source: Laskey et al., DART: Noise Injection for Robust Imitation Learning, CoRL 2017, section 3:
the steering is disturbed, the label stays what the expert wanted.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from convoy_simulation.roads.appearance import Appearance
from convoy_simulation.roads.camera import CameraSize, picture
from convoy_simulation.roads.car_racing import STEPS_PER_S, Command, Road
from convoy_simulation.roads.expert import ExpertConfig, PurePursuit


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingConfig:
    """How a drive is recorded.

    Attributes:
        physics_steps: Fiftieths of a second from one picture to the next.
        skip_s: Most seconds driven before the first picture; the actual time is drawn at random,
            so that drives do not all show the start of a lap.
        disturbances_per_s: Pushes to the steering each second; 0 records a perfect drive.
        disturbance_size: Standard deviation of a push, in units of steering.
        min_disturbance_s: Shortest push.
        max_disturbance_s: Longest push.
        expert: Who drives.
    """

    physics_steps: int = 3
    skip_s: float = 10.0
    disturbances_per_s: float = 0.75
    disturbance_size: float = 0.8
    min_disturbance_s: float = 0.12
    max_disturbance_s: float = 0.32
    expert: ExpertConfig = field(default_factory=ExpertConfig)

    def __post_init__(self) -> None:
        if self.physics_steps < 1:
            raise ValueError(f"physics_steps must be at least 1, got {self.physics_steps}")
        for name in ("skip_s", "disturbances_per_s", "disturbance_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 < self.min_disturbance_s <= self.max_disturbance_s:
            raise ValueError(
                "min_disturbance_s must be positive and at most max_disturbance_s "
                f"({self.max_disturbance_s}), got {self.min_disturbance_s}"
            )


@dataclass(frozen=True, slots=True)
class Moment:
    """A picture and what the expert wanted to do.

    Attributes:
        picture_HWC: uint8 RGB.
        steering: -1 full left to +1 full right.
        throttle: Gas minus brake.
        time_s: Since the start of the drive.
    """

    picture_HWC: NDArray[np.uint8]
    steering: float
    throttle: float
    time_s: float


def record_drive(
    road: Road,
    appearance: Appearance,
    size: CameraSize,
    config: RecordingConfig,
    rng: np.random.Generator,
) -> Iterator[Moment]:
    """Drive round and round; take as many moments as you like."""
    expert = PurePursuit(road.track, config.expert)
    ground = road.ground_map()
    disturbance = _Disturbance(config, rng)
    for _ in range(int(rng.uniform(1.0, max(1.0, config.skip_s)) * STEPS_PER_S)):
        road.step(expert.act(road.pose, road.speed_mps))
    step = 0
    while True:
        command = expert.act(road.pose, road.speed_mps)
        if step % config.physics_steps == 0:
            clean_HWC = picture(ground, road.pose, appearance.mount, size)
            yield Moment(
                picture_HWC=appearance.develop(clean_HWC, rng),
                steering=command.steering,
                throttle=command.gas - command.brake,
                time_s=step / STEPS_PER_S,
            )
        steering = min(1.0, max(-1.0, command.steering + disturbance.next()))
        road.step(Command(steering, command.gas, command.brake))
        step += 1


class _Disturbance:
    """Pushes of random size that begin at random and last a few steps."""

    def __init__(self, config: RecordingConfig, rng: np.random.Generator) -> None:
        self._config = config
        self._rng = rng
        self._left = 0
        self._push = 0.0

    def next(self) -> float:
        """The push for one physics step."""
        if self._left > 0:
            self._left -= 1
            return self._push
        if self._rng.random() < self._config.disturbances_per_s / STEPS_PER_S:
            length_s = self._rng.uniform(
                self._config.min_disturbance_s, self._config.max_disturbance_s
            )
            self._left = round(length_s * STEPS_PER_S)
            self._push = float(self._rng.normal(0.0, self._config.disturbance_size))
        return 0.0
