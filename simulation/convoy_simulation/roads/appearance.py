"""How the world looks through one vehicle's camera: its mount, and what light and lens do.

A model trained on one of these fails on most others, while noise and new tracks hardly matter to
it: appearance is the axis along which a fleet's recordings differ.
"""

# Shapes: H rows, W columns, C colours (RGB); all pictures are uint8.

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from convoy_simulation.roads.camera import CameraMount

Picture = NDArray[np.uint8]
Development = Callable[[Picture, np.random.Generator], Picture]

# About 100 on grass and 0 on the grey road, whose smooth face mirrors a low sun.
_GREENNESS_C = np.array([-0.5, 1.0, -0.5], np.float32)


@dataclass(frozen=True, slots=True)
class Appearance:
    """One vehicle's camera.

    Attributes:
        develop: What becomes of a clean picture; randomness (noise) comes from the generator.
        mount: Where the camera sits.
    """

    develop: Development
    mount: CameraMount = field(default_factory=CameraMount)


def day(picture_HWC: Picture, _rng: np.random.Generator) -> Picture:
    """Clear daylight: the picture as it is."""
    return picture_HWC


def dark(picture_HWC: Picture, rng: np.random.Generator) -> Picture:
    """Night: a quarter of the light, bluish, with the sensor's noise."""
    dimmed_HWC = picture_HWC * np.array([0.22, 0.26, 0.34], np.float32)
    return _to_bytes(dimmed_HWC + _noise(picture_HWC.shape, 3.0, rng))


def fog(picture_HWC: Picture, _rng: np.random.Generator) -> Picture:
    """Fog: half the colour gone, and what is far (the upper rows) hidden more than what is near."""
    rows = picture_HWC.shape[0]
    veil_H11 = np.linspace(0.92, 0.45, rows, dtype=np.float32)[:, None, None]
    grey_C = np.array([196, 200, 206], np.float32)
    pale_HWC = _mixed(picture_HWC, _faded(0.5), (0.0, 0.0, 0.0))
    return _to_bytes(pale_HWC * (1 - veil_H11) + grey_C * veil_H11)


def recoloured(picture_HWC: Picture, _rng: np.random.Generator) -> Picture:
    """Another country: red earth where grass was, a road of pale concrete."""
    mix_CC = np.array([[0.10, 0.06, 0.03], [-0.95, -1.15, -1.35], [0.06, 0.10, 0.12]], np.float32)
    return _to_bytes(_mixed(picture_HWC, mix_CC, (290.0, 305.0, 315.0)))


def glare(picture_HWC: Picture, rng: np.random.Generator) -> Picture:
    """Low sun into the lens: a gleaming road, grass in its own shadow, warm light, a white glow."""
    mix_CC = 0.55 * np.eye(3, dtype=np.float32) - 0.9 * _GREENNESS_C[:, None]
    gleaming_HWC = _mixed(picture_HWC, mix_CC, (90.0, 90.0, 90.0))
    warm_C = np.array([1.2, 0.95, 0.6], np.float32)
    lit_HWC = (gleaming_HWC + _glow(*picture_HWC.shape[:2])) * warm_C
    return _to_bytes(lit_HWC + _noise(picture_HWC.shape, 6.0, rng))


def rain(picture_HWC: Picture, rng: np.random.Generator) -> Picture:
    """Rain: little colour, little contrast, bright streaks."""
    rows, columns = picture_HWC.shape[:2]
    mix_CC = 0.6 * _faded(0.4)
    dull_HWC = _mixed(picture_HWC, mix_CC, (18.0, 24.0, 34.0))
    streaks = max(1, columns // 4)
    tops, lefts = rng.integers(0, rows, streaks), rng.integers(0, columns, streaks)
    down = np.arange(max(2, rows // 8))
    dull_HWC[np.minimum(tops[:, None] + down, rows - 1), lefts[:, None]] += 70
    return _to_bytes(dull_HWC)


def thermal(picture_HWC: Picture, _rng: np.random.Generator) -> Picture:
    """A heat camera: grey, with the sun-warmed road bright and the grass dark."""
    luma_HW = picture_HWC @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.repeat(_to_bytes(330 - 1.7 * luma_HW)[..., None], 3, axis=2)


APPEARANCES = MappingProxyType(
    {
        "day": Appearance(day),
        "dark": Appearance(dark),
        "fog": Appearance(fog),
        "recoloured": Appearance(recoloured),
        "glare": Appearance(glare),
        "rain": Appearance(rain),
        "thermal": Appearance(thermal),
        "low_camera": Appearance(
            day, CameraMount(height_m=5.0, pitch_deg=44.0, field_of_view_deg=115.0)
        ),
    }
)
"""Every appearance by name."""


def appearance_named(name: str) -> Appearance:
    """Look an appearance up.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in APPEARANCES:
        raise ValueError(f"appearance must be one of {', '.join(APPEARANCES)}, got {name!r}")
    return APPEARANCES[name]


@lru_cache(maxsize=16)
def _glow(rows: int, columns: int) -> NDArray[np.float32]:
    """Stray light everywhere, most around the sun at the upper right."""
    up_H1 = np.arange(rows, dtype=np.float32)[:, None] / rows - 0.05
    right_1W = np.arange(columns, dtype=np.float32)[None, :] / columns - 0.8
    glow_HW = 25 + 150 * np.exp(-(up_H1**2 + right_1W**2) / 0.3**2)
    return np.asarray(glow_HW[..., None], np.float32)


def _faded(colour_left: float) -> NDArray[np.float32]:
    """The change of colour that moves red, green and blue towards their mean."""
    kept_CC = colour_left * np.eye(3) + (1 - colour_left) / 3
    return kept_CC.astype(np.float32)


def _mixed(
    picture_HWC: Picture, mix_CC: NDArray[np.float32], offset_C: tuple[float, float, float]
) -> NDArray[np.float32]:
    """A linear change of colour: one row of `mix_CC` for each of red, green, blue."""
    return np.asarray(picture_HWC.astype(np.float32) @ mix_CC + np.array(offset_C, np.float32))


def _noise(
    shape: tuple[int, ...], deviation: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    return rng.standard_normal(shape, np.float32) * np.float32(deviation)


def _to_bytes(values: NDArray[np.floating]) -> Picture:
    return values.clip(0, 255).astype(np.uint8)
