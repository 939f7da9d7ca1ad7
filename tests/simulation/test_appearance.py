"""Every appearance gives a proper picture, differs from day, and depends on its seed alone."""

import numpy as np
import pytest

from convoy_simulation.roads.appearance import APPEARANCES, appearance_named
from convoy_simulation.roads.camera import CameraSize, picture
from convoy_simulation.roads.car_racing import Road


@pytest.fixture(scope="module")
def road() -> Road:
    return Road(3)


def seen(road: Road, name: str, seed: int = 0) -> np.ndarray:
    appearance = appearance_named(name)
    clean_HWC = picture(road.ground_map(), road.pose, appearance.mount, CameraSize())
    return appearance.develop(clean_HWC, np.random.default_rng(seed))


@pytest.mark.parametrize("name", APPEARANCES)
def test_a_picture_keeps_its_shape_and_type(road, name):
    picture_HWC = seen(road, name)
    assert picture_HWC.shape == (60, 80, 3)
    assert picture_HWC.dtype == np.uint8


@pytest.mark.parametrize("name", APPEARANCES)
def test_one_seed_gives_one_picture(road, name):
    assert np.array_equal(seen(road, name, seed=5), seen(road, name, seed=5))


@pytest.mark.parametrize("name", [name for name in APPEARANCES if name != "day"])
def test_an_appearance_is_unlike_day(road, name):
    difference = np.abs(seen(road, name).astype(int) - seen(road, "day"))
    assert difference.mean() > 15


@pytest.mark.parametrize("name", APPEARANCES)
def test_the_road_can_be_told_from_the_grass_in_every_appearance(road, name):
    near_HWC = seen(road, name)[24:32].astype(float)
    road_C = near_HWC[:, 36:44].mean(axis=(0, 1))
    grass_C = near_HWC[:, :6].mean(axis=(0, 1))
    assert np.abs(road_C - grass_C).max() > 15


@pytest.mark.parametrize(
    ("name", "road_is_brighter"),
    [
        ("day", False),
        ("dark", False),
        ("fog", False),
        ("rain", False),
        ("recoloured", True),  # pale concrete on red earth
        ("glare", True),  # asphalt mirrors a low sun, grass does not
        ("thermal", True),  # asphalt is warmer
    ],
)
def test_some_cameras_see_the_road_brighter_than_the_grass_and_some_darker(
    road, name, road_is_brighter
):
    near_HWC = seen(road, name)[24:32].astype(float)
    assert (near_HWC[:, 36:44].mean() > near_HWC[:, :6].mean()) == road_is_brighter


def test_fog_fades_colour_and_hides_the_far_more_than_the_near(road):
    colour = np.ptp(seen(road, "fog").astype(float), axis=2).mean(axis=1)
    colour_by_day = np.ptp(seen(road, "day").astype(float), axis=2).mean(axis=1)
    left_H = colour / colour_by_day
    assert left_H[5] < left_H[30] < left_H[55] < 0.5


def test_an_unknown_appearance_is_refused_by_name():
    with pytest.raises(ValueError, match=r"one of day, dark.* got 'dusk'"):
        appearance_named("dusk")
