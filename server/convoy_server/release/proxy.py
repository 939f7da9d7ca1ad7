"""The frames that the server may see: what a release is distilled, calibrated and measured on.

They are recordings of the simulator or a set that the user names, never the fleet's own frames.
"""

# Shapes: N frames, M frames held back, H height, W width, 3 colour channels.

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from convoy_driving.data_config import DataConfig
from convoy_driving.dataset import DrivingData, load_vehicle, pool
from convoy_driving.recordings.reader import find_recordings
from convoy_protos.errors import UsageError

FRAMES_FOLDER: Final = "frames"
"""Of a cache folder: decoded frames."""


@dataclass(frozen=True, slots=True)
class ProxyFrames:
    """A bounded choice from the proxy recordings.

    Attributes:
        dataset: The recordings, for their labels.
        train_NHWC: Frames to learn from and to calibrate on.
        held_indices: Examples to measure on.
        held_MHWC: Their frames.
    """

    dataset: DrivingData
    train_NHWC: NDArray[np.uint8]
    held_indices: NDArray[np.int64]
    held_MHWC: NDArray[np.uint8]


def choose_proxy_frames(dataset: DrivingData, data: DataConfig, limit: int) -> ProxyFrames:
    """Take at most `limit` frames to learn from and as many to measure on, both spread evenly.

    Raises:
        UsageError: There is nothing to learn from, nothing to measure on, or the frames have
            another size than the model.
    """
    train, held = dataset.train_indices, dataset.held_indices
    if not len(train) or not len(held):
        missing = "to learn from" if not len(train) else "held back to measure on"
        raise UsageError(
            f"[release] proxy: the proxy recordings have no frame {missing}; name recordings with "
            "more laps, or leave proxy empty to use the simulator's"
        )
    train_NHWC = dataset.frames_at(_spread(train, limit))
    chosen_held = _spread(held, limit)
    expected = (data.frame_height, data.frame_width, 3)
    if train_NHWC.shape[1:] != expected:
        raise UsageError(
            f"[release] proxy: expected frames of {_size(expected)} like the fleet's, "
            f"got {_size(train_NHWC.shape[1:])}; load the proxy recordings with the run's [data]"
        )
    return ProxyFrames(dataset, train_NHWC, chosen_held, dataset.frames_at(chosen_held))


def load_proxy(recordings: Sequence[Path], data: DataConfig, cache_dir: Path) -> DrivingData:
    """The recordings as one set of examples.

    Raises:
        RecordingError: A path is no recording or holds nothing usable.
    """
    return pool(
        [
            load_vehicle(ref.vehicle_id, [ref.path], data, cache_dir / FRAMES_FOLDER)
            for ref in find_recordings(recordings)
        ]
    )


def _spread(indices: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    count = min(limit, len(indices))
    places = np.linspace(0, len(indices) - 1, count).round().astype(np.int64)
    return indices[places]


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
