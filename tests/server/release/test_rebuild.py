"""The release of a finished run, made again from its directory."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_fleet import DATA, record_small_tub

from convoy_compression.model.tensor_ranges import observe
from convoy_driving.models.registry import ModelConfig, build_model
from convoy_driving.parameters import flatten, schema_of
from convoy_protos.errors import UsageError
from convoy_protos.settings import to_table
from convoy_server.checkpoint import Checkpoint, save_checkpoint
from convoy_server.release.build import build_release
from convoy_server.release.config import ReleaseConfig
from convoy_server.release.finished_run import load_finished_run
from convoy_server.release.known_answers import load_answers, save_answers
from convoy_server.release.proxy import load_proxy
from convoy_server.release.rebuild import rebuild_release
from convoy_server.rounds import RoundConfig
from convoy_server.run_config import RunConfig

MODELS = ("model.fp32.onnx", "model.int8.onnx", "model.int8-trt.onnx", "golden.npz")
RUN = RunConfig(
    name="test",
    data=replace(DATA, held_share=0.3),
    model=ModelConfig(width=0.5),
    round=RoundConfig(rounds=2),
    release=ReleaseConfig(
        student="textbook",
        student_width=0.3,
        epochs=1,
        latency_repetitions=10,
        max_student_accuracy_drop=1.0,
        max_int8_accuracy_drop=1.0,
        min_int8_agreement=0.0,
        max_steering_change=2.0,
        max_int8_size_ratio=2.0,
        max_int8_latency_ratio=100.0,
    ),
)


def finished(out, rounds=2):
    models = [flatten(build_model(RUN.model, 32, 32, seed)) for seed in range(3)]
    checkpoint = Checkpoint(
        run_id="run-1",
        round=rounds,
        settings=to_table(RUN),
        model_N=models[-1],
        snapshots=tuple(models[1:]),
        members=tuple(models[:2]),
    )
    schema = schema_of(build_model(RUN.model, 32, 32, 0))
    save_checkpoint(out / "checkpoint", checkpoint, schema)
    return out


@pytest.fixture
def tub(tmp_path):
    record_small_tub(tmp_path / "track", 60, seed=5)
    return tmp_path / "track"


def test_a_finished_run_is_what_the_checkpoint_holds(tmp_path):
    run_id, run, result = load_finished_run(finished(tmp_path))

    assert (run_id, run) == ("run-1", RUN)
    assert [len(result.snapshots), len(result.members)] == [2, 2]
    np.testing.assert_array_equal(result.model_N, result.snapshots[-1])


@pytest.mark.slow
def test_a_release_is_made_again_byte_for_byte(tmp_path, tub):
    out = finished(tmp_path / "run")
    run_id, run, result = load_finished_run(out)

    def vehicles(observer, _):
        frames = load_proxy([tub], run.data, tmp_path / "cache").frames_at(np.arange(40))
        return {f"car{shift}": observe(observer, np.roll(frames, shift)) for shift in range(3)}

    first = build_release(
        run=run,
        result=result,
        proxy=load_proxy([tub], run.data, tmp_path / "cache"),
        out=out,
        run_id=run_id,
        ask_vehicles=vehicles,
        closed_loop_score=lambda _: 0.75,
        recordings=[tub],
    )
    assert first.report.accepted, first.report.reasons

    again = rebuild_release(out, tmp_path / "again", (), tmp_path / "cache")

    assert again.report.accepted, again.report.reasons
    for name in MODELS:
        assert (again.folder / name).read_bytes() == (first.folder / name).read_bytes()
    card = json.loads((again.folder / "card.json").read_text())
    assert card["measured"]["closed_loop_score"] == 0.75
    assert card["teaching"]["teachers"] == "shards"
    assert load_answers(tmp_path / "again").recordings == (str(tub.resolve()),)


@pytest.mark.slow
def test_another_file_than_the_one_that_drove_is_refused(tmp_path, tub):
    out = finished(tmp_path / "run")
    answers = load_answers(out)
    answers.closed_loop["0" * 64] = 1.0
    save_answers(out, answers)

    outcome = rebuild_release(out, out, [tub], tmp_path / "cache")

    assert not outcome.report.accepted
    assert outcome.report.reasons[0].startswith("the int8 file is not the one that drove")


@pytest.mark.parametrize(
    ("rounds", "proxy", "words"),
    [
        (1, (), "1 of 2 rounds are done"),
        (2, (), "the run names none; name some with --proxy"),
        (2, (Path("nowhere"),), "nowhere is not there"),
    ],
)
def test_what_cannot_be_released_is_wrong_input(tmp_path, rounds, proxy, words):
    out = finished(tmp_path, rounds)

    with pytest.raises(UsageError, match=words):
        rebuild_release(out, out, proxy, tmp_path / "cache")


def test_an_empty_directory_is_wrong_input(tmp_path):
    with pytest.raises(UsageError, match="holds no run"):
        load_finished_run(tmp_path)
