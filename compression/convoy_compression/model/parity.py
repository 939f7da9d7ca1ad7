"""How far two drivers differ on the same frames: ONNX against torch, int8 against float32."""

# Shapes: N frames, B of them at a time, H height, W width, 3 channels in, 3 steering classes out.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Driver = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""frames_BHWC -> steering probabilities (B, 3) and throttle (B,)."""

_BATCH: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Two drivers on the same frames.

    Attributes:
        frames: How many were shown.
        max_difference: Largest absolute difference of any probability or throttle; NaN where
            either driver says NaN.
        class_agreement: Share of frames with the same likeliest steering class.
        mean_steering_change: Mean absolute difference of the steering in [-1, 1], probability of
            right less probability of left; NaN where either driver says NaN.
    """

    frames: int
    max_difference: float
    class_agreement: float
    mean_steering_change: float


def compare(reference: Driver, candidate: Driver, frames_NHWC: NDArray[np.uint8]) -> Parity:
    """Show both drivers every frame.

    Raises:
        ValueError: There is no frame.
    """
    if not len(frames_NHWC):
        raise ValueError("parity needs at least one frame, got none")
    largest, agreed, steering_change = 0.0, 0, 0.0
    for start in range(0, len(frames_NHWC), _BATCH):
        frames_BHWC = frames_NHWC[start : start + _BATCH]
        steering_B3, throttle_B = reference(frames_BHWC)
        other_steering_B3, other_throttle_B = candidate(frames_BHWC)
        difference = np.maximum(
            np.abs(steering_B3 - other_steering_B3).max(),
            np.abs(throttle_B - other_throttle_B).max(),
        )
        largest = float(np.maximum(largest, difference))  # unlike max(), keeps NaN
        steering_change += float(
            np.abs(_steering(steering_B3) - _steering(other_steering_B3)).sum()
        )
        agreed += int((steering_B3.argmax(1) == other_steering_B3.argmax(1)).sum())
    return Parity(
        frames=len(frames_NHWC),
        max_difference=largest,
        class_agreement=agreed / len(frames_NHWC),
        mean_steering_change=steering_change / len(frames_NHWC),
    )


def _steering(probabilities_B3: NDArray[np.float32]) -> NDArray[np.float32]:
    return probabilities_B3[:, 2] - probabilities_B3[:, 0]
