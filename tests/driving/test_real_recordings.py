"""The counts of the recordings beside the project, faults included."""

import pytest

from convoy_driving.data_config import DataConfig
from convoy_driving.recording_check import check_recording
from convoy_driving.recordings.reader import find_recordings

CASES = [
    ("donkeycar_walltrack/car0_low_camera", 2000, {}, 4),
    # 551 pictures are missing
    ("donkeycar_walltrack/car1_tall_camera", 2449, {"image_missing": 551}, 5),
    # the manifest names a third catalog that does not exist
    (
        "donkeycar_walltrack/car2_taller_camera",
        1230,
        {"image_missing": 770, "catalog_missing": 1000},
        2,
    ),
    ("donkeycar_walltrack/car3_tall_camera_morning", 2000, {}, 3),
    ("donkeycar_walltrack/car4_small_camera", 2000, {}, 1),
    ("donkeycar_walltrack/car5_small_camera_evening", 2000, {}, 3),
    ("donkeycar_walltrack/car6_reverse_direction", 1596, {}, 1),
    ("donkeycar_tub_sample", 1000, {}, 1),
    ("donkeysim_circuit/tub_1_21-09-19", 1234, {}, 1),
    ("donkeysim_circuit/tub_19_21-09-20", 1000, {}, 1),
    ("donkeysim_circuit/tub_2_21-09-19", 0, {}, 0),
    ("donkeysim_circuit/tub_31_21-09-21", 87, {}, 2),  # 11 of them in mode "local"
    ("udacity_sim", 160, {}, 2),
    ("ros2_bags/drive_mcap", 300, {}, 1),
    ("ros2_bags/drive_sqlite3", 200, {}, 1),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "usable", "skipped", "laps"), CASES, ids=[name for name, *_ in CASES]
)
def test_a_real_recording_has_the_counts_that_are_known_of_it(
    shared_data, name, usable, skipped, laps
):
    (ref,) = find_recordings([shared_data / name])

    check = check_recording(ref, DataConfig())

    assert check.frames_usable == usable
    assert check.skipped == skipped
    assert check.laps == laps
    if usable:
        assert sum(check.class_shares) == pytest.approx(1.0)


def test_learning_from_people_only_leaves_the_autopilot_out(shared_data):
    (ref,) = find_recordings([shared_data / "donkeysim_circuit" / "tub_31_21-09-21"])

    check = check_recording(ref, DataConfig(modes=("user",)))

    assert (check.frames_usable, check.skipped) == (76, {"mode_not_user": 11})


def test_left_in_a_log_is_left_in_a_tub_and_in_a_bag(shared_data):
    """The same drive as tub and as bag has the same class shares, mirrored by no one."""
    (bag,) = find_recordings([shared_data / "ros2_bags" / "drive_mcap"])

    left, straight, right = check_recording(bag, DataConfig()).class_shares

    # of the first 300 records of donkeycar_tub_sample, a circuit driven clockwise
    assert (left, straight, right) == pytest.approx((0.093, 0.473, 0.433), abs=1e-3)
