"""`convoy doctor` as a whole, and its look at recordings."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from small_recordings import record, write_tub

from convoy_cli.main import DONE, FAILED, run
from convoy_cli.verbs import installed_verbs
from convoy_edge_client.agent.doctor.examination import examine, verdict_finding
from convoy_edge_client.agent.doctor.recordings import look_at_recordings, recordings_finding
from convoy_edge_client.agent.guards import Verdict
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_protos.findings import Level


@pytest.fixture
def tub(tmp_path):
    return write_tub(tmp_path / "tub", [record(index) for index in range(12)])


@pytest.fixture
def vehicle(tmp_path, tub):
    return VehicleConfig(
        vehicle_id="car-07", recordings=(str(tub),), cache_dir=str(tmp_path / "cache")
    )


def test_the_first_frames_of_recordings_say_whether_they_are_any_good(vehicle):
    finding = look_at_recordings(vehicle)
    assert finding.level is Level.OK
    assert "1; of their first 200 frames 12 usable" in finding.message


@pytest.mark.parametrize("recordings", ["nowhere", "empty"])
def test_recordings_that_are_not_there_are_a_problem(vehicle, tmp_path, recordings):
    (tmp_path / "empty").mkdir()
    finding = look_at_recordings(replace(vehicle, recordings=(str(tmp_path / recordings),)))
    assert finding.level is Level.PROBLEM
    assert recordings in finding.message


@pytest.mark.parametrize(
    ("usable", "skipped", "level"),
    [
        (200, {}, Level.OK),
        (150, {"image_missing": 50}, Level.OK),
        (50, {"image_missing": 150}, Level.WARNING),
        (0, {"image_missing": 200}, Level.PROBLEM),
        (0, {}, Level.PROBLEM),
    ],
)
def test_frames_that_cannot_be_used_are_named(usable, skipped, level):
    finding = recordings_finding(1, usable, Counter(skipped))
    assert finding.level is level
    if skipped:
        assert "image missing" in finding.message


def test_the_guards_are_asked():
    no = Verdict(may_work=False, reason="driving needs the machine", retry_after_s=10, hot=False)
    assert verdict_finding(no).level is Level.WARNING
    assert "driving needs the machine" in verdict_finding(no).message
    yes = Verdict(may_work=True, reason="", retry_after_s=0, hot=False)
    assert verdict_finding(yes).level is Level.OK


@pytest.mark.slow
def test_without_an_agent_toml_the_machine_is_looked_at():
    subjects = [finding.subject for finding in examine(None)]
    assert subjects[:4] == ["Python", "torch", "Flower", "onnxruntime"]
    assert {"temperature", "memory", "swap", "clock"} <= set(subjects)
    assert "configuration" not in subjects


def test_a_wrong_agent_toml_is_a_finding_as_well(tmp_path):
    (tmp_path / "agent.toml").write_text("[vehicel]\n")
    first, *others = examine(tmp_path / "agent.toml")
    assert first.level is Level.PROBLEM
    assert "did you mean 'vehicle'" in first.message
    assert others


def test_the_verb_prints_one_line_a_finding_and_ends_with_1_where_there_is_a_problem(
    tub, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert run(["doctor"], installed_verbs()) == DONE
    capsys.readouterr()

    (tmp_path / "agent.toml").write_text(
        '[vehicle]\nvehicle_id = "car-07"\n' + f'recordings = ["{tub}"]\n'
    )
    assert run(["doctor"], installed_verbs()) == FAILED
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(examine(tmp_path / "agent.toml"))
    assert all(line.startswith(("ok ", "warning ", "problem ")) for line in lines)
    assert any("convoy agent join TOKEN" in line for line in lines)
    assert any(line.startswith("ok") and "12 usable" in line for line in lines)


def test_the_verb_prints_json_for_machines(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["doctor", "--json"], installed_verbs()) == DONE
    findings = json.loads(capsys.readouterr().out)
    assert {"level", "subject", "message"} == set(findings[0])
