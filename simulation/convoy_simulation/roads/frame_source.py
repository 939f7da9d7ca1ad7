"""A road as a source of frames for `convoy drive`: what the model decides, the car does.

convoy drive --source simulator:11          track 11 by day
convoy drive --source simulator:11,dark     another camera; see roads/appearance.py
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from convoy_edge_client.drive.loaded_model import Answer
from convoy_edge_client.drive.trial_rules import VehicleMoment
from convoy_edge_client.errors import FrameSourceError
from convoy_protos.errors import UsageError
from convoy_simulation.roads.appearance import appearance_named
from convoy_simulation.roads.camera import CameraSize, picture
from convoy_simulation.roads.car_racing import Road
from convoy_simulation.roads.closed_loop import ClosedLoopConfig, hold_speed


class SimulatedRoad:
    """One drive from the start line to the end of the lap; the governor holds the speed.

    Attributes:
        road: Driven on.
    """

    is_live = False

    def __init__(self, what: str, config: ClosedLoopConfig | None = None) -> None:
        """Put the car on the start line.

        Args:
            what: Seed of the track, and the camera's appearance after a comma.
            config: How it is driven; steering_gain is the drive's own.

        Raises:
            FrameSourceError: No such seed or appearance.
        """
        seed, _, name = what.partition(",")
        try:
            track_seed = int(seed)
            self._appearance = appearance_named(name or "day")
        except (UsageError, ValueError) as error:
            raise FrameSourceError(
                f"simulator:{what}: expected SEED or SEED,CAMERA ({error})"
            ) from error
        self.road = Road(track_seed)
        self._config = config or ClosedLoopConfig()
        self._rng = np.random.default_rng(track_seed)
        self._steering = 0.0

    def pictures(self) -> Iterator[NDArray[np.uint8]]:
        """See FrameSource."""
        ground = self.road.ground_map()
        ended = False
        while not ended:
            clean_HWC = picture(ground, self.road.pose, self._appearance.mount, CameraSize())
            yield self._appearance.develop(clean_HWC, self._rng)
            for _ in range(self._config.physics_steps):
                command = hold_speed(self._steering, self.road.speed_mps, self._config.speed_mps)
                _, ended = self.road.step(command)
                if ended:
                    break

    def act(self, answer: Answer) -> None:
        """Turn the wheel."""
        self._steering = answer.steering

    def moment(self) -> VehicleMoment:
        """The model drives."""
        return VehicleMoment(parked=False, engaged=True)
