"""One car on one random track: gymnasium's CarRacing-v3 with the drawing taken out.

CarRacing draws hundreds of polygons after every physics step, which is 98 % of its time. Here the
track is painted once (`ground_map`) and a picture is taken only when asked for (`camera`).

Signs and units: steering -1 full left, +1 full right; metres (the road is 13.3 wide); 50 physics
steps a second. One seed gives one track and, with the same commands, one drive.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from convoy_simulation.roads.camera import GroundMap, Pose

with warnings.catch_warnings():
    # Box2D's generated bindings warn once when they are imported; nothing here can change that.
    warnings.simplefilter("ignore", DeprecationWarning)
    from gymnasium.envs.box2d import car_racing

STEPS_PER_S = int(car_racing.FPS)
ROAD_HALF_WIDTH_M = float(car_racing.TRACK_WIDTH)
POINT_SPACING_M = float(car_racing.TRACK_DETAIL_STEP)
MAP_PIXELS_PER_M = 4.0


@dataclass(frozen=True, slots=True)
class Command:
    """What is done with wheel and pedals: steering in [-1, 1], gas and brake in [0, 1]."""

    steering: float
    gas: float
    brake: float


@dataclass(frozen=True, slots=True)
class Track:
    """The centre line of a closed road, in driving direction.

    Attributes:
        centre_T2: float64, shape (T, 2), metres, one point each 3.5 m.
        heading_T: float64, radians, 0 along +y, positive to the left.
    """

    centre_T2: NDArray[np.float64]
    heading_T: NDArray[np.float64]


class Road:
    """A car at rest on the start line of the track that `track_seed` makes."""

    def __init__(self, track_seed: int) -> None:
        # Any: gymnasium's car is optional until reset, and Box2D has no types.
        self._world: Any = _UndrawnCarRacing()
        self._world.reset(seed=track_seed)
        points = np.array(self._world.track, np.float64)
        self.track = Track(centre_T2=points[:, 2:4], heading_T=points[:, 1])

    @property
    def pose(self) -> Pose:
        """Position and heading of the car."""
        hull = self._world.car.hull
        return Pose(float(hull.position[0]), float(hull.position[1]), float(hull.angle))

    @property
    def speed_mps(self) -> float:
        """Speed over ground."""
        velocity = self._world.car.hull.linearVelocity
        return math.hypot(velocity[0], velocity[1])

    @property
    def on_road(self) -> bool:
        """Whether any wheel touches the road."""
        return any(wheel.tiles for wheel in self._world.car.wheels)

    @property
    def track_covered(self) -> float:
        """Share of the track's tiles that a wheel has touched, in [0, 1]."""
        return float(self._world.tile_visited_count / len(self._world.track))

    def step(self, command: Command) -> tuple[float, bool]:
        """Let a fiftieth of a second pass.

        Returns:
            CarRacing's reward, and whether the drive is over (lap done, or far outside).
        """
        action = np.array([command.steering, command.gas, command.brake])
        _, reward, ended, _, _ = self._world.step(action)
        return float(reward), bool(ended)

    def ground_map(self) -> GroundMap:
        """Paint the track with its grass and kerbs; about 20 ms, once a track."""
        return _paint(self._world)


class _UndrawnCarRacing(car_racing.CarRacing):
    """CarRacing that never draws, hence needs neither a display nor SDL's environment variables."""

    def _render(self, mode: str) -> None:
        """Called after every physics step."""


_FIELD, _GRASS, _KERB_WHITE, _KERB_RED, _FIRST_ASPHALT = range(5)


def _paint(world: Any) -> GroundMap:
    side_px = int(2 * car_racing.PLAYFIELD * MAP_PIXELS_PER_M)
    # Neighbouring tiles differ a little in shade; CarRacing repeats three of them.
    asphalt_KC = [world.road_color + 0.01 * shade * 255 for shade in range(3)]
    palette_KC = np.array(
        [world.bg_color, world.grass_color, (255, 255, 255), (255, 0, 0), *asphalt_KC]
    ).astype(np.uint8)
    image = Image.new("L", (side_px, side_px), _FIELD)
    draw = ImageDraw.Draw(image)
    for low_x in range(-20, 20, 2):
        for low_y in range(-20, 20, 2):
            corner = np.array([low_x, low_y]) * car_racing.GRASS_DIM
            square = _to_map(np.stack([corner, corner + car_racing.GRASS_DIM]), side_px)
            draw.rectangle(square, fill=_GRASS)
    tile = 0
    for corners, colour in world.road_poly:
        if isinstance(colour, tuple):
            paint = _KERB_WHITE if colour == (255, 255, 255) else _KERB_RED
        else:
            paint = _FIRST_ASPHALT + tile % 3
            tile += 1
        draw.polygon(_to_map(np.array(corners), side_px), fill=paint)
    return GroundMap(np.asarray(image), palette_KC, MAP_PIXELS_PER_M)


def _to_map(points_P2: NDArray[np.float64], side_px: int) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points_P2 * MAP_PIXELS_PER_M + side_px / 2]
