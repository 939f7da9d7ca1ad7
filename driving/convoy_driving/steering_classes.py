"""Steering in three classes (0 left, 1 straight, 2 right) or fifteen bins."""

# Shapes: N or B examples.

import numpy as np
from numpy.typing import NDArray

CLASS_NAMES = ("left", "straight", "right")
CLASS_ANGLES = (-1.0, 0.0, 1.0)
"""Steering that each class stands for: what a vehicle makes of the probabilities is their mean."""
BINS = 15


def classes_of(steering_N: NDArray[np.float32], threshold: float) -> NDArray[np.int64]:
    """Class of each steering value; a magnitude below the threshold is straight."""
    right_N = (steering_N >= np.float32(threshold)).astype(np.int64)
    left_N = (steering_N <= np.float32(-threshold)).astype(np.int64)
    return 1 + right_N - left_N


def class_of(steering: float, threshold: float) -> int:
    """Class of one steering value."""
    return int(classes_of(np.array([steering], np.float32), threshold)[0])


def bins_of(steering_N: NDArray[np.float32]) -> NDArray[np.int64]:
    """The bin of each steering value: bin s stands for (s - 7) / 7, as in Donkeycar."""
    half = BINS // 2
    return np.rint(np.clip(steering_N, -1.0, 1.0) * half).astype(np.int64) + half
