"""One recording, one vehicle; what cannot take part is left out with a reason."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from convoy_compression.update.codec import UpdateConfig
from convoy_driving.data_config import DataConfig
from convoy_edge_client.vehicle_config import load_vehicle_config
from convoy_privacy.certificates import Role
from convoy_privacy.party import load_party
from convoy_protos.errors import UsageError
from convoy_server.rounds import RoundConfig
from convoy_simulation.fleet import FleetConfig, VehicleOverride
from convoy_simulation.roads.donkeycar_tub import TubRecord, TubWriter
from convoy_simulation.vehicles import (
    AGGREGATOR,
    check_sum_size,
    decode,
    load,
    recorded_vehicles,
    roadside_units,
    write_vehicle_files,
)
from convoy_simulation.worker_pool import no_progress

SMALL = DataConfig(frame_height=16, frame_width=16, guard_frames=0)


def record(tub_folder, frames: int) -> None:
    tub = TubWriter(tub_folder, 90, created_at_s=0.0)
    for number in range(frames):
        tub.append(
            TubRecord(
                picture_HWC=np.full((8, 12, 3), number, np.uint8),
                angle=(-0.5, 0.0, 0.5)[number % 3],
                throttle=0.2,
                session_id="drive",
                timestamp_ms=50 * number,
            )
        )
    tub.close()


@pytest.fixture
def tubs(tmp_path):
    for name, frames in (("car0", 40), ("car1", 60), ("parked", 0)):
        record(tmp_path / "tubs" / name, frames)
    return tmp_path / "tubs"


def test_an_empty_recording_is_left_out_with_a_word_and_the_others_go_on(tubs, tmp_path, caplog):
    found = recorded_vehicles([tubs], FleetConfig(), tmp_path / "cache")
    assert [vehicle.vehicle_id for vehicle in found] == ["car0", "car1", "parked"]
    usable = decode(found, SMALL, 1, no_progress)
    assert [vehicle.vehicle_id for vehicle in usable] == ["car0", "car1"]
    assert "parked" in caplog.text


def test_a_fleet_of_empty_recordings_is_an_error(tmp_path):
    record(tmp_path / "parked", 0)
    found = recorded_vehicles([tmp_path / "parked"], FleetConfig(), tmp_path / "cache")
    with pytest.raises(UsageError, match="parked"):
        decode(found, SMALL, 1, no_progress)


def test_overrides_reach_the_vehicle_and_a_misspelt_one_is_refused(tubs, tmp_path):
    one_way = FleetConfig(vehicle={"car1": VehicleOverride(mirror=False)})
    found = recorded_vehicles([tubs], one_way, tmp_path / "cache")
    assert {vehicle.vehicle_id: vehicle.mirror for vehicle in found} == {
        "car0": True,
        "car1": False,
        "parked": True,
    }
    with pytest.raises(UsageError, match="car9"):
        recorded_vehicles([tubs], FleetConfig(vehicle={"car9": VehicleOverride()}), tmp_path)


def test_the_files_that_are_written_are_the_vehicles_that_were_given(tubs, tmp_path):
    found = recorded_vehicles([tubs], FleetConfig(), tmp_path / "cache")
    folder = tmp_path / "out" / "fleet"
    files = write_vehicle_files(found, folder, UpdateConfig(codec="sealed", minimum_cohort=2))
    written = [load_vehicle_config(file) for file in files]
    for own, given in zip(written, found, strict=True):
        assert own.least_protection == "sealed"
        assert own.minimum_cohort == 2
        party = load_party(Path(own.identity), datetime.now(UTC))
        assert party.identity.name == given.vehicle_id
        assert (
            replace(
                own,
                identity=given.identity,
                least_protection=given.least_protection,
                minimum_cohort=given.minimum_cohort,
            )
            == given
        )
    assert load_party(folder / AGGREGATOR, datetime.now(UTC)).sealing_key is not None
    listed = json.loads((tmp_path / "out" / "fleet" / "fleet.json").read_text())
    assert listed == ["car0.json", "car1.json", "parked.json"]
    assert len(load(found[1], SMALL).steering_N) == 60


@pytest.mark.parametrize(("units", "count"), [(0, 2), (3, 3)])
def test_roadside_units_come_after_the_vehicles_where_helpers_are_asked_for(
    tubs, tmp_path, units, count
):
    found = recorded_vehicles([tubs], FleetConfig(), tmp_path / "cache")
    update = UpdateConfig(helpers=2)
    files = write_vehicle_files(found, tmp_path / "fleet", update, units)

    helpers = [load_vehicle_config(file) for file in files[len(found) :]]
    assert len(helpers) == count
    assert [one.vehicle_id for one in helpers] == roadside_units(update, units)
    for one in helpers:
        party = load_party(Path(one.helper_identity), datetime.now(UTC))
        assert (party.identity.name, party.role) == (one.vehicle_id, Role.HELPER)
        assert party.sealing_key is not None
    assert {load_vehicle_config(file).minimum_helpers for file in files[: len(found)]} == {2}


def test_without_helpers_there_are_no_roadside_units():
    assert roadside_units(UpdateConfig(), 3) == []


@pytest.mark.parametrize(
    ("codec", "minimum", "cohort", "vehicles", "refused"),
    [
        ("masked", 3, 0, 3, ""),
        ("masked", 3, 0, 2, "takes 3 vehicles, and there are 2: name more"),
        ("masked", 3, 2, 6, r"takes 3 vehicles, and \[round\] cohort_size is 2: raise it"),
        ("masked", 3, 9, 2, "takes 3 vehicles, and there are 2: name more"),
        ("masked", 3, 3, 6, ""),
        ("masked", 2, 0, 2, ""),  # each of the two learns the other's update
        ("sealed", 3, 0, 1, ""),  # nothing is summed under masks
        ("float32", 3, 2, 6, ""),
    ],
)
def test_a_fleet_or_cohort_too_small_for_a_masked_sum_is_refused_with_the_ways_out(
    codec, minimum, cohort, vehicles, refused
):
    update = UpdateConfig(codec=codec, minimum_cohort=minimum)
    rounds = RoundConfig(cohort_size=cohort)
    if not refused:
        check_sum_size(update, rounds, vehicles)
        return
    with pytest.raises(UsageError, match=f"{refused}.*lower minimum_cohort.*sealed"):
        check_sum_size(update, rounds, vehicles)
