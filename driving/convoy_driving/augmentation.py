"""Cheap changes to a batch of frames that keep or correct the label.

Source of shift and mirror: Bojarski et al., "End to End Learning for Self-Driving Cars", 2016.
Everything happens on uint8 before the batch goes to the device, whole batch at a time.
"""

# Shapes: B batch, H height, W width, 3 colour channels.

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Frames with their labels; brightness is applied when the frames become floats.

    Attributes:
        frames_BHWC: uint8, RGB.
        steering_B: -1 full left to +1 full right.
        throttle_B: -1 full reverse to +1 full ahead.
        brightness_B: Factor on each frame's values; 1 leaves it as it is.
        weights_B: Weight of each example's steering error in the loss.
    """

    frames_BHWC: NDArray[np.uint8]
    steering_B: NDArray[np.float32]
    throttle_B: NDArray[np.float32]
    brightness_B: NDArray[np.float32]
    weights_B: NDArray[np.float32]


def mirror(
    frames_BHWC: NDArray[np.uint8],
    steering_B: NDArray[np.float32],
    chosen_B: NDArray[np.bool_],
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Swap left and right of the chosen frames and negate their steering."""
    mirrored_BHWC = frames_BHWC.copy()
    mirrored_BHWC[chosen_B] = frames_BHWC[chosen_B, :, ::-1]
    return mirrored_BHWC, np.where(chosen_B, -steering_B, steering_B)


def shift(
    frames_BHWC: NDArray[np.uint8],
    steering_B: NDArray[np.float32],
    pixels_B: NDArray[np.int64],
    steering_per_width: float,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Move each frame sideways, as if the car stood beside its line, and steer back.

    A positive number of pixels moves the picture to the left: the car stands further right, sees
    the road further left, and has to steer further left. Edge columns are repeated.

    Args:
        frames_BHWC: uint8.
        steering_B: -1 full left to +1 full right.
        pixels_B: Of magnitude below the frame's width.
        steering_per_width: Steering that a shift by the whole width would call for.
    """
    reach = int(np.abs(pixels_B).max(initial=0))
    width = frames_BHWC.shape[2]
    padded_BHWC = np.pad(frames_BHWC, ((0, 0), (0, 0), (reach, reach), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded_BHWC, width, axis=2)
    shifted_BHCW = windows[np.arange(len(frames_BHWC)), :, reach + pixels_B]
    correction_B = (steering_per_width / width * pixels_B).astype(np.float32)
    steered_B = np.clip(steering_B - correction_B, -1.0, 1.0)
    return shifted_BHCW.swapaxes(2, 3), steered_B
