"""Which frames of a vehicle are held back: whole laps or blocks of time, never random frames.

Neighbouring frames are almost the same picture. A random split would put a twin of every held
frame into the training part, and the score would tell nothing about the next lap.
"""

# Shapes: N frames of one vehicle in the order of recording.

import math

import numpy as np
from numpy.typing import NDArray

from convoy_driving.data_config import DataConfig

Indices = NDArray[np.int64]

LEAST_FRAMES_OF_A_CLASS = 5
"""A part "has" a class from this many frames on, or when it has all there are."""


def split(
    lap_N: NDArray[np.int32],
    classes_N: NDArray[np.int64],
    training_only_N: NDArray[np.bool_],
    config: DataConfig,
) -> tuple[Indices, Indices]:
    """Indices of the training and of the held-back frames, both ascending.

    Every k-th unit is held back, a unit being a lap where there are enough laps and a contiguous
    block otherwise. Of the possible first units the one is taken with which both parts have most
    classes; among equals, the last.
    """
    units_N = _units(lap_N, config)
    unit_count = int(units_N[-1]) + 1 if len(units_N) else 0
    held_count = round(unit_count * config.held_share)
    if config.held_share > 0 and unit_count >= 2:
        held_count = min(max(1, held_count), unit_count - 1)
    candidates = [np.isin(units_N, chosen) for chosen in _evenly_spread(unit_count, held_count)]
    held_N = max(candidates, key=lambda held: _classes_covered(held, classes_N))
    train_N = ~_widened(held_N, config.guard_frames)
    return (
        np.flatnonzero(train_N).astype(np.int64),
        np.flatnonzero(held_N & ~training_only_N).astype(np.int64),
    )


def _units(lap_N: NDArray[np.int32], config: DataConfig) -> NDArray[np.int64]:
    """Number of the lap, or of the block where the laps are too few to hold back a share of them."""
    laps = np.unique(lap_N)
    if len(laps) >= config.blocks:
        return np.searchsorted(laps, lap_N).astype(np.int64)
    count = len(lap_N)
    return np.arange(count, dtype=np.int64) * min(config.blocks, count) // max(1, count)


def _evenly_spread(unit_count: int, held_count: int) -> list[list[int]]:
    """Choices of held_count units at even distances, the one that ends with the last unit first."""
    if held_count == 0:
        return [[]]
    distance = unit_count / held_count
    return [
        [math.ceil((k + 1) * distance) - 1 - back for k in range(held_count)]
        for back in range(math.floor(distance))
    ]


def _classes_covered(held_N: NDArray[np.bool_], classes_N: NDArray[np.int64]) -> int:
    """How many classes have enough frames on both sides."""
    total_3 = np.bincount(classes_N, minlength=3)
    held_3 = np.bincount(classes_N[held_N], minlength=3)
    needed_3 = np.minimum(LEAST_FRAMES_OF_A_CLASS, total_3 // 2)
    enough_3 = (held_3 >= needed_3) & (total_3 - held_3 >= needed_3) & (total_3 > 0)
    return int(enough_3.sum())


def _widened(held_N: NDArray[np.bool_], margin: int) -> NDArray[np.bool_]:
    """The held frames and `margin` frames on either side of each run of them."""
    widened_N = held_N.copy()
    for step in range(1, margin + 1):
        widened_N[step:] |= held_N[:-step]
        widened_N[:-step] |= held_N[step:]
    return widened_N
