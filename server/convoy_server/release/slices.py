"""Where a model is good and where it is not: its held-back frames by turn, brightness, vehicle and region."""

# Shapes: M frames held back, 3 steering classes.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from convoy_driving.dataset import DrivingData, PooledDataset, VehicleDataset
from convoy_driving.evaluation import BATCH, Predictor
from convoy_driving.steering_classes import CLASS_ANGLES
from convoy_server.release.proxy import ProxyFrames

By = Literal["turn", "brightness", "vehicle", "region"]

TURNS: Final = ("sharp left", "left", "straight", "right", "sharp right")
BRIGHTNESS: Final = ("dark", "medium", "bright")
"""Mean of all pixels in thirds of 0..255."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One part of the frames.

    Attributes:
        by: What it was cut by.
        name: Of the part.
        frames: In it.
        accuracy: Share whose steering class is right.
        steering_error: Mean difference of the steering, in -1..1, to the recorded one.
    """

    by: By
    name: str
    frames: int
    accuracy: float
    steering_error: float


def slices_of(
    predict: Predictor, frames: ProxyFrames, regions: Mapping[str, str], steering_threshold: float
) -> tuple[Slice, ...]:
    """Every part that has a frame, in a fixed order.

    Args:
        predict: The file that vehicles get.
        frames: The held-back ones are cut.
        regions: By name of the recording; those without one are in no region.
        steering_threshold: Steering of a smaller magnitude is straight.
    """
    held = frames.held_indices
    steering_M = frames.dataset.steering_N[held]
    probabilities_M3 = np.concatenate(
        [
            predict(frames.held_MHWC[start : start + BATCH])[0]
            for start in range(0, len(held), BATCH)
        ]
    )
    right_M = probabilities_M3.argmax(axis=1) == frames.dataset.steering_classes()[held]
    error_M = np.abs(probabilities_M3 @ np.asarray(CLASS_ANGLES, np.float32) - steering_M)
    vehicles = vehicles_of(frames.dataset, held)
    labels: dict[By, tuple[Sequence[str], Sequence[str]]] = {
        "turn": (TURNS, turns_of(steering_M, steering_threshold)),
        "brightness": (BRIGHTNESS, brightness_of(frames.held_MHWC)),
        "vehicle": (sorted(set(vehicles)), vehicles),
        "region": (
            sorted({regions[vehicle] for vehicle in vehicles if vehicle in regions}),
            [regions.get(vehicle, "") for vehicle in vehicles],
        ),
    }
    found = []
    for by, (names, label_M) in labels.items():
        for name in names:
            chosen_M = np.array([label == name for label in label_M])
            if chosen_M.any():
                found.append(
                    Slice(
                        by=by,
                        name=name,
                        frames=int(chosen_M.sum()),
                        accuracy=float(right_M[chosen_M].mean()),
                        steering_error=float(error_M[chosen_M].mean()),
                    )
                )
    return tuple(found)


def turns_of(steering_M: NDArray[np.float32], threshold: float) -> list[str]:
    """The band of TURNS; a turn is sharp from halfway between the threshold and full lock on."""
    sharp = (1.0 + threshold) / 2
    edges = (-sharp, -threshold, threshold, sharp)
    # Exactly at an edge the steering belongs to the larger turn, as in steering_classes.
    size_M = np.searchsorted(edges[2:], np.abs(steering_M), side="right")
    return [
        TURNS[2 + int(np.sign(value)) * int(size)]
        for value, size in zip(steering_M, size_M, strict=True)
    ]


def brightness_of(frames_MHWC: NDArray[np.uint8]) -> list[str]:
    """The band of BRIGHTNESS."""
    mean_M = frames_MHWC.mean(axis=(1, 2, 3))
    place_M = np.minimum((mean_M / 256 * len(BRIGHTNESS)).astype(int), len(BRIGHTNESS) - 1)
    return [BRIGHTNESS[place] for place in place_M]


def vehicles_of(dataset: DrivingData, indices: NDArray[np.int64]) -> list[str]:
    """Whose recording each example comes from; empty where the data does not say."""
    if isinstance(dataset, VehicleDataset):
        return [dataset.vehicle_id] * len(indices)
    if isinstance(dataset, PooledDataset):
        owners = np.searchsorted(dataset.starts, indices, side="right") - 1
        return [dataset.parts[owner].vehicle_id for owner in owners]
    return [""] * len(indices)
