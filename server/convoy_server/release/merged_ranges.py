"""Calibration without a frame: the ranges that vehicles saw become one that no minority decides.

A plain min-max merge is what one vehicle decides: in our trial one that told 1e4 left 0.02 of 0.81
accuracy. The plain median is safe, but cuts off what half of an honest fleet sees: with six kinds of
camera it doubled the error of the int8 model (mean change of steering 0.0097 against 0.0049). So each
bound is the outermost one after the outermost quarter is dropped, and never further beyond the median
range than that is wide:

    liars up to a quarter     each bound is within those of honest vehicles
    liars up to a half        the range is at most three times the median one: it costs 1.6 of 8 bits

Source: Yin et al., ICML 2018 (coordinate-wise median, trimmed mean).
"""

# Shapes: V vehicles, T tensors.

import logging
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from convoy_compression.model.errors import CalibrationError
from convoy_compression.model.tensor_ranges import TensorRanges

logger = logging.getLogger(__name__)

FEWEST_VEHICLES: Final = 3
"""The median of two is their mean: either of them could move it anywhere."""


def merge_ranges(told: Mapping[str, TensorRanges], names: tuple[str, ...]) -> TensorRanges:
    """One range for each tensor; see the top of the file.

    Args:
        told: By vehicle.
        names: The tensors of the network, in any order; who tells others is left out and logged.

    Raises:
        CalibrationError: Fewer than FEWEST_VEHICLES told about this network.
    """
    lows_VT, highs_VT = [], []
    for vehicle_id, ranges in told.items():
        places = {name: place for place, name in enumerate(ranges.names)}
        if places.keys() != set(names) or len(ranges.names) != len(names):
            logger.warning("calibration: %s told the ranges of another network", vehicle_id)
            continue
        order = [places[name] for name in names]
        lows_VT.append(ranges.low_T[order])
        highs_VT.append(ranges.high_T[order])
    if len(lows_VT) < FEWEST_VEHICLES:
        raise CalibrationError(
            f"expected the ranges of at least {FEWEST_VEHICLES} vehicles, got {len(lows_VT)}: wait "
            'until more are there, or set [release] calibration = "proxy"'
        )
    low_T, high_T = _robust_bounds(np.stack(lows_VT), np.stack(highs_VT))
    return TensorRanges(names=names, low_T=low_T, high_T=high_T)


def _robust_bounds(
    lows_VT: NDArray[np.float32], highs_VT: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    dropped = max(1, len(lows_VT) // 4)
    median_low_T = np.median(lows_VT, axis=0)
    median_high_T = np.median(highs_VT, axis=0)
    width_T = median_high_T - median_low_T
    low_T = np.maximum(np.sort(lows_VT, axis=0)[dropped], median_low_T - width_T)
    high_T = np.minimum(np.sort(highs_VT, axis=0)[-1 - dropped], median_high_T + width_T)
    return low_T.astype(np.float32), high_T.astype(np.float32)
