"""From an encoded camera picture to the frame that the network sees."""

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from convoy_driving.data_config import DataConfig

if TYPE_CHECKING:  # what drives needs no readers of recordings
    from convoy_driving.recordings.reader import Picture


def decode(picture: "Picture") -> Image.Image | None:
    """The picture in RGB, or None where it cannot be decoded."""
    if isinstance(picture, np.ndarray):
        return Image.fromarray(picture)
    try:
        with Image.open(io.BytesIO(picture)) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return None


def fit(image: Image.Image, config: DataConfig) -> NDArray[np.uint8]:
    """Crop and resize to uint8 (frame_height, frame_width, 3)."""
    top = round(image.height * config.crop_top)
    bottom = round(image.height * (1 - config.crop_bottom))
    if (top, bottom) != (0, image.height):
        image = image.crop((0, top, image.width, max(top + 1, bottom)))
    size = (config.frame_width, config.frame_height)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))
