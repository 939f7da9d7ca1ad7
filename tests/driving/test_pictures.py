"""From a camera picture to the network's frame."""

import io

import numpy as np
from PIL import Image

from convoy_driving.data_config import DataConfig
from convoy_driving.pictures import decode, fit


def test_cropping_takes_shares_of_the_source_off_before_resizing():
    rows = np.repeat(np.array([10, 100, 200, 250], np.uint8), 25)
    image = Image.fromarray(np.broadcast_to(rows[:, None, None], (100, 120, 3)).copy())

    frame_HWC = fit(
        image, DataConfig(frame_height=32, frame_width=40, crop_top=0.25, crop_bottom=0.25)
    )

    assert frame_HWC.shape == (32, 40, 3)
    assert frame_HWC[0, 0, 0] == 100
    assert frame_HWC[-1, 0, 0] == 200


def test_every_colour_mode_becomes_rgb():
    for mode in ("L", "RGBA", "P", "CMYK"):
        file = io.BytesIO()
        Image.new(mode, (4, 4)).save(file, "TIFF")

        image = decode(file.getvalue())

        assert image is not None
        assert image.mode == "RGB"
