"""Driving-log CSV: Udacity's as it comes, and others by the names of their columns."""

import pytest
from PIL import Image

from convoy_driving.data_config import DataConfig
from convoy_driving.errors import BrokenRecordingError
from convoy_driving.recordings.driving_log import DrivingLogReader
from convoy_driving.recordings.reader import Sample, Skipped

NAMES = ("center_2023_03_23_00_38_24_929.jpg", "left_1.jpg", "right_1.jpg")
WINDOWS = "C:\\Users\\me\\IMG\\"


@pytest.fixture
def write_log(tmp_path):
    def write(text, *, folder="IMG", pictures=NAMES):
        (tmp_path / folder).mkdir()
        for name in pictures:
            Image.new("RGB", (32, 16)).save(tmp_path / folder / name)
        (tmp_path / "driving_log.csv").write_text(text)
        return tmp_path

    return write


def read(path, **settings):
    return list(DrivingLogReader(path, DataConfig(**settings)).items())


@pytest.mark.parametrize("prefix", [WINDOWS, "/home/me/IMG/", "IMG/", ""])
@pytest.mark.parametrize("header", ["center,left,right,steering,throttle,brake,speed\n", ""])
def test_a_udacity_row_is_read_with_or_without_header_and_from_any_machine(
    write_log, prefix, header
):
    row = ", ".join(prefix + name for name in NAMES) + ", -0.36, 1, 0, 30.1\n"

    (sample,) = read(write_log(header + row))

    assert isinstance(sample, Sample)
    assert (sample.steering, sample.throttle) == (-0.36, 1.0)
    assert sample.time_s == pytest.approx(1_679_531_904.929)


def test_side_cameras_steer_back_to_the_middle_and_are_never_held_back(write_log):
    row = ",".join(NAMES) + ",0.9,0.5,0,30\n"

    centre, left, right = read(write_log(row), side_cameras=True, side_camera_correction=0.25)

    assert (centre.steering, left.steering, right.steering) == (0.9, 1.0, pytest.approx(0.65))
    assert (centre.training_only, left.training_only, right.training_only) == (False, True, True)


def test_columns_can_have_any_name_and_order(write_log):
    text = f"t,angle,file\n12.5,10,{NAMES[0]}\n"

    (sample,) = read(
        write_log(text, folder="images"),
        log_image="file",
        log_steering="angle",
        log_time="t",
        log_steering_scale=-0.05,
    )

    assert (sample.steering, sample.throttle, sample.time_s) == (-0.5, 0.0, 12.5)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("gone.jpg,l,r,0,0,0,0", "image_missing"),
        (f"{NAMES[0]},l,r,left,0,0,0", "malformed_record"),
        (f"{NAMES[0]},l,r", "malformed_record"),
        (",l,r,0,0,0,0", "image_missing"),
    ],
)
def test_a_row_that_cannot_be_used_is_counted(write_log, row, reason):
    assert read(write_log(row + "\n\n")) == [Skipped(reason)]


def test_a_missing_column_is_named_with_the_way_out(write_log):
    with pytest.raises(BrokenRecordingError, match="no column 'steering' among a, b; name it with"):
        read(write_log("1,2\n"), log_columns=("a", "b"), log_image="a")


def test_a_log_in_utf8_with_byte_order_mark_and_latin_paths_is_read(write_log):
    path = write_log("")
    row = f"center,left,right,steering,throttle\nC:\\M\xfcller\\{NAMES[0]},l,r,0.1,0\n"
    (path / "driving_log.csv").write_bytes(b"\xef\xbb\xbf" + row.encode("latin-1"))

    (sample,) = read(path)

    assert sample.steering == 0.1


def test_one_csv_with_pictures_or_a_csv_itself_is_a_recording(tmp_path):
    (tmp_path / "images").mkdir()
    log = tmp_path / "drive.csv"
    log.write_text("")

    assert DrivingLogReader.recognises(tmp_path)
    assert DrivingLogReader.recognises(log)


def test_a_folder_of_tables_is_no_recording(tmp_path):
    (tmp_path / "rates.csv").write_text("1,2\n")

    assert not DrivingLogReader.recognises(tmp_path)
