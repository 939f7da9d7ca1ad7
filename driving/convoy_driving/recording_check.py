"""What a recording holds, before anyone trains on it: the figures of `convoy data check`."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from convoy_driving.data_config import DataConfig
from convoy_driving.recordings.reader import RecordingRef
from convoy_driving.recordings.screening import Tally, usable_frames
from convoy_driving.steering_classes import class_of

PROGRESS_EVERY = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingCheck:
    """One recording, as the contract of `convoy data check --json` has it.

    Attributes:
        path: Where it lies.
        vehicle: Whose it is.
        frames_usable: Frames with a decodable picture and labels in range.
        skipped: Other frames, by reason.
        laps: Stretches without a pause or a new session.
        class_shares: Shares of left, straight, right; zeros where no frame is usable.
        rate_hz: Frames a second, by the median pause inside laps; None where no time is known.
        resolution: Width and height of the first picture; zeros where there is none.
        other_modes: Usable frames that no person drove, by driving mode; not in the contract.
    """

    path: str
    vehicle: str
    frames_usable: int
    skipped: dict[str, int]
    laps: int
    class_shares: tuple[float, float, float]
    rate_hz: float | None
    resolution: tuple[int, int]
    other_modes: dict[str, int]

    def contract(self) -> dict[str, Any]:
        """The entry of `convoy data check --json`, with exactly its keys."""
        table = dataclasses.asdict(self)
        del table["other_modes"]
        return table


def check_recording(
    ref: RecordingRef, config: DataConfig, on_frames: Callable[[int], None] | None = None
) -> RecordingCheck:
    """Read a recording through and decode every picture, one at a time.

    Args:
        ref: From `find_recordings`.
        config: Settings that decide what is usable.
        on_frames: Called now and then with the number of usable frames so far.

    Raises:
        RecordingError: The recording cannot be read at all.
    """
    tally = Tally()
    classes: Counter[int] = Counter()
    pauses_ms: Counter[int] = Counter()
    previous_s, lap = float("nan"), -1
    for frame in usable_frames(ref.reader(ref.path, config), config, tally):
        if frame.training_only:
            continue
        classes[class_of(frame.steering, config.steering_threshold)] += 1
        if frame.lap == lap and frame.time_s > previous_s:
            pauses_ms[round(1000 * (frame.time_s - previous_s))] += 1
        previous_s, lap = frame.time_s, frame.lap
        if on_frames is not None and classes.total() % PROGRESS_EVERY == 0:
            on_frames(classes.total())
    usable = classes.total()
    left, straight, right = (classes[column] / max(1, usable) for column in range(3))
    return RecordingCheck(
        path=str(ref.path),
        vehicle=ref.vehicle_id,
        frames_usable=usable,
        skipped=dict(sorted(tally.skipped.items())),
        laps=tally.laps,
        class_shares=(left, straight, right),
        rate_hz=_rate_hz(pauses_ms),
        resolution=tally.resolution,
        other_modes=dict(sorted(tally.other_modes.items())),
    )


def _rate_hz(pauses_ms: Counter[int]) -> float | None:
    """One over the median pause."""
    if not pauses_ms:
        return None
    middle = pauses_ms.total() / 2
    passed = 0
    median_ms = 1
    for median_ms in sorted(pauses_ms):
        passed += pauses_ms[median_ms]
        if passed >= middle:
            break
    return round(1000 / max(1, median_ms), 2)
