"""Frames of a camera, through OpenCV (extra convoy-fl[camera])."""

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convoy_edge_client.drive.loaded_model import Answer
from convoy_edge_client.drive.trial_rules import VehicleMoment
from convoy_edge_client.errors import FrameSourceError


class Camera:
    """A device by number, or a stream or file by name; the camera sets the pace."""

    is_live = True

    def __init__(self, what: str, opencv: Any = None) -> None:
        """Open it.

        Args:
            what: Number of the device, or what else OpenCV opens: a file, a GStreamer pipeline.
            opencv: The module cv2; None imports it.

        Raises:
            FrameSourceError: OpenCV is not installed, or nothing is there.
        """
        try:
            self._opencv = opencv or importlib.import_module("cv2")
        except ImportError as error:
            raise FrameSourceError(
                f"camera:{what}: OpenCV is not installed; pip install 'convoy-fl[camera]'"
            ) from error
        self._what = what
        self._capture = self._opencv.VideoCapture(int(what) if what.isdigit() else what)
        if not self._capture.isOpened():
            raise FrameSourceError(f"camera:{what}: nothing there; is it plugged in, and free?")

    def pictures(self) -> Iterator[NDArray[np.uint8]]:
        """See FrameSource."""
        try:
            while True:
                there, picture_BGR = self._capture.read()
                if not there:
                    raise FrameSourceError(f"camera:{self._what}: gives no more pictures")
                yield np.ascontiguousarray(picture_BGR[:, :, ::-1])
        finally:
            self._capture.release()

    def act(self, answer: Answer) -> None:
        """A camera only looks."""

    def moment(self) -> VehicleMoment:
        """It does not know."""
        return VehicleMoment()
