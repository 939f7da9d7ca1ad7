"""The report's pictures show the cameras and the lines, and are files that browsers open."""

import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from convoy_simulation.roads.car_racing import Road
from convoy_simulation.roads.closed_loop import ClosedLoopResult, Drive
from convoy_simulation.roads.pictures import appearance_png, driven_lines_svg, save_pictures

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def road() -> Road:
    return Road(3)


def drive_along(road: Road, share: float, *, leaves: bool) -> Drive:
    points = int(share * len(road.track.centre_T2))
    path_T2 = road.track.centre_T2[:points].astype(np.float32)
    return Drive(3, share, 0.0, 0.0, path_T2, points - 1 if leaves else None)


def test_a_cameras_picture_is_a_png_of_its_appearance():
    with Image.open(io.BytesIO(appearance_png("dark", 3))) as dark:
        assert (dark.format, dark.size) == ("PNG", (240, 180))
        assert np.asarray(dark).mean() < 60
    with Image.open(io.BytesIO(appearance_png("day", 3))) as day:
        assert np.asarray(day).mean() > 90


def test_the_lines_name_each_driver_with_its_share(road):
    drives = {
        "single_vehicle": drive_along(road, 0.25, leaves=True),
        "federated_int8": drive_along(road, 1.0, leaves=False),
        "newcomer": drive_along(road, 0.5, leaves=False),
    }
    root = ET.fromstring(driven_lines_svg(road.track, drives))
    texts = {text.text for text in root.iter(f"{SVG}text")}
    assert {"one vehicle, 25 %", "fleet, int8, 100 %", "newcomer, 50 %"} <= texts


def test_the_same_drives_give_the_same_bytes(road):
    drives = {"expert": drive_along(road, 1.0, leaves=False)}
    assert driven_lines_svg(road.track, drives) == driven_lines_svg(road.track, drives)


def test_pictures_are_saved_with_names_relative_to_the_run(road, tmp_path):
    drives = {"expert": (drive_along(road, 1.0, leaves=False),)}
    pictures = save_pictures(
        ClosedLoopResult({"day": drives, "low_camera": drives}), tmp_path / "pictures", tmp_path
    )
    assert [(picture.file, picture.kind, picture.title) for picture in pictures] == [
        ("pictures/camera-day.png", "appearance", "day"),
        ("pictures/driven-day.svg", "driven_line", "day"),
        ("pictures/camera-low_camera.png", "appearance", "low_camera"),
        ("pictures/driven-low_camera.svg", "driven_line", "low camera"),
    ]
    assert all((tmp_path / picture.file).stat().st_size > 500 for picture in pictures)
