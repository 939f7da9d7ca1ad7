"""Frames of a recording: a Donkeycar tub, a driving log, a ROS 2 bag; whatever `convoy data check` reads."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convoy_driving.data_config import DataConfig
from convoy_driving.errors import RecordingError
from convoy_driving.pictures import decode
from convoy_driving.recordings.reader import Skipped, open_recording
from convoy_edge_client.drive.loaded_model import Answer
from convoy_edge_client.drive.trial_rules import VehicleMoment
from convoy_edge_client.errors import FrameSourceError


class RecordedFrames:
    """Every picture that can be decoded, once, in order."""

    is_live = False

    def __init__(self, what: str) -> None:
        """Find the reader.

        Args:
            what: Path of the recording.

        Raises:
            FrameSourceError: No reader knows it.
        """
        try:
            self._reader = open_recording(Path(what), DataConfig())
        except RecordingError as error:
            raise FrameSourceError(str(error)) from error

    def pictures(self) -> Iterator[NDArray[np.uint8]]:
        """See FrameSource."""
        try:
            for item in self._reader.items():
                image = None if isinstance(item, Skipped) else decode(item.picture)
                if image is not None:
                    yield np.asarray(image.convert("RGB"))
        except RecordingError as error:
            raise FrameSourceError(str(error)) from error

    def act(self, answer: Answer) -> None:
        """A recording is what it is."""

    def moment(self) -> VehicleMoment:
        """Nothing moves."""
        return VehicleMoment(parked=True, engaged=False)
