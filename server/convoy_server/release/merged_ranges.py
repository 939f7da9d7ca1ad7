"""Calibration without a frame: the ranges that vehicles saw become one, by the median.

A min-max merge is what one vehicle decides: in our trial one that told 1e4 left 0.02 of 0.81 accuracy.
With a median each bound lies within those of the honest vehicles as long as these are the majority.
Source: Yin et al., ICML 2018 (coordinate-wise median).
"""

# Shapes: V vehicles, T tensors.

import logging
from collections.abc import Mapping
from typing import Final

import numpy as np

from convoy_compression.model.errors import CalibrationError
from convoy_compression.model.tensor_ranges import TensorRanges

logger = logging.getLogger(__name__)

FEWEST_VEHICLES: Final = 3
"""The median of two is their mean: either of them could move it anywhere."""


def merge_ranges(told: Mapping[str, TensorRanges], names: tuple[str, ...]) -> TensorRanges:
    """The median of every bound.

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
    return TensorRanges(
        names=names,
        low_T=np.median(lows_VT, axis=0).astype(np.float32),
        high_T=np.median(highs_VT, axis=0).astype(np.float32),
    )
