"""What a vehicle learns from: frames, labels, and which of them are held back."""

# Shapes: N examples of a vehicle, B examples asked for, H height, W width, 3 colour channels.

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from convoy_driving.data_config import DataConfig
from convoy_driving.errors import NoUsableFramesError
from convoy_driving.frame_cache import cached_frames
from convoy_driving.held_back import Indices, split
from convoy_driving.recordings.reader import open_recording
from convoy_driving.steering_classes import classes_of


class DrivingData(Protocol):
    """What training and evaluation need: one vehicle's examples, or several vehicles' pooled."""

    @property
    def steering_N(self) -> NDArray[np.float32]:  # noqa: N802 - its axes
        """-1 full left to +1 full right."""
        ...

    @property
    def throttle_N(self) -> NDArray[np.float32]:  # noqa: N802 - its axes
        """-1 full reverse to +1 full ahead."""
        ...

    @property
    def steering_threshold(self) -> float:
        """Steering of a smaller magnitude is straight."""
        ...

    @property
    def train_indices(self) -> Indices:
        """Examples to learn from."""
        ...

    @property
    def held_indices(self) -> Indices:
        """Examples held back."""
        ...

    def frames_at(self, indices: Indices) -> NDArray[np.uint8]:
        """A copy of some frames, shape (B, H, W, 3), RGB."""
        ...

    def steering_classes(self) -> NDArray[np.int64]:
        """0 left, 1 straight, 2 right."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleDataset:
    """One vehicle's examples.

    Attributes:
        vehicle_id: Whose.
        frames_NHWC: uint8, RGB; a read-only memory map.
        steering_N: float32, -1 full left to +1 full right.
        throttle_N: float32, -1 full reverse to +1 full ahead.
        lap_N: int32, from 0.
        steering_threshold: Steering of a smaller magnitude is straight.
        train_indices: Examples to learn from, ascending.
        held_indices: Examples held back, ascending; never trained on.
    """

    vehicle_id: str
    frames_NHWC: NDArray[np.uint8]
    steering_N: NDArray[np.float32]
    throttle_N: NDArray[np.float32]
    lap_N: NDArray[np.int32]
    steering_threshold: float
    train_indices: Indices
    held_indices: Indices

    def frames_at(self, indices: Indices) -> NDArray[np.uint8]:
        """A copy of some frames, shape (B, H, W, 3)."""
        return np.asarray(self.frames_NHWC[indices])

    def steering_classes(self) -> NDArray[np.int64]:
        """0 left, 1 straight, 2 right, for every example."""
        return classes_of(self.steering_N, self.steering_threshold)


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledDataset:
    """Several vehicles' examples one after the other, without a copy of their frames.

    Attributes:
        parts: The vehicles.
        starts: Number of each vehicle's first example in the pool.
        steering_N: As in VehicleDataset, like the rest.
    """

    parts: tuple[VehicleDataset, ...]
    starts: Indices
    steering_N: NDArray[np.float32]
    throttle_N: NDArray[np.float32]
    steering_threshold: float
    train_indices: Indices
    held_indices: Indices

    def frames_at(self, indices: Indices) -> NDArray[np.uint8]:
        """A copy of some frames, each fetched from its vehicle."""
        frames_BHWC = np.empty((len(indices), *self.parts[0].frames_NHWC.shape[1:]), np.uint8)
        owners = np.searchsorted(self.starts, indices, side="right") - 1
        for owner in np.unique(owners):
            mine = owners == owner
            frames_BHWC[mine] = self.parts[owner].frames_NHWC[indices[mine] - self.starts[owner]]
        return frames_BHWC

    def steering_classes(self) -> NDArray[np.int64]:
        """0 left, 1 straight, 2 right, for every example."""
        return classes_of(self.steering_N, self.steering_threshold)


def load_vehicle(
    vehicle_id: str,
    recordings: Sequence[Path],
    config: DataConfig,
    cache_dir: Path,
    *,
    between_frames: Callable[[], None] = lambda: None,
) -> VehicleDataset:
    """A vehicle's recordings as examples; pictures are decoded once, into the cache.

    Args:
        vehicle_id: Whose.
        recordings: Their paths.
        config: How frames and examples are made.
        cache_dir: Of decoded frames.
        between_frames: See `cached_frames`.

    Raises:
        RecordingError: A path is no recording, cannot be read, or nothing in it is usable.
        FrameCacheError: The cache folder cannot be written.
    """
    readers = [open_recording(path, config) for path in recordings]
    cached = cached_frames(readers, config, cache_dir, between_frames=between_frames)
    if not len(cached.lap_N):
        skipped = ", ".join(f"{count} {reason}" for reason, count in cached.skipped.items())
        raise NoUsableFramesError(
            f"vehicle {vehicle_id}: no usable frame in {', '.join(map(str, recordings))} "
            f"({skipped or 'no records at all'}); leave it out, or look with `convoy data check`"
        )
    classes_N = classes_of(cached.steering_N, config.steering_threshold)
    train_indices, held_indices = split(cached.lap_N, classes_N, cached.training_only_N, config)
    return VehicleDataset(
        vehicle_id=vehicle_id,
        frames_NHWC=cached.frames_NHWC,
        steering_N=cached.steering_N,
        throttle_N=cached.throttle_N,
        lap_N=cached.lap_N,
        steering_threshold=config.steering_threshold,
        train_indices=train_indices,
        held_indices=held_indices,
    )


def pool(datasets: Sequence[VehicleDataset]) -> PooledDataset:
    """Several vehicles as one, as if their recordings had been sent to one place.

    Raises:
        ValueError: There is none, or they do not have the same frame size and threshold.
    """
    if not datasets:
        raise ValueError("a pool needs at least one vehicle")
    kinds = {(part.steering_threshold, part.frames_NHWC.shape[1:]) for part in datasets}
    if len(kinds) > 1:
        raise ValueError(f"pooled vehicles must share threshold and frame size, got {kinds}")
    lengths = [len(part.steering_N) for part in datasets]
    starts = np.cumsum([0, *lengths[:-1]], dtype=np.int64)
    return PooledDataset(
        parts=tuple(datasets),
        starts=starts,
        steering_N=np.concatenate([part.steering_N for part in datasets]),
        throttle_N=np.concatenate([part.throttle_N for part in datasets]),
        steering_threshold=datasets[0].steering_threshold,
        train_indices=np.concatenate(
            [part.train_indices + start for part, start in zip(datasets, starts, strict=True)]
        ),
        held_indices=np.concatenate(
            [part.held_indices + start for part, start in zip(datasets, starts, strict=True)]
        ),
    )
