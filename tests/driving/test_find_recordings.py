"""How paths become recordings and vehicles."""

import pytest
from small_recordings import record, write_tub

from convoy_driving.data_config import DataConfig
from convoy_driving.errors import NotARecordingError
from convoy_driving.recordings.reader import (
    find_recordings,
    installed_readers,
    open_recording,
)


def test_the_three_formats_are_installed_under_their_own_names():
    readers = installed_readers()

    assert set(readers) >= {"donkeycar", "driving_log", "ros2"}
    for name, reader in readers.items():
        assert reader.format == name


def test_a_folder_of_tubs_is_a_fleet_of_one_vehicle_a_tub(tmp_path):
    for name in ("car1", "car0"):
        write_tub(tmp_path / name, [record(0)])
    (tmp_path / "notes").mkdir()

    found = find_recordings([tmp_path])

    assert [ref.vehicle_id for ref in found] == ["car0", "car1"]
    assert found[0].path == tmp_path / "car0"


def test_recordings_are_found_two_folders_down_and_keep_the_order_of_the_paths(tmp_path):
    write_tub(tmp_path / "fleet" / "day" / "car0", [record(0)])
    write_tub(tmp_path / "alone", [record(0)])

    found = find_recordings([tmp_path / "fleet", tmp_path / "alone"])

    assert [ref.vehicle_id for ref in found] == ["car0", "alone"]


def test_two_recordings_of_one_name_are_two_vehicles(tmp_path):
    for day in ("monday", "tuesday"):
        write_tub(tmp_path / day / "car", [record(0)])

    found = find_recordings([tmp_path])

    assert [ref.vehicle_id for ref in found] == ["car", "car-2"]


def test_a_csv_belongs_to_the_vehicle_whose_folder_it_is_in(tmp_path):
    (tmp_path / "blue").mkdir()
    (tmp_path / "blue" / "driving_log.csv").write_text("")

    (found,) = find_recordings([tmp_path / "blue" / "driving_log.csv"])

    assert found.vehicle_id == "blue"


def test_a_path_that_is_no_recording_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(NotARecordingError, match=r"expected a Donkeycar tub.*driving_log\.csv"):
        find_recordings([tmp_path])
    with pytest.raises(NotARecordingError, match="nowhere: no such file"):
        find_recordings([tmp_path / "nowhere"])
    with pytest.raises(NotARecordingError, match="no recording here"):
        open_recording(tmp_path, DataConfig())
