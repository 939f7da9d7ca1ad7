"""What a vehicle tells for the calibration of int8 models: the range of each tensor, no frame.

The server sends the network as an observer (`range_observer`): an ONNX file that answers frames with
the smallest and the largest value of each tensor inside. The vehicle runs it on its private frames
and keeps the extremes. This file needs onnxruntime and numpy alone.
"""

# Shapes: T tensors, N frames, B of them at a time, H height, W width, 3 colour channels.

import json
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from convoy_compression.model.errors import CalibrationError

INPUT: Final = "frames"
LOW: Final = "low"
HIGH: Final = "high"
TENSORS_KEY: Final = "convoy.tensors"
"""The observer's metadata: JSON list of the tensors' names, in the order of its outputs."""

LARGEST: Final = 1e6
"""No sound network holds such values; and nothing wider than this can be a range of one."""

_BATCH: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRanges:
    """The smallest and the largest value of each tensor.

    Attributes:
        names: Of the tensors of the float32 network.
        low_T: float32, finite, at least -LARGEST.
        high_T: float32, finite, at least low_T, at most LARGEST.
    """

    names: tuple[str, ...]
    low_T: NDArray[np.float32]
    high_T: NDArray[np.float32]

    def __post_init__(self) -> None:
        shape = (len(self.names),)
        if self.low_T.shape != shape or self.high_T.shape != shape:
            raise CalibrationError(
                f"expected {len(self.names)} ranges, got {self.low_T.shape} and {self.high_T.shape}"
            )
        # Written so that NaN fails.
        sound_T = (self.low_T >= -LARGEST) & (self.low_T <= self.high_T) & (self.high_T <= LARGEST)
        if not sound_T.all():
            place = int(np.argmin(sound_T))
            raise CalibrationError(
                f"{self.names[place]}: a range from {self.low_T[place]} to {self.high_T[place]}"
            )


def observe(observer: bytes, frames_NHWC: NDArray[np.uint8]) -> TensorRanges:
    """Run an observer over frames.

    Args:
        observer: An ONNX file as `range_observer.observer_of` makes it.
        frames_NHWC: RGB, of the network's size, N at least 1.

    Raises:
        CalibrationError: The file is no observer, the frames have another size, or a tensor held
            NaN, an infinite or an absurd value.
    """
    if not len(frames_NHWC):
        raise ValueError("calibration needs at least one frame, got none")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Optimized away, a tensor could have no range.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    lows_BT, highs_BT = [], []
    try:
        session = onnxruntime.InferenceSession(
            observer, sess_options=options, providers=["CPUExecutionProvider"]
        )
        names = json.loads(session.get_modelmeta().custom_metadata_map[TENSORS_KEY])
        for start in range(0, len(frames_NHWC), _BATCH):
            frames_BHWC = np.ascontiguousarray(frames_NHWC[start : start + _BATCH])
            low_T, high_T = session.run([LOW, HIGH], {INPUT: frames_BHWC})
            lows_BT.append(low_T)
            highs_BT.append(high_T)
    except Exception as error:  # onnxruntime's errors share no public base class
        raise CalibrationError(f"the observer does not run on these frames: {error}") from error
    return TensorRanges(
        names=tuple(map(str, names)), low_T=np.min(lows_BT, axis=0), high_T=np.max(highs_BT, axis=0)
    )
