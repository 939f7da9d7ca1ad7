"""From the global model to the file a vehicle drives with.

    teachers -> distil -> (prune) -> float32 ONNX -> int8 ONNX, for processors and for TensorRT
      -> golden vectors -> measure -> gates -> release/

The teachers are the last global models: with secure aggregation the server never has any other.
A candidate that fails anywhere, or at any gate, is refused and reported; the release that stood
before stays. Only wrong input (no proxy frames, an unknown student) is an error of the caller.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from convoy_compression.model.distillation import DistillationConfig, DistillationResult, distil
from convoy_compression.model.errors import CalibrationError, ModelCompressionError
from convoy_compression.model.latency import interleaved_p50_ms
from convoy_compression.model.onnx_export import export_onnx, set_metadata
from convoy_compression.model.parity import compare
from convoy_compression.model.pruning import prune_channels
from convoy_compression.model.quantization import (
    quantize_for_tensorrt,
    quantize_int8,
    ranges_from_frames,
)
from convoy_compression.model.range_observer import observed_tensors, observer_of
from convoy_compression.model.tensor_ranges import TensorRanges
from convoy_compression.update.one_thread import one_thread
from convoy_driving.dataset import DrivingData
from convoy_driving.errors import ModelFileError
from convoy_driving.evaluation import Predictor, evaluate, torch_predictor
from convoy_driving.golden import Answers, GoldenVectors, golden_bytes
from convoy_driving.models.driver import Driver
from convoy_driving.models.driving_model import DrivingModel
from convoy_driving.models.registry import build_model
from convoy_driving.onnx_driver import OnnxDriver
from convoy_driving.parameters import unflatten
from convoy_driving.training import fast_at_bfloat16
from convoy_protos.errors import SettingsError
from convoy_protos.release_manifest import GOLDEN_FILE, MANIFEST, Variant
from convoy_server.federation import FederationResult
from convoy_server.release.config import ReleaseConfig
from convoy_server.release.gates import Measurements, judge, refusal
from convoy_server.release.manifest import (
    Origin,
    ReleaseName,
    file_metadata,
    manifest_json,
    origin_of,
    sha256,
)
from convoy_server.release.merged_ranges import merge_ranges
from convoy_server.release.proxy import ProxyFrames, choose_proxy_frames
from convoy_server.release.release_folder import accept, open_candidate, refuse
from convoy_server.report.contract import LatencyMs, Release
from convoy_server.run_config import RunConfig
from convoy_server.storage import write_file

logger = logging.getLogger(__name__)

FP32_FILE: Final = Variant.FP32.file_name
INT8_FILE: Final = Variant.INT8_CPU.file_name
TRT_FILE: Final = Variant.INT8_TRT.file_name

PARITY_FRAMES: Final = 256
UNSURE_ENTROPY: Final = 0.9
"""Above this the teachers know next to nothing about the proxy frames."""
POOR_ACCURACY: Final = 0.5
"""Guessing reaches a third; a global model that does not do much better there was not made for
such frames, and what a student learns from it is worth little."""

Progress = Callable[[str, int, int], None]
"""Phase, steps done, steps in all; RunObserver.phase fits."""

AskVehicles = Callable[[bytes, tuple[str, ...]], Mapping[str, TensorRanges]]
"""An observer (convoy_compression.model.range_observer) and its tensors -> what each vehicle saw;
calibration_round.ask_for_ranges does it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseOutcome:
    """What came of a release.

    Attributes:
        report: The "release" object of report.json.
        folder: Where the candidate's files stand: OUT/release if accepted, OUT/release.refused if
            not. The latter may lack an ONNX file that could not be made.
        proxy_accuracy: The global model's balanced accuracy on the held-back proxy frames.
        proxy_entropy: How unsure the teachers are of the proxy frames, 0..1.
        proxy_disagreement: How often a teacher is of another opinion than the ensemble, 0..1.
    """

    report: Release
    folder: Path
    proxy_accuracy: float | None
    proxy_entropy: float | None
    proxy_disagreement: float | None


def build_release(
    *,
    run: RunConfig,
    result: FederationResult,
    proxy: DrivingData,
    out: Path,
    run_id: str,
    release_id: str = "",
    counter: int = 0,
    ask_vehicles: AskVehicles | None = None,
    closed_loop_score: Callable[[Path], float] | None = None,
    on_progress: Progress | None = None,
    created: str | None = None,
) -> ReleaseOutcome:
    """Build a release from a finished run, and put it in place if it passes every gate.

    Args:
        run: Sections [data], [model] and [release] and the seed are used.
        result: The global model and the last ones before it.
        proxy: Labelled examples that the server may see: a VehicleDataset or a pool of several,
            loaded with run.data. Its train_indices teach and calibrate, its held_indices measure.
        out: The run directory.
        run_id: Written into the files; the same id, model and seed give the same ONNX bytes.
        release_id: Likewise; empty means the run's id and its last round.
        counter: Likewise; grows with every release of a fleet, 0 means not numbered.
        ask_vehicles: Lets vehicles calibrate on their private frames, if run.release.calibration
            wants it; None: there are none to ask.
        closed_loop_score: Drives an int8 file and says how well; None leaves that gate out.
        on_progress: Told which phase has come how far.
        created: UTC, ISO 8601, for the manifest; None leaves it out.

    Returns:
        Also where the release was refused: see report.accepted and report.reasons. The command
        that asked for the release then ends with exit code 1.

    Raises:
        UsageError: The proxy frames cannot be used, or [release] names no known student.
        StorageError: The run directory cannot be written.
    """
    progress = on_progress or _silent
    frames = choose_proxy_frames(proxy, run.data, run.release.proxy_frames)
    student = _student(run)
    folder = open_candidate(out)
    name = ReleaseName(run_id=run_id, release_id=release_id, counter=counter)
    candidate = _Candidate(
        run=run,
        name=name,
        frames=frames,
        folder=folder,
        ask_vehicles=ask_vehicles,
        progress=progress,
    )
    reasons: list[str] = []
    try:
        with one_thread():  # the same files whatever the number of cores
            candidate.make(student, result, closed_loop_score)
    except (ModelCompressionError, ModelFileError) as error:
        reasons.append(str(error))
    gates = judge(candidate.measured, run.release, closed_loop=closed_loop_score is not None)
    # Where a step failed, the gates behind it say only that they were not reached.
    reasons += [
        refusal(gate)
        for gate in gates
        if not gate.passed and (gate.value is not None or not reasons)
    ]
    accepted = not reasons
    origin = candidate.origin or candidate.origin_with(student, result)
    files = {
        name: (folder / name).read_bytes()
        for name in (FP32_FILE, INT8_FILE, TRT_FILE, GOLDEN_FILE)
        if (folder / name).is_file()
    }
    manifest = manifest_json(origin, files, gates, accepted=accepted, created=created)
    write_file(folder / MANIFEST, manifest.encode())
    measured = candidate.measured
    report = Release(
        accepted=accepted,
        gates=gates,
        teacher_parameters=result.schema.parameter_count,
        student_parameters=origin.student_parameters,
        fp32_bytes=measured.fp32_bytes,
        int8_bytes=measured.int8_bytes,
        fp32_balanced_accuracy=measured.fp32_accuracy,
        int8_balanced_accuracy=measured.int8_accuracy,
        latency_ms=LatencyMs(
            torch_p50=measured.torch_p50_ms,
            fp32_p50=measured.fp32_p50_ms,
            int8_p50=measured.int8_p50_ms,
        ),
        sha256=sha256(files[INT8_FILE]) if INT8_FILE in files else None,
        reasons=tuple(reasons),
        warnings=proxy_warnings(measured.global_accuracy, candidate.lessons),
    )
    lessons = candidate.lessons
    logger.info("release %s: %s", "accepted" if accepted else "refused", "; ".join(reasons) or "-")
    return ReleaseOutcome(
        report=report,
        folder=accept(folder, out) if accepted else refuse(folder, out),
        proxy_accuracy=measured.global_accuracy,
        proxy_entropy=None if lessons is None else lessons.entropy,
        proxy_disagreement=None if lessons is None else lessons.disagreement,
    )


def proxy_warnings(
    global_accuracy: float | None, lessons: DistillationResult | None
) -> tuple[str, ...]:
    """Whether the proxy frames look like what the fleet drives, as far as that can be told."""
    warnings = []
    if lessons is not None and lessons.entropy > UNSURE_ENTROPY:
        warnings.append(
            f"the global models are unsure of nearly every proxy frame (entropy "
            f"{lessons.entropy:.2f} of 1): the student learned little; see [release] proxy"
        )
    if global_accuracy is not None and not global_accuracy >= POOR_ACCURACY:
        warnings.append(
            f"the global model reaches only {global_accuracy:.2f} balanced accuracy on the proxy "
            "frames: they do not look like what the fleet drives; see [release] proxy"
        )
    return tuple(warnings)


class _Candidate:
    """A release on its way; what it has become so far can be read when a step fails."""

    def __init__(
        self,
        *,
        run: RunConfig,
        name: ReleaseName,
        frames: ProxyFrames,
        folder: Path,
        ask_vehicles: AskVehicles | None,
        progress: Progress,
    ) -> None:
        self.run = run
        self.name = name
        self.frames = frames
        self.folder = folder
        self.ask_vehicles = ask_vehicles
        self.progress = progress
        self.measured = Measurements()
        self.lessons: DistillationResult | None = None
        self.origin: Origin | None = None
        self.calibration: Literal["vehicles", "proxy", ""] = ""

    def make(
        self,
        student: DrivingModel,
        result: FederationResult,
        closed_loop_score: Callable[[Path], float] | None,
    ) -> None:
        """Go all the way.

        Raises:
            ModelCompressionError: A step failed.
            ModelFileError: onnxruntime does not load what was written.
        """
        teachers = _teachers(self.run, result)
        small = self._distil(student, teachers)
        self.measured = replace(
            self.measured,
            global_accuracy=self._accuracy(self._torch(teachers[-1])),
            student_accuracy=self._accuracy(self._torch(small)),
        )
        self._write_files(small, result)
        drivers = {
            variant: OnnxDriver(self.folder / variant.file_name) for variant in self._variants()
        }
        self._write_golden(drivers)
        self._measure_agreement(small, drivers)
        self._measure_latency(small, drivers[Variant.FP32], drivers[Variant.INT8_CPU])
        if closed_loop_score is not None:
            self.progress("drive the int8 model", 0, 1)
            score = closed_loop_score(self.folder / INT8_FILE)
            self.measured = replace(self.measured, closed_loop_score=score)
            self.progress("drive the int8 model", 1, 1)

    def origin_with(self, student: DrivingModel, result: FederationResult) -> Origin:
        """What is known about the release, with this student in it."""
        return origin_of(
            self.run,
            result,
            self.name,
            student_parameters=_parameter_count(student),
            proxy=self.frames,
            calibration=self.calibration,
        )

    def _variants(self) -> tuple[Variant, ...]:
        return tuple(
            variant
            for variant in Variant
            if variant is not Variant.INT8_TRT or self.run.release.tensorrt
        )

    def _distil(self, student: DrivingModel, teachers: Sequence[DrivingModel]) -> DrivingModel:
        config, seed = self.run.release, self.run.seed

        def teach(network: DrivingModel, epochs: int, phase: str) -> DistillationResult:
            return distil(
                network,
                teachers,
                self.frames.train_NHWC,
                _distillation_config(config, epochs),
                seed=seed,
                on_epoch=lambda done, total: self.progress(phase, done, total),
            )

        self.lessons = teach(student, config.epochs, "distil")
        if config.prune_ratio == 0.0:
            return student
        pruned = prune_channels(student, config.prune_ratio, config.prune_norm)
        if config.prune_epochs:
            teach(pruned, config.prune_epochs, "distil the pruned student")
        return pruned

    def _write_files(self, student: DrivingModel, result: FederationResult) -> None:
        data = self.run.data
        self.progress("export", 0, 3)
        driver = Driver(student, data.steering_threshold)
        fp32 = export_onnx(driver, data.frame_height, data.frame_width, {})
        self.progress("export", 1, 3)
        ranges, self.calibration = self._ranges(fp32)
        self.origin = origin = self.origin_with(student, result)
        set_metadata(fp32, file_metadata(origin, Variant.FP32))
        fp32_bytes = self._write_model(Variant.FP32, fp32)
        self.progress("export", 2, 3)
        int8 = quantize_int8(
            fp32,
            ranges,
            file_metadata(origin, Variant.INT8_CPU),
            seven_bit_weights=self.run.release.seven_bit_weights,
        )
        int8_bytes = self._write_model(Variant.INT8_CPU, int8)
        if self.run.release.tensorrt:
            trt = quantize_for_tensorrt(fp32, ranges, file_metadata(origin, Variant.INT8_TRT))
            self._write_model(Variant.INT8_TRT, trt)
        self.measured = replace(self.measured, fp32_bytes=fp32_bytes, int8_bytes=int8_bytes)
        self.progress("export", 3, 3)

    def _ranges(self, fp32: onnx.ModelProto) -> tuple[TensorRanges, Literal["vehicles", "proxy"]]:
        """For the int8 files: from vehicles or from proxy frames, and which of them it was."""
        config = self.run.release
        if config.calibration != "proxy":
            observer = observer_of(fp32)
            names = observed_tensors(observer)
            told: Mapping[str, TensorRanges] = {}
            if self.ask_vehicles is not None:
                told = self.ask_vehicles(observer.SerializeToString(deterministic=True), names)
            try:
                return merge_ranges(told, names), "vehicles"
            except CalibrationError as error:
                if config.calibration == "vehicles":
                    raise
                logger.info("calibration: %s; proxy frames calibrate", error)
        frames = _every_nth(self.frames.train_NHWC, config.calibration_frames)
        return ranges_from_frames(fp32, frames), "proxy"

    def _write_golden(self, drivers: Mapping[Variant, OnnxDriver]) -> None:
        frames_NHWC = _every_nth(self.frames.held_MHWC, self.run.release.golden_frames)
        answers = {
            variant: Answers(*driver.predict(frames_NHWC)) for variant, driver in drivers.items()
        }
        write_file(self.folder / GOLDEN_FILE, golden_bytes(GoldenVectors(frames_NHWC, answers)))

    def _measure_agreement(
        self, student: DrivingModel, drivers: Mapping[Variant, OnnxDriver]
    ) -> None:
        held_MHWC = self.frames.held_MHWC
        fp32, int8 = drivers[Variant.FP32].predict, drivers[Variant.INT8_CPU].predict
        exported = compare(self._torch(student), fp32, _every_nth(held_MHWC, PARITY_FRAMES))
        quantized = compare(fp32, int8, held_MHWC)
        self.measured = replace(
            self.measured,
            fp32_accuracy=self._accuracy(fp32),
            int8_accuracy=self._accuracy(int8),
            parity_difference=exported.max_difference,
            int8_agreement=quantized.class_agreement,
            int8_steering_change=quantized.mean_steering_change,
        )
        if Variant.INT8_TRT in drivers:
            symmetric = compare(fp32, drivers[Variant.INT8_TRT].predict, held_MHWC)
            self.measured = replace(
                self.measured,
                trt_agreement=symmetric.class_agreement,
                trt_steering_change=symmetric.mean_steering_change,
            )

    def _measure_latency(self, student: DrivingModel, fp32: OnnxDriver, int8: OnnxDriver) -> None:
        frame_1HWC = self.frames.held_MHWC[:1]
        torch_driver = self._torch(student)
        self.progress("latency", 0, 1)
        p50_ms = interleaved_p50_ms(
            {
                "torch": lambda: torch_driver(frame_1HWC),
                "fp32": lambda: fp32.predict(frame_1HWC),
                "int8": lambda: int8.predict(frame_1HWC),
            },
            self.run.release.latency_repetitions,
        )
        self.measured = replace(
            self.measured,
            torch_p50_ms=p50_ms["torch"],
            fp32_p50_ms=p50_ms["fp32"],
            int8_p50_ms=p50_ms["int8"],
        )
        self.progress("latency", 1, 1)

    def _torch(self, model: DrivingModel) -> Predictor:
        return torch_predictor(model, steering_threshold=self.run.data.steering_threshold)

    def _accuracy(self, predict: Predictor) -> float:
        counts = evaluate(predict, self.frames.dataset, self.frames.held_indices)
        return counts.balanced_accuracy

    def _write_model(self, variant: Variant, model: onnx.ModelProto) -> int:
        content = model.SerializeToString(deterministic=True)
        write_file(self.folder / variant.file_name, content)
        return len(content)


def _teachers(run: RunConfig, result: FederationResult) -> list[DrivingModel]:
    """The last global models, the final one last."""
    before = (
        result.snapshots[:-1][-(run.release.teachers - 1) :] if run.release.teachers > 1 else ()
    )
    teachers = []
    for vector_N in (*before, result.model_N):
        teacher = build_model(run.model, run.data.frame_height, run.data.frame_width, run.seed)
        unflatten(vector_N, teacher)
        teachers.append(teacher)
    return teachers


def _student(run: RunConfig) -> DrivingModel:
    """The student before it has learned anything; steering in the teachers' form, no dropout."""
    config = run.release
    try:
        model = replace(run.model, name=config.student, width=config.student_width, dropout=0.0)
        return build_model(model, run.data.frame_height, run.data.frame_width, run.seed)
    except ValueError as error:
        raise SettingsError(f"[release] student: {error}") from error


def _distillation_config(config: ReleaseConfig, epochs: int) -> DistillationConfig:
    return DistillationConfig(
        epochs=epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        temperature=config.temperature,
        photometric=config.photometric,
        mirror=config.mirror,
        bfloat16=fast_at_bfloat16("cpu"),
    )


def _every_nth(frames_NHWC: NDArray[np.uint8], limit: int) -> NDArray[np.uint8]:
    """At most `limit` frames, spread evenly."""
    return frames_NHWC[:: -(-len(frames_NHWC) // limit)]


def _parameter_count(model: DrivingModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _silent(phase: str, done: int, total: int) -> None:
    """Nobody watches."""
