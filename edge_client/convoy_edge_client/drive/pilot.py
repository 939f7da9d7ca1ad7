"""ConvoyPilot: a part for Donkeycar's vehicle loop. It drives, updates itself and goes back by itself.

    from convoy_edge_client.drive.pilot import ConvoyPilot

    V.add(ConvoyPilot("drive.toml"), inputs=["cam/image_array", "user/mode"],
          outputs=["pilot/angle", "pilot/throttle"])

Donkeycar's angle is ours: -1 full left to +1 full right. While its mode is "user", a person drives, and a new
model may take the wheel (swap_window = "disengaged").
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convoy_edge_client.drive.drive_toml import load_drive_toml
from convoy_edge_client.drive.trial_rules import VehicleMoment
from convoy_edge_client.drive.vehicle import Vehicle

USER_MODE = "user"


class ConvoyPilot:
    """A Donkeycar part."""

    def __init__(self, config: str = "drive.toml") -> None:
        """Load the model.

        Args:
            config: Path of drive.toml.

        Raises:
            SettingsError: The file is missing or wrong.
            FactoryModelError: No model can be loaded.
        """
        self._vehicle = Vehicle(load_drive_toml(Path(config)), Path(config))
        self._vehicle.start()

    def run(self, image: NDArray[np.uint8] | None, mode: str | None = None) -> tuple[float, float]:
        """Steering and throttle for a picture; (0, 0) before there is one.

        Args:
            image: uint8 (height, width, 3), RGB.
            mode: Of Donkeycar: "user", "local_angle" or "local".

        Raises:
            InferenceError: The factory's model fails.
        """
        if image is None:
            return 0.0, 0.0
        self._vehicle.wheel.tell(VehicleMoment(engaged=None if mode is None else mode != USER_MODE))
        answer = self._vehicle.wheel.answer(image)
        return answer.steering, answer.throttle

    def shutdown(self) -> None:
        """Donkeycar calls it at the end."""
        self._vehicle.close()
