"""The verb `convoy data check`: what it prints, and what it refuses."""

import json

import pytest
from small_recordings import record, write_tub

from convoy_driving.commands import data_check
from convoy_driving.errors import NotARecordingError
from convoy_protos.errors import SettingsError


@pytest.fixture
def fleet(tmp_path):
    write_tub(
        tmp_path / "fleet" / "car0",
        [record(index) for index in range(9)] + [record(9, **{"user/mode": "local"})],
        deleted=[3],
        pictures={4: b"torn", 5: None},
    )
    write_tub(tmp_path / "fleet" / "empty", [])
    return tmp_path / "fleet"


def test_json_has_exactly_the_keys_of_the_contract(fleet, capsys):
    data_check([fleet], as_json=True)

    (car0, empty) = json.loads(capsys.readouterr().out)["recordings"]
    assert car0 == {
        "path": str(fleet / "car0"),
        "vehicle": "car0",
        "frames_usable": 7,
        "skipped": {"image_missing": 1, "marked_deleted": 1, "undecodable": 1},
        "laps": 1,
        "class_shares": pytest.approx([3 / 7, 2 / 7, 2 / 7]),
        "rate_hz": 20.0,
        "resolution": [32, 24],
    }
    assert empty == {
        "path": str(fleet / "empty"),
        "vehicle": "empty",
        "frames_usable": 0,
        "skipped": {},
        "laps": 0,
        "class_shares": [0.0, 0.0, 0.0],
        "rate_hz": None,
        "resolution": [0, 0],
    }


def test_the_table_names_reasons_in_words_and_notes_say_what_to_do(fleet, capsys):
    data_check([fleet])

    printed = capsys.readouterr().out
    assert "1 image missing, 1 marked deleted, 1 undecodable" in printed
    assert "20 Hz" in printed
    assert "empty: nothing to learn from; leave it out" in printed
    assert '1 usable frames were driven in mode local, not by a person; modes = ["user"]' in printed


def test_settings_come_from_the_data_table_of_a_scenario(fleet, tmp_path, capsys):
    scenario = tmp_path / "my.toml"
    scenario.write_text('name = "mine"\n[data]\nmodes = ["user"]\n[training]\nlearning_rate = 1\n')

    data_check([fleet / "car0"], as_json=True, settings=scenario)

    (car0,) = json.loads(capsys.readouterr().out)["recordings"]
    assert car0["skipped"]["mode_not_user"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[data]\nmode = []", r"my\.toml \[data\]: unknown key 'mode'; did you mean 'modes'"),
        ("[data", r"my\.toml: not valid TOML"),
        ("[data]\nframe_width = 8", r"my\.toml \[data\]: frame_width must be in 16\.\.1024, got 8"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(fleet, tmp_path, text, message):
    scenario = tmp_path / "my.toml"
    scenario.write_text(text)

    with pytest.raises(SettingsError, match=message):
        data_check([fleet], settings=scenario)


def test_a_path_that_is_no_recording_is_bad_input(tmp_path):
    with pytest.raises(NotARecordingError, match="no recording here"):
        data_check([tmp_path])
