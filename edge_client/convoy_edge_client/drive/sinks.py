"""Where answers go: lines of JSON, and pictures with the steering drawn in."""

import json
from pathlib import Path
from typing import Protocol, TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from convoy_edge_client.drive.loaded_model import Answer
from convoy_edge_client.drive.trial_rules import VehicleMoment


class Sink(Protocol):
    """Takes every answer; must not wait."""

    def put(self, number: int, picture_HWC: NDArray[np.uint8], answer: Answer) -> None:
        """One frame and what was decided.

        Args:
            number: Of the frame, from 0.
            picture_HWC: uint8, RGB, as it came.
            answer: What was decided.
        """
        ...

    def moment(self) -> VehicleMoment | None:
        """What the vehicle's controller says behind this sink; None: nobody is there."""
        ...

    def close(self) -> None:
        """No more answers come."""
        ...


class JsonLines:
    """One object a line: {"frame": 0, "steering": -0.1, "throttle": 0.3, "release": "...", "ms": 0.4}."""

    def __init__(self, file: TextIO, *, closes: bool = False) -> None:
        """Nothing is written yet.

        Args:
            file: Flushed after every line.
            closes: Whether it is closed with the sink.
        """
        self._file = file
        self._closes = closes

    def put(self, number: int, picture_HWC: NDArray[np.uint8], answer: Answer) -> None:
        """See Sink."""
        del picture_HWC
        line = {
            "frame": number,
            "steering": round(answer.steering, 5),
            "throttle": round(answer.throttle, 5),
            "release": answer.release,
            "ms": round(answer.latency_ms, 3),
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def moment(self) -> VehicleMoment | None:
        """A file says nothing."""
        return None

    def close(self) -> None:
        """Close the file, if it is the sink's."""
        if self._closes:
            self._file.close()


class Overlay:
    """FOLDER/000000.jpg and so on: the picture, and a line to where the vehicle is steered."""

    def __init__(self, folder: Path) -> None:
        """Make the folder.

        Args:
            folder: New pictures replace those of the same number.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def put(self, number: int, picture_HWC: NDArray[np.uint8], answer: Answer) -> None:
        """See Sink."""
        image = drawn(picture_HWC, answer)
        image.save(self._folder / f"{number:06}.jpg", quality=85)

    def moment(self) -> VehicleMoment | None:
        """A folder says nothing."""
        return None

    def close(self) -> None:
        """Every picture is whole already."""


def drawn(picture_HWC: NDArray[np.uint8], answer: Answer) -> Image.Image:
    """The picture with the steering as a line from the bottom, the throttle as a bar at its left."""
    image = Image.fromarray(picture_HWC).convert("RGB")
    draw = ImageDraw.Draw(image)
    width, height = image.size
    thick = max(1, width // 80)
    top = (width / 2 + answer.steering * width / 2, height / 2)
    draw.line([(width / 2, height), top], fill=(255, 210, 0), width=thick)
    level = height * (1 - max(0.0, answer.throttle))
    draw.line([(thick, height), (thick, level)], fill=(0, 200, 120), width=thick)
    return image
