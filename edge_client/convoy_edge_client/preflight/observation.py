"""Run an observer that a server sent on this vehicle's frames; in a process of its own (worker.py).

The observer is looked at as hostile, as any ONNX file: the same operators, no constant from elsewhere,
and no outputs but two rows of numbers.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from convoy_compression.model.errors import CalibrationError
from convoy_compression.model.tensor_ranges import HIGH, LOW, observe
from convoy_edge_client.preflight.model_file import Contract, examine
from convoy_edge_client.preflight.preflight_config import FileLimits
from convoy_protos.findings import problems

OBSERVER_FILE: Final = "observer.onnx"
FRAMES_FILE: Final = "frames.npy"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserveOrder:
    """What to run.

    Attributes:
        folder: With the observer and the frames, uint8 (N, H, W, 3).
        limits: What the observer may hold.
    """

    folder: str
    limits: FileLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What came of it.

    Attributes:
        fault: Why there are no ranges, one line; empty: there are.
        low: Smallest value of each tensor, in the observer's order.
        high: Largest value.
    """

    fault: str = ""
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


def observe_frames(order: ObserveOrder) -> Observed:
    """Examine the observer, then run it."""
    folder = Path(order.folder)
    observer = (folder / OBSERVER_FILE).read_bytes()
    frames_NHWC = np.load(folder / FRAMES_FILE, allow_pickle=False)
    _, height, width, _ = frames_NHWC.shape
    contract = Contract(height, width, {LOW: (None,), HIGH: (None,)}, None)
    found = problems(examine(observer, "observer", contract, order.limits))
    if found:
        return Observed(fault=f"{found[0].subject}: {found[0].message}")
    try:
        ranges = observe(observer, frames_NHWC)
    except CalibrationError as error:
        return Observed(fault=str(error).splitlines()[0])
    return Observed(low=tuple(ranges.low_T.tolist()), high=tuple(ranges.high_T.tolist()))
