"""A vehicle's own configuration: found through Flower, strict, and clear when something is wrong."""

import json

import pytest

from convoy_edge_client.errors import RecordingsMissingError, VehicleConfigError
from convoy_edge_client.vehicle_config import (
    VehicleConfig,
    load_vehicle_config,
    save_fleet,
    save_vehicle_config,
    vehicle_of,
)
from convoy_protos.errors import SettingsError
from convoy_protos.flower_internals import make_context
from convoy_protos.protection import Protection


def test_a_configuration_comes_back_as_it_was_saved(tmp_path):
    config = VehicleConfig(
        vehicle_id="van-7",
        recordings=(str(tmp_path / "monday"), str(tmp_path / "tuesday")),
        cache_dir=str(tmp_path / "cache"),
        mirror=False,
        device="cuda:1",
        torch_threads=2,
        identity=str(tmp_path / "keys"),
        least_protection="sealed",
        minimum_cohort=7,
        metrics="withheld",
        minimum_helpers=2,
        helper_identity=str(tmp_path / "helper"),
    )

    save_vehicle_config(config, tmp_path / "deep" / "van-7.json")

    assert load_vehicle_config(tmp_path / "deep" / "van-7.json") == config


def test_relative_paths_start_at_the_file(tmp_path):
    written = {
        "vehicle_id": "van-7",
        "recordings": ["tubs/monday"],
        "cache_dir": "cache",
        "identity": "keys/van-7",
        "helper_identity": "keys/helper",
    }
    (tmp_path / "van-7.json").write_text(json.dumps(written))

    config = load_vehicle_config(tmp_path / "van-7.json")

    assert config.recordings == (str(tmp_path / "tubs/monday"),)
    assert config.cache_dir == str(tmp_path / "cache")
    assert config.identity == str(tmp_path / "keys/van-7")
    assert config.helper_identity == str(tmp_path / "keys/helper")


def test_absolute_paths_stay_as_they_are(tmp_path):
    written = {"vehicle_id": "a", "recordings": ["/r"], "cache_dir": "/c", "identity": "/keys"}
    (tmp_path / "van.json").write_text(json.dumps(written))

    config = load_vehicle_config(tmp_path / "van.json")

    assert (config.recordings, config.cache_dir, config.identity) == (("/r",), "/c", "/keys")


def test_a_vehicle_that_says_nothing_about_it_is_protected_as_well_as_can_be(tmp_path):
    written = {"vehicle_id": "a", "recordings": ["r"], "cache_dir": "c"}
    (tmp_path / "van.json").write_text(json.dumps(written))

    config = load_vehicle_config(tmp_path / "van.json")

    assert config.protection is Protection.MASKED
    assert config.minimum_cohort == 3
    assert config.metrics == "clear"
    assert config.minimum_helpers == 1
    assert (config.identity, config.helper_identity) == (
        "",
        "",
    )  # not the folder that the file is in


def test_a_roadside_unit_needs_its_helper_s_folder_alone(tmp_path):
    (tmp_path / "unit.json").write_text('{"vehicle_id": "unit", "helper_identity": "keys"}')

    config = load_vehicle_config(tmp_path / "unit.json")

    assert (config.recordings, config.helper_identity) == ((), str(tmp_path / "keys"))


@pytest.mark.parametrize(
    ("least", "protection"),
    [
        ("masked", Protection.MASKED),
        ("sealed", Protection.SEALED),
        ("none", Protection.NONE),
    ],
)
def test_the_least_protection_is_named_by_a_word(least, protection):
    config = VehicleConfig(vehicle_id="a", recordings=("r",), cache_dir="c", least_protection=least)
    assert config.protection is protection


def written_with(key, value):
    return json.dumps({"vehicle_id": "a", "recordings": ["r"], "cache_dir": "c", key: value})


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (None, VehicleConfigError, "no such file"),
        ("{", VehicleConfigError, "cannot be read as JSON"),
        ("[]", VehicleConfigError, "expected a JSON object"),
        ('{"vehicle_id": "a", "recordings": [], "cache_dir": "c"}', SettingsError, "at least one"),
        ('{"vehicle_id": "", "recordings": ["r"], "cache_dir": "c"}', SettingsError, "be empty"),
        ('{"vehicle_id": "a", "recording": ["r"]}', SettingsError, "did you mean 'recordings'"),
        (
            '{"vehicle_id": "a", "recordings": ["r"], "cache_dir": "c", "torch_threads": 0}',
            SettingsError,
            "torch_threads must be at least 1, got 0",
        ),
        (
            written_with("least_protection", "secret"),
            SettingsError,
            "least_protection: expected one of masked, sealed, none, got 'secret'",
        ),
        (written_with("least_protection", 2), SettingsError, "expected one of masked"),
        (written_with("least_protection", None), SettingsError, "expected one of masked"),
        (written_with("minimum_cohort", 1), SettingsError, "the sum over one vehicle is its"),
        (written_with("minimum_cohort", 0), SettingsError, "minimum_cohort must be"),
        (written_with("minimum_cohort", 129), SettingsError, "minimum_cohort must be"),
        (written_with("minimum_cohort", 3.0), SettingsError, "expected int"),
        (written_with("minimum_helpers", 0), SettingsError, "minimum_helpers must be in 1..8"),
        (
            written_with("metrics", "hidden"),
            SettingsError,
            "expected one of clear, summed, withheld",
        ),
        (written_with("metrics", True), SettingsError, "expected one of clear, summed, withheld"),
        (written_with("identity", 5), SettingsError, "identity: expected str"),
        (written_with("identities", "keys"), SettingsError, "did you mean 'identity'"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, text, error, words):
    path = tmp_path / "van.json"
    if text is not None:
        path.write_text(text)

    with pytest.raises(error, match=words) as caught:
        load_vehicle_config(path)

    assert str(path) in str(caught.value)


def test_missing_recordings_name_the_vehicle_and_the_path(tmp_path):
    config = VehicleConfig(
        vehicle_id="van-7", recordings=(str(tmp_path / "gone"),), cache_dir="cache"
    )

    with pytest.raises(RecordingsMissingError, match=f"vehicle van-7: .*{tmp_path}/gone"):
        _ = config.recording_paths


def test_a_node_may_name_its_vehicle_itself(small_fleet):
    context = make_context(5, {"vehicle-config": str(small_fleet.vehicles["car2"])})

    assert vehicle_of(context).vehicle_id == "car2"


def test_a_numbered_node_finds_its_vehicle_in_the_list_of_the_run(small_fleet):
    run_config = {"convoy-fleet": str(small_fleet.fleet_file)}

    ids = [
        vehicle_of(make_context(5, {"partition-id": index}, run_config)).vehicle_id
        for index in range(6)
    ]

    assert ids == [f"car{index}" for index in range(6)]


def test_a_list_may_name_its_files_relative_to_itself(tmp_path):
    config = VehicleConfig(vehicle_id="van-7", recordings=("r",), cache_dir="c")
    save_vehicle_config(config, tmp_path / "vehicles" / "van-7.json")
    (tmp_path / "fleet.json").write_text('["vehicles/van-7.json"]')

    context = make_context(5, {"partition-id": 0}, {"convoy-fleet": str(tmp_path / "fleet.json")})

    assert vehicle_of(context).vehicle_id == "van-7"


@pytest.mark.parametrize(
    ("node_config", "with_fleet", "words"),
    [
        ({}, False, "node 5 does not know which vehicle it is"),
        ({"partition-id": 0}, False, "does not know which vehicle"),
        ({}, True, "does not know which vehicle"),
        ({"partition-id": 3}, True, "lists 1 vehicles, but this node is partition 3"),
        ({"partition-id": -1}, True, "lists 1 vehicles, but this node is partition -1"),
    ],
)
def test_a_node_without_a_vehicle_is_told_how_to_get_one(tmp_path, node_config, with_fleet, words):
    save_fleet([tmp_path / "van.json"], tmp_path / "fleet.json")
    run_config = {"convoy-fleet": str(tmp_path / "fleet.json")} if with_fleet else {}

    with pytest.raises(VehicleConfigError, match=words):
        vehicle_of(make_context(5, node_config, run_config))
