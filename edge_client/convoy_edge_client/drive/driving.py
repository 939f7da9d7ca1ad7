"""Frame after frame: from a source through the wheel to the sinks."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from convoy_edge_client.drive.drive_config import DriveConfig
from convoy_edge_client.drive.frame_source import FrameSource
from convoy_edge_client.drive.sinks import Sink
from convoy_edge_client.drive.trial_rules import VehicleMoment
from convoy_edge_client.drive.wheel import Wheel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Driven:
    """What a drive was.

    Attributes:
        frames: That were answered.
        late: That came later than their period, from a source that does not set the pace itself.
    """

    frames: int
    late: int


def drive(
    wheel: Wheel,
    source: FrameSource,
    sinks: Sequence[Sink],
    config: DriveConfig,
    stop: threading.Event,
    *,
    most_frames: int = 0,
    now_s: Callable[[], float] = time.monotonic,
) -> Driven:
    """Drive until the source ends or somebody says stop.

    Args:
        wheel: Started; the caller closes it.
        source: Of pictures.
        sinks: Of answers; the caller closes them.
        config: The pace.
        stop: Set from outside.
        most_frames: End after so many; 0: never.
        now_s: A clock that never goes back.

    Raises:
        FrameSourceError: The source breaks.
        InferenceError: The factory's model fails.
    """
    frames = late = 0
    due_s = now_s()
    for picture_HWC in source.pictures():
        wheel.tell(_moment(source, sinks))
        answer = wheel.answer(picture_HWC)
        source.act(answer)
        for sink in sinks:
            sink.put(frames, picture_HWC, answer)
        frames += 1
        if stop.is_set() or frames == most_frames:
            break
        if source.is_live:
            continue
        due_s += config.frame_period_s
        behind_s = now_s() - due_s
        if behind_s > 0:
            late += 1
            due_s += behind_s  # what is lost is lost; the next period begins now
        else:
            stop.wait(-behind_s)
    return Driven(frames=frames, late=late)


def _moment(source: FrameSource, sinks: Sequence[Sink]) -> VehicleMoment:
    """The controller knows best; without one, the source."""
    for sink in sinks:
        moment = sink.moment()
        if moment is not None:
            return moment
    return source.moment()
