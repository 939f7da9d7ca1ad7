"""From what a reader gives to frames that can be learned from, with a count of what could not."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image

from convoy_driving.data_config import DataConfig
from convoy_driving.pictures import decode
from convoy_driving.recordings.reader import RecordingReader, Sample, Skipped, SkipReason

PERSON = "user"

RANGE_TOLERANCE = 1e-3
"""Steering and throttle may leave [-1, 1] by rounding; they are clipped."""


@dataclass(slots=True)
class Tally:
    """What was met on the way.

    Attributes:
        skipped: Frames that cannot be used, by reason.
        resolution: Width and height of the first picture; (0, 0) before there was one.
        laps: Laps begun.
        other_modes: Usable frames that no person drove, by driving mode.
    """

    skipped: Counter[str] = field(default_factory=Counter)
    resolution: tuple[int, int] = (0, 0)
    laps: int = 0
    other_modes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class UsableFrame:
    """A picture in the source's resolution with its labels, in range, and its lap from 0."""

    image: Image.Image
    steering: float
    throttle: float
    time_s: float
    lap: int
    training_only: bool


def usable_frames(
    reader: RecordingReader, config: DataConfig, tally: Tally
) -> Iterator[UsableFrame]:
    """Every frame that can be used, one in memory at a time; `tally` counts the others.

    A new lap starts where the session changes or where time jumps by more than lap_gap_s. Each
    call starts a new lap, so one tally serves several recordings of a vehicle.
    """
    previous: Sample | None = None
    for item in reader.items():
        if isinstance(item, Skipped):
            tally.skipped[item.reason] += item.count
            continue
        reason = _fault(item, config)
        image = None if reason else decode(item.picture)
        if reason is None and image is None:
            reason = SkipReason.UNDECODABLE
        if reason is not None or image is None:
            tally.skipped[str(reason)] += 1
            continue
        if tally.resolution == (0, 0):
            tally.resolution = image.size
        if previous is None or _is_new_lap(previous, item, config.lap_gap_s):
            tally.laps += 1
        if item.mode != PERSON:
            tally.other_modes[item.mode] += 1
        previous = item
        yield UsableFrame(
            image=image,
            steering=max(-1.0, min(1.0, item.steering)),
            throttle=max(-1.0, min(1.0, item.throttle)),
            time_s=math.nan if item.time_s is None else item.time_s,
            lap=tally.laps - 1,
            training_only=item.training_only,
        )


def _fault(sample: Sample, config: DataConfig) -> SkipReason | None:
    if config.modes and sample.mode not in config.modes:
        return SkipReason.MODE_NOT_USER
    values = (sample.steering, sample.throttle)
    if not all(math.isfinite(value) for value in values):
        return SkipReason.VALUE_NOT_FINITE
    if max(map(abs, values)) > 1 + RANGE_TOLERANCE:
        return SkipReason.VALUE_OUT_OF_RANGE
    return None


def _is_new_lap(before: Sample, after: Sample, gap_s: float) -> bool:
    if before.session != after.session:
        return True
    if before.time_s is None or after.time_s is None:
        return False
    return abs(after.time_s - before.time_s) > gap_s
