"""The report of a run directory, finished or not."""

import dataclasses

import numpy as np
import pytest

from convoy_driving.parameters import ParameterSchema
from convoy_protos.errors import UsageError
from convoy_protos.settings import to_table
from convoy_server.checkpoint import CHECKPOINT_FOLDER, Checkpoint, save_checkpoint
from convoy_server.report import on_disk
from convoy_server.round_log import VehicleScore, to_line
from convoy_server.rounds import RoundConfig
from convoy_server.run_config import RunConfig


@pytest.fixture
def interrupted(tmp_path, rounds):
    """A run directory as a crash after two of nine rounds leaves it."""
    run = RunConfig(name="mine", seed=5, round=RoundConfig(rounds=9))
    model_N = np.zeros(6, np.float32)
    checkpoint = Checkpoint(
        run_id="r", round=2, settings=to_table(run), model_N=model_N, snapshots=(model_N,)
    )
    (tmp_path / CHECKPOINT_FOLDER).mkdir()
    schema = ParameterSchema(names=("w",), shapes=((2, 3),))
    save_checkpoint(tmp_path / CHECKPOINT_FOLDER, checkpoint, schema)
    score = VehicleScore(examples=70, balanced_accuracy=0.5, accuracy=0.6, throttle_mae=0.1)
    scored = dataclasses.replace(rounds[1], per_vehicle={"car0": score, "car1": score})
    unscored = dataclasses.replace(rounds[0], balanced_accuracy=None)
    text = f"{to_line(unscored)}\n{to_line(scored)}\n"
    (tmp_path / "rounds.jsonl").write_text(text)
    return tmp_path


def test_a_finished_run_has_its_report_back(run_dir, full_report):
    page = on_disk.save(full_report, run_dir)
    assert page.read_text().startswith("<!doctype html>")
    assert on_disk.load(run_dir) == full_report


def test_an_interrupted_run_has_a_report_of_its_rounds(interrupted):
    report = on_disk.load(interrupted)
    assert (report.scenario, report.seed, report.complete) == ("mine", 5, False)
    assert [record.round for record in report.rounds] == [1, 2]
    assert report.rounds_planned == 9
    assert dataclasses.astuple(report.fleet) == (2, 140, 6)
    assert report.release is report.update is report.cpu_s is None
    assert report.final.balanced_accuracy == report.rounds[1].balanced_accuracy
    assert report.final.worst_vehicle.balanced_accuracy == 0.5
    assert "not finished" in on_disk.save_page(report, interrupted).read_text()


def test_before_the_first_scores_there_is_nothing_final(interrupted):
    lines = (interrupted / "rounds.jsonl").read_text().splitlines(keepends=True)
    (interrupted / "rounds.jsonl").write_text(lines[0])
    assert on_disk.load(interrupted).final is None


def test_a_line_that_is_being_written_is_left_out(interrupted):
    with (interrupted / "rounds.jsonl").open("a") as file:
        file.write('{"round": 3, "outc')
    assert len(on_disk.load(interrupted).rounds) == 2


def test_the_report_of_an_earlier_run_does_not_pass_for_the_one_that_goes_on(
    interrupted, full_report
):
    stale = dataclasses.replace(full_report, pictures=())
    on_disk.save(stale, interrupted)
    assert on_disk.load(interrupted).scenario == "mine"


def test_a_finished_run_keeps_its_report_beside_its_rounds(interrupted, full_report):
    mine = on_disk.load(interrupted)
    finished = dataclasses.replace(full_report, rounds=mine.rounds, pictures=())
    on_disk.save(finished, interrupted)
    assert on_disk.load(interrupted) == finished


def test_a_broken_line_is_named(interrupted):
    path = interrupted / "rounds.jsonl"
    path.write_text(path.read_text() + '{"round": "three"}\n')
    with pytest.raises(UsageError, match=r"rounds\.jsonl:3: "):
        on_disk.load(interrupted)


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no run"):
        on_disk.load(tmp_path)


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such directory"):
        on_disk.load(tmp_path / "gone")
