"""Scenario files: strict, complete, and with errors that name the file, the table and the key."""

import dataclasses
import re
import tomllib
import typing
from pathlib import Path

import pytest

from convoy_protos.errors import SettingsError, UsageError
from convoy_server.rounds import RoundConfig
from convoy_simulation.faults import FaultRule
from convoy_simulation.scenario import Scenario, load_scenario, run_config
from convoy_simulation.scenarios import DEMO


def scenario_file(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def all_keys(cls, path=()):
    """Every key of a scenario as the tables above it and its name."""
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[item.name]):
            yield from all_keys(hints[item.name], (*path, item.name))
        else:
            yield (*path, item.name)


def test_an_empty_file_is_the_defaults_under_the_name_of_the_file(tmp_path):
    assert load_scenario(scenario_file(tmp_path, "")) == Scenario(name="mine")


def test_a_file_says_only_what_it_wants_different(tmp_path):
    text = 'name = "night"\nseed = 4\n[round]\nrounds = 3\n[fleet.vehicle.car1]\nmirror = false\n'
    scenario = load_scenario(scenario_file(tmp_path, text))
    assert (scenario.name, scenario.seed, scenario.round.rounds) == ("night", 4, 3)
    assert not scenario.fleet.override("car1").mirror
    assert scenario.fleet.override("car2").mirror
    assert scenario.data == Scenario().data


def test_faults_are_named_by_vehicle(tmp_path):
    text = '[faults]\ncar1 = "nan"\n"car 2" = {kind = "truncated", rounds = [2]}\n'
    assert load_scenario(scenario_file(tmp_path, text)).faults.vehicles == {
        "car1": FaultRule(kind="nan"),
        "car 2": FaultRule(kind="truncated", rounds=(2,)),
    }


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[training]\nlerning_rate = 1", r"\[training\]: unknown key 'lerning_rate'; did you mean"),
        ("[trainin]\n", r"unknown key 'trainin'; did you mean 'training'\?"),
        ("colour = 3", r"unknown key 'colour'; known are name, seed, fleet, data"),
        ("training = 3", r"training: expected a table \[training\], got 3"),
        ("[round]\nrounds = 0", r"\[round\]: rounds must be in 1\.\."),
        ('[round]\nrounds = "many"', r"\[round\] rounds: expected int, got 'many'"),
        (
            "[fleet.camera]\nwidth = 3",
            r"\[fleet\] camera: unknown key 'width'; did you mean 'width",
        ),
        ('[faults]\ncar1 = "sleepy"', r"\[faults\] car1: .*kind must be one of nan"),
        ("[network]\nspeed = 3", r"\[network\]: unknown key 'speed'; known are none"),
        ("seed = -1", r"top level: seed must be in"),
        ('name = ""', r"name must not be empty"),
        ("[training\n", r"no valid TOML.*line 1"),
    ],
)
def test_a_mistake_is_refused_with_file_table_and_key(tmp_path, text, error):
    path = scenario_file(tmp_path, text)
    with pytest.raises(UsageError, match=error) as caught:
        load_scenario(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused_with_its_name(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.toml: No such file"):
        load_scenario(tmp_path / "gone.toml")


def test_bytes_that_are_no_text_are_refused_with_the_name(tmp_path):
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"x\.toml: no valid TOML"):
        load_scenario(tmp_path / "x.toml")


def test_relative_paths_are_relative_to_the_file(tmp_path):
    text = (
        '[release]\nproxy = ["tubs", "/data/proxy"]\n'
        '[training]\ninitial_checkpoint = "../start.safetensors"\n'
        '[data]\nros_message_folder = "msgs"\n'
    )
    scenario = load_scenario(scenario_file(tmp_path, text))
    assert scenario.release.proxy == (str(tmp_path / "tubs"), "/data/proxy")
    assert Path(scenario.training.initial_checkpoint).resolve() == (
        tmp_path.parent / "start.safetensors"
    )
    assert scenario.data.ros_message_folder == str(tmp_path / "msgs")


def test_the_command_line_wins_over_the_file():
    scenario = Scenario(seed=1, round=RoundConfig(rounds=9))
    changed = scenario.with_overrides(rounds=2, seed=5)
    assert (changed.seed, changed.round.rounds) == (5, 2)
    assert scenario.with_overrides() == scenario


def test_fewer_rounds_than_are_averaged_average_them_all():
    scenario = Scenario(round=RoundConfig(rounds=9, averaged_rounds=4))
    assert scenario.with_overrides(rounds=2).round.averaged_rounds == 2
    assert scenario.with_overrides(rounds=6).round.averaged_rounds == 4


@pytest.mark.parametrize("override", [{"rounds": 0}, {"rounds": -3}, {"seed": -1}])
def test_a_command_line_out_of_range_is_refused(override):
    with pytest.raises(SettingsError, match="command line: "):
        Scenario().with_overrides(**override)


def test_the_server_gets_its_part(tmp_path):
    text = 'seed = 4\n[round]\nrounds = 3\n[model]\nname = "slim"\n[privacy]\nclip_norm = 2\n'
    run = run_config(load_scenario(scenario_file(tmp_path, text)))
    assert (run.name, run.seed, run.round.rounds) == ("mine", 4, 3)
    assert (run.model.name, run.privacy.clip_norm) == ("slim", 2.0)


@pytest.mark.parametrize("path", sorted(DEMO.parent.glob("*.toml")), ids=lambda path: path.stem)
def test_every_scenario_that_comes_with_convoy_can_be_read(path):
    assert load_scenario(path).name == path.stem


def test_the_demo_names_every_key_there_is():
    text = DEMO.read_text()
    table = tomllib.loads(text)
    for *above, key in all_keys(Scenario):
        section = table
        for step in above:
            section = section[step]
        # A key that is off by default, or named by vehicle, stands there as a comment.
        switched_off = rf"^# (\[{'.'.join([*above, key])}\.|{key} = )"
        if above != ["faults"]:
            assert key in section or re.search(switched_off, text, re.MULTILINE), (above, key)


def test_every_key_of_the_demo_has_a_comment_above_it():
    lines = DEMO.read_text().splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if re.match(r"\w+ = ", line) or line.startswith("["):
            assert before.startswith("# "), line


def test_what_the_demo_switches_off_can_be_switched_on(tmp_path):
    text = re.sub(r"(?m)^# (?=\w[\w-]* = |\[fleet\.vehicle)", "", DEMO.read_text())
    scenario = load_scenario(scenario_file(tmp_path, text))
    assert scenario.privacy.clip_norm == 10.0
    assert scenario.training.initial_checkpoint
    assert scenario.fleet.override("car3").appearance == "thermal"
    assert scenario.faults.vehicles["car5-rain"].rounds == (2, 3)


@pytest.mark.parametrize(("units", "helpers"), [(1, 2), (1, 0)])
def test_too_few_roadside_units_are_refused(tmp_path, units, helpers):
    text = f"[fleet]\nroadside_units = {units}\n[update]\nhelpers = {helpers}\n"
    with pytest.raises(SettingsError, match=r"mine\.toml: \[fleet\] roadside_units = 1 and"):
        load_scenario(scenario_file(tmp_path, text))


def test_tables_that_do_not_go_together_are_refused_by_name(tmp_path):
    text = '[privacy]\nclip_norm = 1.0\nnoise_multiplier = 1.0\n[update]\ncodec = "sealed"\n'
    with pytest.raises(SettingsError, match=r"mine\.toml: noise_multiplier needs codec masked"):
        load_scenario(scenario_file(tmp_path, text))
