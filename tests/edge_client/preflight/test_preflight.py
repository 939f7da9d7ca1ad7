"""A whole release on this machine: what is examined, tried, chosen and refused."""

import dataclasses
import os
import signal
import stat
import sys

import pytest
import small_release
from bad_models import (
    BAD_MODELS,
    SOUND,
    endless_loop,
    flipped_bit,
    memory_bomb_of_allowed_operators,
)

from convoy_driving.golden import Answers
from convoy_edge_client.errors import WorkerError
from convoy_edge_client.preflight import limited_process
from convoy_edge_client.preflight.limited_process import WorkerOrder, ask_worker
from convoy_edge_client.preflight.preflight import examine_release
from convoy_edge_client.preflight.preflight_config import PreflightConfig, Provider
from convoy_edge_client.preflight.trial import try_out
from convoy_edge_client.preflight.trial_order import TrialOrder
from convoy_edge_client.preflight.worker import TRY_OUT
from convoy_protos.findings import Level, problems
from convoy_protos.release_manifest import Variant, read_manifest
from convoy_protos.settings import to_table

# Nothing here depends on how fast this machine is.
PATIENT = PreflightConfig(
    providers=("cpu",), frame_period_ms=1e6, repetitions=3, trial_s=60.0, memory_mb=600
)
BOTH = {Variant.FP32: SOUND, Variant.INT8_CPU: SOUND}
GOLDEN = small_release.golden(small_release.model())


def lines(report):
    return {finding.subject: finding for finding in report.findings}


def order_of(folder, variant=Variant.FP32, provider=Provider.CPU):
    manifest = read_manifest((folder / "manifest.json").read_bytes())
    return TrialOrder(
        folder=str(folder),
        variant=variant.value,
        provider=provider.value,
        model=manifest.files[variant.file_name],
        golden=manifest.files["golden.npz"],
        repetitions=2,
    )


def ask(order, limit_s=60.0, memory_mb=600):
    return ask_worker(
        [WorkerOrder(task=TRY_OUT, content=to_table(order), limit_s=limit_s)], memory_mb
    )[0]


@pytest.mark.slow
def test_a_sound_release_passes_with_one_line_a_check(tmp_path):
    folder = small_release.write_release(tmp_path, BOTH, GOLDEN)

    report = examine_release(folder, PATIENT)

    assert report.passed
    assert {finding.level for finding in report.findings} == {Level.OK}
    assert report.choice.provider is Provider.CPU
    assert report.choice.variant in BOTH
    assert report.manifest.release_id == "spring"
    subjects = [finding.subject for finding in report.findings]
    assert subjects[:2] == ["manifest", "files"]
    assert subjects[-3:] == ["int8-cpu on cpu", "fp32 on cpu", "choice"]
    assert len(subjects) == len(set(subjects)) == 2 + 2 * 5 + 3


@pytest.mark.slow
def test_a_provider_that_is_not_there_is_left_out(tmp_path):
    folder = small_release.write_release(tmp_path, BOTH, GOLDEN)
    config = dataclasses.replace(PATIENT, providers=("tensorrt", "cuda", "cpu"))

    report = examine_release(folder, config)

    assert report.choice.provider is Provider.CPU
    assert lines(report)["tensorrt"].level is Level.WARNING
    assert "not part of this onnxruntime" in lines(report)["cuda"].message


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_only_claims_to_be_there_does_not_count(tmp_path, monkeypatch):
    """As on a vehicle whose CUDA libraries do not load: onnxruntime lists it, then falls back."""
    folder = small_release.write_release(tmp_path, BOTH, GOLDEN)
    monkeypatch.setattr(
        "onnxruntime.get_available_providers", lambda: [one.onnxruntime_name for one in Provider]
    )
    monkeypatch.chdir(tmp_path)

    assert "fell back" in try_out(order_of(folder, provider=Provider.CUDA)).fault
    assert not try_out(order_of(folder, provider=Provider.CPU)).fault


@pytest.mark.slow
def test_a_golden_mismatch_of_one_variant_leaves_only_that_one_out(tmp_path):
    answers = GOLDEN.answers[Variant.INT8_CPU]
    wrong = dict(GOLDEN.answers) | {
        Variant.INT8_CPU: Answers(answers.steering_N3, answers.throttle_N + 0.2)
    }
    folder = small_release.write_release(tmp_path, BOTH, dataclasses.replace(GOLDEN, answers=wrong))

    report = examine_release(folder, PATIENT)

    assert report.choice.variant is Variant.FP32
    assert "0.2 off the golden vectors" in lines(report)["int8-cpu on cpu"].message


@pytest.mark.slow
def test_what_is_slower_than_the_camera_does_not_drive(tmp_path):
    folder = small_release.write_release(tmp_path, BOTH, GOLDEN)
    config = dataclasses.replace(PATIENT, frame_period_ms=1e-6)

    report = examine_release(folder, config)

    assert not report.passed
    assert "takes" in lines(report)["fp32 on cpu"].message
    assert lines(report)["choice"].level is Level.PROBLEM


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nan_weights", "endless_loop", "external_absolute", "truncated"])
def test_one_bad_file_refuses_the_whole_release_before_anything_runs(tmp_path, name):
    models = {Variant.FP32: SOUND, Variant.INT8_CPU: BAD_MODELS[name][0]}
    folder = small_release.write_release(tmp_path, models, GOLDEN)

    report = examine_release(folder, PATIENT)

    assert not report.passed
    assert problems(report.findings)
    assert not any(" on cpu" in finding.subject for finding in report.findings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (flipped_bit(), "SHA-256"),
        (SOUND[:-1], f"expected {len(SOUND)} bytes, got {len(SOUND) - 1}"),
        (SOUND + b"\0", "got more"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_not_the_manifests_is_refused(tmp_path, content, words):
    folder = small_release.write_release(tmp_path, BOTH, GOLDEN)
    path = folder / Variant.INT8_CPU.file_name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)

    report = examine_release(folder, PATIENT)

    assert not report.passed
    assert words in lines(report)["int8-cpu format"].message


@pytest.mark.parametrize(
    ("changes", "subject", "words"),
    [
        ({"accepted": False}, "manifest", "a gate refused it"),
        ({"counter": "3"}, "manifest", "counter"),
        ({"files": {}}, "files", "expected a model and golden.npz, got none"),
    ],
)
def test_a_manifest_that_promises_nothing_good_ends_it(tmp_path, changes, subject, words):
    folder = small_release.write_release(tmp_path, BOTH, GOLDEN, **changes)

    report = examine_release(folder, PATIENT)

    assert not report.passed
    assert words in lines(report)[subject].message


def test_a_folder_without_a_manifest_is_one_finding(tmp_path):
    report = examine_release(tmp_path, PATIENT)

    assert [finding.subject for finding in report.findings] == ["manifest"]
    assert report.manifest is None


@pytest.mark.parametrize("name", ["golden", "model"])
def test_a_file_larger_than_allowed_is_never_read(tmp_path, name):
    folder = small_release.write_release(tmp_path, BOTH, GOLDEN)
    config = dataclasses.replace(PATIENT, **{f"largest_{name}_bytes": 100})

    report = examine_release(folder, config)

    assert "expected 1..100 bytes" in lines(report)["files"].message


@pytest.mark.slow
def test_a_terabyte_is_refused_by_the_limit_and_the_rest_goes_on(tmp_path):
    models = {Variant.FP32: SOUND, Variant.INT8_CPU: memory_bomb_of_allowed_operators()}
    folder = small_release.write_release(tmp_path, models, GOLDEN)

    report = examine_release(folder, PATIENT)

    assert report.choice.variant is Variant.FP32
    assert lines(report)["int8-cpu on cpu"].level is Level.WARNING


@pytest.mark.slow
def test_an_endless_loop_is_ended_and_the_rest_goes_on(tmp_path):
    """The list of operators refuses it before; this is the second lock."""
    models = {Variant.FP32: SOUND, Variant.INT8_CPU: endless_loop()}
    folder = small_release.write_release(tmp_path, models, GOLDEN)
    orders = [
        WorkerOrder(task=TRY_OUT, content=to_table(order_of(folder, variant)), limit_s=limit_s)
        for variant, limit_s in ((Variant.INT8_CPU, 8.0), (Variant.FP32, 60.0))
    ]

    endless, sound = ask_worker(orders, 600)

    assert isinstance(endless, WorkerError)  # the time or, for its profile, the memory ends it
    assert sound["fault"] == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wrong_height", "other_input_name", "ir_99", "custom_operator"])
def test_the_trial_alone_refuses_what_onnxruntime_or_the_golden_frames_refuse(tmp_path, name):
    folder = small_release.write_release(tmp_path, {Variant.FP32: BAD_MODELS[name][0]}, GOLDEN)

    assert ask(order_of(folder))["fault"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [("nan_weights", "answers NaN"), ("infinite_weights", "answers NaN")],
)
def test_the_trial_alone_refuses_answers_that_are_no_numbers(tmp_path, name, words):
    folder = small_release.write_release(tmp_path, {Variant.FP32: BAD_MODELS[name][0]}, GOLDEN)

    assert words in ask(order_of(folder))["fault"]


@pytest.mark.slow
def test_finite_and_wrong_is_told_by_the_golden_vectors(tmp_path):
    other = small_release.model(seed=5).SerializeToString()
    folder = small_release.write_release(tmp_path, {Variant.FP32: other}, GOLDEN)

    assert not examine_release(folder, PATIENT).passed


def test_what_takes_too_long_is_ended(tmp_path):
    folder = small_release.write_release(tmp_path, BOTH, GOLDEN)

    answer = ask(order_of(folder), limit_s=0.01)  # onnxruntime alone takes longer to import

    assert str(answer) == "not finished after 0.01 s"


def test_it_is_ended_even_where_its_parent_ignores_the_alarm(tmp_path):
    folder = small_release.write_release(tmp_path, BOTH, GOLDEN)
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        answer = ask(order_of(folder), limit_s=0.01)
    finally:
        signal.signal(signal.SIGALRM, before)

    assert isinstance(answer, WorkerError)


@pytest.mark.parametrize("printed", ["{broken", "[1]", ""])
def test_what_is_printed_in_place_of_an_answer_is_no_answer(tmp_path, monkeypatch, printed):
    babbling = tmp_path / "babbling"
    babbling.write_text(f"#!{sys.executable}\nprint({printed!r}, end='')\n")
    babbling.chmod(babbling.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(limited_process.sys, "executable", os.fspath(babbling))

    (answer,) = ask_worker([WorkerOrder(task=TRY_OUT, content={}, limit_s=60.0)], 600)

    assert isinstance(answer, WorkerError)


def test_a_crash_is_an_answer(tmp_path, monkeypatch):
    crashing = tmp_path / "crashing"
    crashing.write_text(
        f"#!{sys.executable}\nimport os\nos.kill(os.getpid(), {signal.SIGSEGV:d})\n"
    )
    crashing.chmod(crashing.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(limited_process.sys, "executable", os.fspath(crashing))

    (answer,) = ask_worker([WorkerOrder(task=TRY_OUT, content={}, limit_s=60.0)], 600)

    assert str(answer) == "ended by SIGSEGV"
