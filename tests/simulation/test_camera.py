"""A picture shows the ground where the pinhole model says."""

import math

import numpy as np
import pytest

from convoy_simulation.roads.camera import (
    SKY_RGB,
    CameraMount,
    CameraSize,
    GroundMap,
    Pose,
    picture,
)

PALETTE = np.array([[0, 200, 0], [100, 100, 100]], np.uint8)
STRAIGHT_DOWN = CameraMount(height_m=10.0, pitch_deg=90.0, field_of_view_deg=90.0)
SMALL = CameraSize(width_px=9, height_px=9, subpixels=1)


def ground_with_a_stone_at(x_m: int, y_m: int) -> GroundMap:
    paint_YX = np.zeros((100, 100), np.uint8)
    paint_YX[50 + y_m, 50 + x_m] = 1
    return GroundMap(paint_YX, PALETTE, pixels_per_m=1.0)


def stone_pixels(picture_HWC: np.ndarray) -> list[tuple[int, int]]:
    return [(int(row), int(column)) for row, column in np.argwhere(picture_HWC[..., 0] == 100)]


@pytest.mark.parametrize(
    ("heading_rad", "x_m", "y_m"),
    [
        (0.0, 0, 9),  # ahead along +y
        (math.pi / 2, -9, 0),  # a quarter turn to the left looks along -x
        (-math.pi / 2, 9, 0),
        (math.pi, 0, -9),
    ],
)
def test_what_is_ahead_is_in_the_upper_middle(heading_rad, x_m, y_m):
    ground = ground_with_a_stone_at(x_m, y_m)
    seen = stone_pixels(picture(ground, Pose(0.5, 0.5, heading_rad), STRAIGHT_DOWN, SMALL))
    assert seen == [(0, 4)]


def test_what_is_to_the_right_is_on_the_right():
    ground = ground_with_a_stone_at(9, 0)
    seen = stone_pixels(picture(ground, Pose(0.5, 0.5, 0.0), STRAIGHT_DOWN, SMALL))
    assert seen == [(4, 8)]


def test_every_pixel_agrees_with_a_ray_traced_on_its_own():
    rng = np.random.default_rng(0)
    ground = GroundMap(rng.integers(0, 2, (400, 400)).astype(np.uint8), PALETTE, 2.0)
    mount = CameraMount(height_m=6.0, pitch_deg=50.0, field_of_view_deg=80.0, forward_m=1.5)
    size, pose = CameraSize(width_px=12, height_px=9, subpixels=1), Pose(3.2, -7.7, 0.6)
    seen_HWC = picture(ground, pose, mount, size)
    wrong = sum(
        tuple(seen_HWC[row, column]) != traced(ground, pose, mount, size, (row, column))
        for row in range(9)
        for column in range(12)
    )
    assert wrong <= 1  # float32 may fall on the other side of a spot's edge


def traced(ground, pose, mount, size, pixel):
    row, column = pixel
    focal = size.width_px / 2 / math.tan(math.radians(mount.field_of_view_deg) / 2)
    pitch = math.radians(mount.pitch_deg)
    forward = np.array([-math.sin(pose.heading_rad), math.cos(pose.heading_rad), 0.0])
    right = np.array([math.cos(pose.heading_rad), math.sin(pose.heading_rad), 0.0])
    up = np.array([0.0, 0.0, 1.0])
    axis = forward * math.cos(pitch) - up * math.sin(pitch)
    down = np.cross(axis, right)
    ray = (
        axis
        + right * (column + 0.5 - size.width_px / 2) / focal
        + down * (row + 0.5 - size.height_px / 2) / focal
    )
    eye = np.array([pose.x_m, pose.y_m, mount.height_m]) + forward * mount.forward_m
    spot = eye - ray * eye[2] / ray[2]
    column_of_map, row_of_map = (spot[:2] * ground.pixels_per_m + 200).astype(int)
    return tuple(ground.palette_KC[ground.paint_YX[row_of_map, column_of_map]])


def test_above_the_horizon_is_sky():
    mount = CameraMount(pitch_deg=5.0, field_of_view_deg=90.0)
    seen_HWC = picture(ground_with_a_stone_at(0, 0), Pose(0, 0, 0), mount, SMALL)
    assert (seen_HWC[:3] == SKY_RGB).all()
    assert (seen_HWC[4:] != SKY_RGB).any(axis=2).all()


def test_subpixels_are_averaged():
    halves_YX = np.tile(np.array([0, 1], np.uint8), (100, 50))
    ground = GroundMap(halves_YX, np.array([[0, 0, 0], [200, 200, 200]], np.uint8), 1.0)
    mount = CameraMount(height_m=4.0, pitch_deg=90.0, field_of_view_deg=90.0)
    seen_HWC = picture(ground, Pose(0, 0, 0), mount, CameraSize(width_px=4, height_px=4))
    assert (seen_HWC == 100).all()


@pytest.mark.parametrize(
    "wrong",
    [{"height_m": 0.0}, {"pitch_deg": 0.0}, {"pitch_deg": 91.0}, {"field_of_view_deg": 180.0}],
)
def test_an_impossible_mount_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CameraMount(**wrong)
