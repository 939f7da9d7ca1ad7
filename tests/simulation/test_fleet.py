"""A recorded fleet: real tubs, one a vehicle, reproducible, whole or not there at all."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convoy_protos.errors import SettingsError, UsageError
from convoy_protos.settings import from_table, to_table
from convoy_simulation import fleet as fleet_module
from convoy_simulation.commands import data_record
from convoy_simulation.fleet import (
    FleetConfig,
    VehicleOverride,
    cached_fleet,
    check_unseen,
    fleet_appearances,
    fleet_key,
    plan_fleet,
    record_fleet,
)
from convoy_simulation.roads.recorder import RecordingConfig

SMALL = FleetConfig(
    vehicles=2,
    frames_per_vehicle=6,
    tracks_per_vehicle=2,
    recording=RecordingConfig(skip_s=0.0),
)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def records(tub: Path) -> list[dict]:
    return [
        json.loads(line)
        for catalog in sorted(tub.glob("*.catalog"))
        for line in catalog.read_text().splitlines()
    ]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> list[Path]:
    return record_fleet(SMALL, tmp_path_factory.mktemp("fleets") / "fleet", seed=1, workers=1)


def test_every_vehicle_has_a_tub_of_its_own(recorded):
    assert [tub.name for tub in recorded] == ["car0-day", "car1-dark"]
    assert all(len(records(tub)) == 6 for tub in recorded)


def test_a_record_has_donkeycars_keys_and_its_picture(recorded):
    for index, record in enumerate(records(recorded[0])):
        assert set(record) == {
            "_index",
            "_session_id",
            "_timestamp_ms",
            "cam/image_array",
            "user/angle",
            "user/throttle",
            "user/mode",
        }
        assert record["_index"] == index
        assert -1 <= record["user/angle"] <= 1
        with Image.open(recorded[0] / "images" / record["cam/image_array"]) as picture:
            assert (picture.format, picture.size, picture.mode) == ("JPEG", (80, 60), "RGB")


def test_drives_are_sessions_with_a_pause_between_them(recorded):
    taken = records(recorded[1])
    assert [record["_session_id"][-1] for record in taken] == ["0"] * 3 + ["1"] * 3
    gaps_ms = np.diff([record["_timestamp_ms"] for record in taken])
    assert gaps_ms.tolist()[:2] == [60, 60]
    assert gaps_ms[2] > 15_000


@pytest.mark.slow
def test_the_same_seed_records_the_same_bytes_whatever_the_workers(recorded, tmp_path):
    record_fleet(SMALL, tmp_path / "again", seed=1, workers=2)
    assert files(tmp_path / "again") == files(recorded[0].parent)


def test_what_is_recorded_already_is_not_recorded_again(recorded, monkeypatch):
    monkeypatch.setattr(fleet_module, "run_jobs", pytest.fail)
    assert record_fleet(SMALL, recorded[0].parent, seed=1) == recorded


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="something other than this fleet"):
        record_fleet(SMALL, tmp_path, seed=1)
    assert files(tmp_path) == {"notes.txt": b"mine"}


def test_an_interrupted_recording_leaves_nothing_that_looks_whole(tmp_path):
    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_fleet(SMALL, tmp_path / "fleet", seed=1, workers=1, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_the_cache_keeps_different_fleets_apart(tmp_path):
    tiny = dataclasses.replace(SMALL, vehicles=1, frames_per_vehicle=2)
    first = cached_fleet(tiny, tmp_path, seed=1, workers=1)
    other = cached_fleet(tiny, tmp_path, seed=2, workers=1)
    assert first[0].parent != other[0].parent
    assert cached_fleet(tiny, tmp_path, seed=1) == first


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"jpeg_quality": 80}, False),
        ({"frames_per_vehicle": 7}, False),
        ({"recording": RecordingConfig(disturbance_size=0.1)}, False),
        ({"vehicle": {"car1": VehicleOverride(appearance="fog")}}, False),
        ({"workers": 3}, True),  # how it is computed does not shape what is recorded
        ({"engine": "serial"}, True),
        ({"vehicle": {"car1": VehicleOverride(mirror=False)}}, True),  # training, not recording
    ],
)
def test_the_key_changes_with_what_shapes_the_recordings(change, same):
    assert (fleet_key(dataclasses.replace(SMALL, **change), 0) == fleet_key(SMALL, 0)) is same


def test_an_override_changes_one_vehicle():
    override = VehicleOverride(appearance="glare", frames=50, tracks=(5, 6, 7))
    first, second = plan_fleet(dataclasses.replace(SMALL, vehicle={"car1": override}))
    assert (first.vehicle_id, first.frames, first.track_seeds) == ("car0-day", 6, (1000, 1001))
    assert (second.vehicle_id, second.frames, second.track_seeds) == ("car1-glare", 50, (5, 6, 7))


def test_vehicles_do_not_share_tracks_and_appearances_are_dealt_in_turn():
    config = FleetConfig(vehicles=8)
    seeds = [seed for plan in plan_fleet(config) for seed in plan.track_seeds]
    assert len(seeds) == len(set(seeds)) == 80
    assert plan_fleet(config)[6].appearance == "day"
    assert fleet_appearances(config) == config.appearances


def test_an_override_of_no_vehicle_is_refused():
    config = dataclasses.replace(SMALL, vehicle={"car9": VehicleOverride()})
    with pytest.raises(UsageError, match=r"fleet.vehicle.car9.*car0 to car1"):
        plan_fleet(config)


def test_a_track_that_a_vehicle_records_on_is_no_unseen_track():
    check_unseen(SMALL, (1, 2, 999, 1004))
    with pytest.raises(UsageError, match=r"track_seeds: car1-dark records on track 1003"):
        check_unseen(SMALL, (1, 1003))


def test_the_verb_records_what_a_scenario_says_with_the_numbers_asked_for(tmp_path, capsys):
    scenario = tmp_path / "mine.toml"
    scenario.write_text(
        "seed = 4\n[fleet]\nappearances = ['fog']\ntracks_per_vehicle = 2\n"
        "[fleet.recording]\nskip_s = 0.0\n"
    )
    data_record(out=tmp_path / "out", scenario=scenario, vehicles=1, frames=3)
    assert capsys.readouterr().out == f"{tmp_path}/out/car0-fog: 3 frames, 2 drives\n"
    assert len(records(tmp_path / "out/car0-fog")) == 3


def test_the_section_is_read_from_a_table_and_written_back():
    table = {
        "vehicles": 3,
        "appearances": ["day", "fog"],
        "camera": {"width_px": 96},
        "vehicle": {"car2": {"tracks": [1, 2], "mirror": False}},
    }
    config = from_table(FleetConfig, table, "[fleet]")
    assert config.override("car2") == VehicleOverride(tracks=(1, 2), mirror=False)
    assert from_table(FleetConfig, to_table(config), "[fleet]") == config


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"vehicles": 0}, "vehicles must be at least 1, got 0"),
        ({"appearances": ["dusk"]}, "appearance must be one of day"),
        ({"appearances": []}, "at least one appearance"),
        ({"jpeg_quality": 100}, r"jpeg_quality must be in 1\.\.95"),
        ({"engine": "ray"}, "serial, threads, processes"),
        ({"vehicle": {"car1": {"apearance": "fog"}}}, "did you mean 'appearance'"),
        ({"vehicle": {"car1": {"tracks": []}}}, "at least one track"),
        ({"recording": {"physics_steps": 0}}, "physics_steps must be at least 1"),
        ({"recording": {"min_disturbance_s": 9.0}}, "min_disturbance_s"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name(table, message):
    with pytest.raises(SettingsError, match=message):
        from_table(FleetConfig, table, "[fleet]")
