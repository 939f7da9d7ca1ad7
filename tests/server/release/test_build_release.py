"""From a finished run to released files, or to a refusal that says why."""

import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from convoy_compression.model.errors import QuantizationError
from convoy_compression.model.tensor_ranges import observe
from convoy_driving.certainty import COUNTS, certainty_counts
from convoy_driving.data_config import DataConfig
from convoy_driving.dataset import VehicleDataset
from convoy_driving.evaluation import torch_predictor
from convoy_driving.golden import Answers, read_golden
from convoy_driving.models.registry import ModelConfig, build_model
from convoy_driving.onnx_driver import OnnxDriver
from convoy_driving.parameters import flatten, schema_of
from convoy_protos.errors import SettingsError, UsageError
from convoy_protos.release_manifest import Variant, read_manifest
from convoy_server.federation import FederationResult
from convoy_server.release import build, candidate
from convoy_server.release.build import build_release, proxy_warnings
from convoy_server.release.config import ReleaseConfig
from convoy_server.release.manifest import broken_files
from convoy_server.release.proxy_fit import FleetCertainty
from convoy_server.report.contract import Release
from convoy_server.run_config import RunConfig

SIZE = 32
EASY = ReleaseConfig(
    student="textbook",
    student_width=0.3,
    epochs=2,
    teachers=2,
    latency_repetitions=10,
    max_student_accuracy_drop=1.0,
    max_int8_accuracy_drop=1.0,
    min_int8_agreement=0.0,
    max_steering_change=2.0,
    max_int8_size_ratio=2.0,
    max_int8_latency_ratio=100.0,
)
RUN = RunConfig(
    name="test",
    data=DataConfig(frame_height=SIZE, frame_width=SIZE),
    model=ModelConfig(width=0.5),
    release=EASY,
)


def proxy_frames(count=60, *, size=SIZE, train=40, seed=0):
    """Noise frames; steering spread over all three classes."""
    rng = np.random.default_rng(seed)
    return VehicleDataset(
        vehicle_id="simulator",
        frames_NHWC=rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8),
        steering_N=np.linspace(-1.0, 1.0, count, dtype=np.float32),
        throttle_N=np.full(count, 0.3, np.float32),
        lap_N=np.zeros(count, np.int32),
        steering_threshold=0.2,
        train_indices=np.arange(train, dtype=np.int64),
        held_indices=np.arange(train, count, dtype=np.int64),
    )


def federation(run=RUN, snapshots=3):
    """Global models as a run leaves them, untrained."""
    models = [build_model(run.model, SIZE, SIZE, seed) for seed in range(snapshots)]
    vectors = tuple(flatten(model) for model in models)
    return FederationResult(
        model_N=vectors[-1],
        schema=schema_of(models[0]),
        records=(),
        per_vehicle={},
        vehicles={},
        snapshots=vectors,
    )


def release(out, run=RUN, **arguments):
    defaults = {"result": federation(run), "proxy": proxy_frames(), "run_id": "run-1"}
    return build_release(run=run, out=out, **(defaults | arguments))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def accepted(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    told = []
    outcome = release(
        out,
        closed_loop_score=lambda path: float(path.is_file()),
        on_progress=lambda *step: told.append(step),
    )
    return out, outcome, told


@pytest.mark.slow
def test_a_release_that_passes_stands_complete_in_its_folder(accepted):
    out, outcome, _ = accepted

    assert outcome.report.accepted, outcome.report.reasons
    assert outcome.folder == out / "release"
    assert sorted(files(outcome.folder)) == [
        "card.html",
        "card.json",
        "golden.npz",
        "manifest.json",
        "model.fp32.onnx",
        "model.int8-trt.onnx",
        "model.int8.onnx",
    ]
    assert sorted(path.name for path in out.iterdir()) == ["release", "release_inputs.json"]
    assert broken_files(outcome.folder) == []


@pytest.mark.slow
def test_the_report_holds_every_figure(accepted):
    _, outcome, _ = accepted
    report, found = outcome.report, files(outcome.folder)

    assert isinstance(report, Release)
    assert [gate.name for gate in report.gates] == [
        "student_accuracy_drop",
        "int8_accuracy_drop",
        "parity_difference",
        "int8_agreement",
        "int8_steering_change",
        "trt_agreement",
        "trt_steering_change",
        "int8_size_ratio",
        "int8_latency_ratio",
        "closed_loop_score",
    ]
    assert all(gate.value is not None for gate in report.gates)
    assert report.fp32_bytes == len(found["model.fp32.onnx"])
    assert report.int8_bytes == len(found["model.int8.onnx"]) < report.fp32_bytes
    assert report.sha256 == hashlib.sha256(found["model.int8.onnx"]).hexdigest()
    assert 0 < report.student_parameters < report.teacher_parameters
    assert min(report.latency_ms.fp32_p50, report.latency_ms.int8_p50) > 0.0
    assert 0.0 <= outcome.proxy_entropy <= 1.0


@pytest.mark.slow
def test_files_and_manifest_say_where_the_model_comes_from(accepted):
    _, outcome, _ = accepted
    manifest = json.loads((outcome.folder / "manifest.json").read_text())
    metadata = OnnxDriver(outcome.folder / "model.int8.onnx").metadata

    digest = hashlib.sha256(federation().model_N.astype("<f4").tobytes()).hexdigest()
    assert manifest["schema"] == "convoy.release/1"
    assert manifest["accepted"] is True
    assert manifest["run_id"] == metadata["convoy.run"] == "run-1"
    assert manifest["global_model_sha256"] == metadata["convoy.global_model_sha256"] == digest
    assert metadata["convoy.schema"] == "convoy.model/1"
    assert metadata["convoy.precision"] == "int8"
    assert manifest["release_id"] == metadata["convoy.release"] == "run-1-0"
    assert (manifest["counter"], metadata["convoy.counter"]) == (0, "0")
    assert manifest["proxy_sha256"] == metadata["convoy.proxy_sha256"]
    assert manifest["variants"] == {
        "fp32": "model.fp32.onnx",
        "int8-cpu": "model.int8.onnx",
        "int8-trt": "model.int8-trt.onnx",
    }
    assert json.loads(metadata["convoy.classes"]) == ["left", "straight", "right"]
    assert json.loads(metadata["convoy.class_angles"]) == [-1.0, 0.0, 1.0]
    assert json.loads(metadata["convoy.input"])["height"] == SIZE
    assert "created" not in manifest


@pytest.mark.slow
def test_a_vehicle_reads_the_manifest(accepted):
    _, outcome, _ = accepted

    manifest = read_manifest((outcome.folder / "manifest.json").read_bytes())

    assert manifest.variants == tuple(Variant)
    assert (manifest.frame_height, manifest.frame_width) == (SIZE, SIZE)
    assert manifest.files["golden.npz"].size_bytes == len(files(outcome.folder)["golden.npz"])


@pytest.mark.slow
def test_golden_vectors_are_what_each_file_answers(accepted):
    _, outcome, _ = accepted
    golden = read_golden(files(outcome.folder)["golden.npz"])

    assert 1 <= len(golden.frames_NHWC) <= 8
    assert set(golden.answers) == set(Variant)
    for variant, expected in golden.answers.items():
        driver = OnnxDriver(outcome.folder / variant.file_name)
        assert expected.difference(Answers(*driver.predict(golden.frames_NHWC))) < 1e-5


@pytest.mark.slow
def test_vehicles_calibrate_without_showing_a_frame(tmp_path):
    asked = []

    def vehicles(observer, names):
        asked.append(names)
        return {
            f"car{seed}": observe(observer, proxy_frames(seed=seed).frames_NHWC)
            for seed in range(3)
        }

    outcome = release(tmp_path, ask_vehicles=vehicles, release_id="spring", counter=7)

    assert outcome.report.accepted, outcome.report.reasons
    assert len(asked) == 1
    metadata = OnnxDriver(outcome.folder / "model.int8.onnx").metadata
    assert metadata["convoy.calibration"] == "vehicles"
    assert (metadata["convoy.release"], metadata["convoy.counter"]) == ("spring", "7")


@pytest.mark.slow
def test_where_too_few_vehicles_tell_proxy_frames_calibrate(accepted, tmp_path):
    _, alone, _ = accepted

    outcome = release(tmp_path, ask_vehicles=lambda *_: {})

    assert files(outcome.folder)["model.int8.onnx"] == files(alone.folder)["model.int8.onnx"]
    metadata = OnnxDriver(outcome.folder / "model.int8.onnx").metadata
    assert metadata["convoy.calibration"] == "proxy"


@pytest.mark.slow
def test_too_few_vehicles_refuse_a_release_that_must_be_calibrated_by_them(tmp_path):
    run = replace(RUN, release=replace(EASY, calibration="vehicles"))

    outcome = release(tmp_path, run, ask_vehicles=lambda *_: {})

    assert not outcome.report.accepted
    assert outcome.report.reasons[0].startswith("expected the ranges of at least 3 vehicles, got 0")


@pytest.mark.slow
def test_a_fleet_without_tensorrt_gets_no_file_for_it(tmp_path):
    outcome = release(tmp_path, replace(RUN, release=replace(EASY, tensorrt=False)))

    assert outcome.report.accepted, outcome.report.reasons
    assert "model.int8-trt.onnx" not in files(outcome.folder)
    assert "trt_agreement" not in {gate.name for gate in outcome.report.gates}


@pytest.mark.slow
def test_progress_names_the_phases(accepted):
    _, _, told = accepted

    phases = list(dict.fromkeys(phase for phase, _, _ in told))
    assert phases == ["distil", "export", "latency", "drive the int8 model"]
    assert ("distil", 2, 2) in told


@pytest.mark.slow
def test_the_same_run_gives_the_same_files(accepted, tmp_path):
    _, outcome, _ = accepted

    again = release(tmp_path)

    for name in ("model.fp32.onnx", "model.int8.onnx", "model.int8-trt.onnx", "golden.npz"):
        assert files(again.folder)[name] == files(outcome.folder)[name]


@pytest.mark.slow
def test_a_tampered_file_is_found(accepted, tmp_path):
    _, outcome, _ = accepted
    for name, data in files(outcome.folder).items():
        flipped = bytes([data[0] ^ 1]) + data[1:] if name == "model.int8.onnx" else data
        (tmp_path / name).write_bytes(flipped)

    assert broken_files(tmp_path) == ["model.int8.onnx"]


@pytest.mark.slow
def test_a_refused_release_keeps_the_one_before(tmp_path):
    before = release(tmp_path)
    kept = files(before.folder)

    outcome = release(tmp_path, run_id="run-2", closed_loop_score=lambda _: 0.0)

    assert not outcome.report.accepted
    assert outcome.report.reasons == ("closed_loop_score is 0, must be at least 0.2",)
    assert files(tmp_path / "release") == kept
    assert outcome.folder == tmp_path / "release.refused"
    assert json.loads((outcome.folder / "manifest.json").read_text())["accepted"] is False
    assert outcome.report.sha256 is not None


def test_a_global_model_with_nan_is_refused_with_the_reason(tmp_path):
    result = federation()
    broken_N = result.model_N.copy()
    broken_N[5] = np.nan

    outcome = release(tmp_path, result=replace(result, model_N=broken_N))

    assert not outcome.report.accepted
    (reason,) = outcome.report.reasons
    assert reason.startswith("teacher 2 of 2: features.0.weight holds NaN")
    assert [gate.value for gate in outcome.report.gates] == [None] * 9
    assert outcome.report.sha256 is None
    assert not (tmp_path / "release").exists()


@pytest.mark.slow
def test_a_model_that_cannot_be_quantized_is_refused_not_a_crash(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise QuantizationError("onnxruntime cannot quantize the network: too many bins")

    monkeypatch.setattr(candidate, "quantize_int8", fail)

    outcome = release(tmp_path)

    assert not outcome.report.accepted
    assert outcome.report.reasons == ("onnxruntime cannot quantize the network: too many bins",)
    assert sorted(files(outcome.folder)) == [
        "card.html",
        "card.json",
        "manifest.json",
        "model.fp32.onnx",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("steering", ["bins", "regression"])
def test_every_form_of_steering_ends_in_the_same_contract(tmp_path, steering):
    run = replace(RUN, model=ModelConfig(width=0.5, steering=steering))

    outcome = release(tmp_path, run)

    assert outcome.report.accepted, outcome.report.reasons
    probabilities_B3, throttle_B = OnnxDriver(outcome.folder / "model.int8.onnx").predict(
        proxy_frames().frames_NHWC[:5]
    )
    assert probabilities_B3.shape == (5, 3)
    assert throttle_B.shape == (5,)
    np.testing.assert_allclose(probabilities_B3.sum(axis=1), 1.0, atol=1e-4)


@pytest.mark.slow
def test_a_pruned_student_is_smaller(accepted, tmp_path):
    _, whole, _ = accepted
    run = replace(
        RUN,
        release=replace(
            EASY, prune_ratio=0.3, prune_epochs=1, max_int8_bytes=whole.report.int8_bytes - 1
        ),
    )

    pruned = release(tmp_path, run)

    assert pruned.report.accepted, pruned.report.reasons
    assert pruned.report.student_parameters < 0.8 * whole.report.student_parameters
    assert pruned.report.int8_bytes < whole.report.int8_bytes


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        (proxy_frames(train=0), "no frame to learn from"),
        (proxy_frames(train=60), "no frame held back to measure on"),
        (proxy_frames(size=40), "expected frames of 32 x 32 x 3 like the fleet's, got 40 x 40 x 3"),
    ],
)
def test_proxy_frames_that_cannot_be_used_are_wrong_input(tmp_path, proxy, words):
    with pytest.raises(UsageError, match=words):
        release(tmp_path, proxy=proxy)

    assert list(tmp_path.iterdir()) == []


def test_an_unknown_student_is_wrong_input(tmp_path):
    run = replace(RUN, release=replace(EASY, student="resnet9000"))

    with pytest.raises(SettingsError, match=r"\[release\] student: .*resnet9000"):
        release(tmp_path, run)


@pytest.mark.parametrize(
    ("accuracy", "entropy", "warned"),
    [
        (0.8, 0.3, []),
        (0.8, 0.97, ["unsure of nearly every proxy frame"]),
        (0.35, 0.3, ["only 0.35 balanced accuracy"]),
        (float("nan"), 0.3, ["only nan"]),
        (None, None, []),  # did not get that far
    ],
)
def test_a_person_is_warned_of_frames_unlike_the_fleets(accuracy, entropy, warned):
    lessons = None
    if entropy is not None:
        lessons = build.DistillationResult(loss=0.0, steps=1, entropy=entropy, disagreement=0.0)

    warnings = proxy_warnings(accuracy, lessons)

    assert len(warnings) == len(warned)
    assert all(words in warning for words, warning in zip(warned, warnings, strict=True))


def sure_fleet():
    """What vehicles tell of frames to which the global model surely says straight."""
    counts = np.zeros(COUNTS, np.int64)
    counts[COUNTS // 2] = 400
    return FleetCertainty(counts_C=counts, vehicles=4)


def test_proxy_frames_of_another_world_are_refused_with_the_figures(tmp_path):
    outcome = release(tmp_path, ask_certainty=lambda _: sure_fleet())

    assert not outcome.report.accepted
    (reason,) = outcome.report.reasons
    assert re.match(
        r"proxy_distance is (1|0\.\d+), must be at most 0\.4: on the proxy frames the global model has "
        r"entropy 0\.\d\d of 1 and says straight to \d+%, on 400 frames of 4 vehicles 0\.05 and 100%; "
        r"name recordings",
        reason,
    )
    assert outcome.report.gates[0].name == "proxy_distance"
    assert [gate.value for gate in outcome.report.gates[1:]] == [None] * 9
    assert sorted(files(outcome.folder)) == ["card.html", "card.json", "manifest.json"]


@pytest.mark.slow
def test_proxy_frames_like_the_fleets_pass(tmp_path):
    def certainty(model_N):
        assert model_N is not None
        model = build_model(RUN.model, SIZE, SIZE, 2)
        counts = certainty_counts(
            torch_predictor(model), proxy_frames(seed=9, count=120).frames_NHWC
        )
        return FleetCertainty(counts_C=counts, vehicles=3)

    outcome = release(tmp_path, ask_certainty=certainty)

    assert outcome.report.accepted, outcome.report.reasons
    assert outcome.report.gates[0].name == "proxy_distance"
    assert not any("not compared" in warning for warning in outcome.report.warnings)


@pytest.mark.slow
def test_a_student_too_far_from_float32_is_trained_for_int8(tmp_path):
    strict = replace(EASY, max_steering_change=1e-9, qat_epochs=1)

    outcome = release(tmp_path, replace(RUN, release=strict))

    card = json.loads((outcome.folder / "card.json").read_text())
    assert card["teaching"]["remedies"] == ["trained for int8"]
    assert any("int8_steering_change" in reason for reason in outcome.report.reasons)


@pytest.mark.slow
def test_the_card_tells_what_a_signer_should_know(accepted):
    _, outcome, _ = accepted
    card = json.loads((outcome.folder / "card.json").read_text())
    page = (outcome.folder / "card.html").read_text()
    manifest = json.loads((outcome.folder / "manifest.json").read_text())

    assert {"card.json", "card.html"} < manifest["files"].keys()  # signed with the rest
    assert card["schema"] == "convoy.card/1"
    assert card["accepted"] is True
    assert {"name", "value", "limit", "bound", "passed"} == card["gates"][0].keys()
    assert {part["by"] for part in card["slices"]} == {"turn", "brightness", "vehicle"}
    assert sum(part["frames"] for part in card["slices"] if part["by"] == "turn") == 20
    assert card["lineage"]["origin"]["run_id"] == "run-1"
    assert len(card["lineage"]["code_sha256"]) == 64
    assert card["measured"]["closed_loop_score"] == 1.0
    assert "No epsilon is stated" in card["privacy_statement"]
    assert card["privacy_statement"] in page
    assert card["machine"] in page.replace("&#39;", "'")
    assert outcome.report.card == "release/card.html"
    assert not re.search(r"(src|href)=|<script|@import", page)


@pytest.mark.slow
def test_a_region_is_a_slice_where_recordings_have_one(tmp_path):
    run = replace(RUN, release=replace(EASY, regions={"simulator": "north"}))

    card = json.loads((release(tmp_path, run).folder / "card.json").read_text())

    (region,) = [part for part in card["slices"] if part["by"] == "region"]
    assert (region["name"], region["frames"]) == ("north", 20)


@pytest.mark.slow
def test_what_vehicles_told_makes_the_same_release_again(tmp_path):
    def vehicles(observer, _):
        return {
            f"car{seed}": observe(observer, proxy_frames(seed=seed).frames_NHWC)
            for seed in range(3)
        }

    first = release(tmp_path / "run", ask_vehicles=vehicles)

    again = release(tmp_path / "again", answers_from=tmp_path / "run")

    for name in ("model.fp32.onnx", "model.int8.onnx", "model.int8-trt.onnx", "golden.npz"):
        assert files(again.folder)[name] == files(first.folder)[name]
    assert OnnxDriver(again.folder / "model.int8.onnx").metadata["convoy.calibration"] == "vehicles"


@pytest.mark.parametrize("text", ["", "[]", '{"schema": "x"}', '{"schema": 1, "ranges": 3}'])
def test_broken_answers_are_wrong_input(tmp_path, text):
    (tmp_path / "release_inputs.json").write_text(text)

    with pytest.raises(UsageError, match=r"release_inputs\.json: not what a release wrote"):
        release(tmp_path)
