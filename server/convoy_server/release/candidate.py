"""A release on its way: from teachers to files and figures.

teachers -> proxy fit -> distil -> float32 ONNX -> int8 ONNX, for processors and for TensorRT
  -> golden vectors -> measure -> a remedy and once more, where a gate asks for one -> drive
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from convoy_compression.model.distillation import DistillationConfig, DistillationResult, distil
from convoy_compression.model.errors import CalibrationError
from convoy_compression.model.latency import interleaved_p50_ms
from convoy_compression.model.onnx_export import export_onnx, set_metadata
from convoy_compression.model.parity import compare
from convoy_compression.model.pruning import prune_channels
from convoy_compression.model.quantization import (
    quantize_for_tensorrt,
    quantize_int8,
    ranges_from_frames,
)
from convoy_compression.model.quantization_aware import rounded_as_int8
from convoy_compression.model.range_observer import observed_tensors, observer_of
from convoy_compression.model.tensor_ranges import TensorRanges
from convoy_driving.evaluation import Predictor, evaluate, torch_predictor
from convoy_driving.golden import Answers, GoldenVectors, golden_bytes
from convoy_driving.models.driver import Driver
from convoy_driving.models.driving_model import DrivingModel
from convoy_driving.onnx_driver import OnnxDriver
from convoy_driving.training import fast_at_bfloat16
from convoy_protos.release_manifest import GOLDEN_FILE, Variant
from convoy_server.errors import WrongProxyError
from convoy_server.federation import FederationResult
from convoy_server.release.config import ReleaseConfig
from convoy_server.release.gates import PROXY_DISTANCE, Measurements, judge, refusal
from convoy_server.release.known_answers import KnownAnswers
from convoy_server.release.manifest import Origin, ReleaseName, file_metadata, origin_of, sha256
from convoy_server.release.merged_ranges import merge_ranges
from convoy_server.release.proxy import ProxyFrames
from convoy_server.release.proxy_fit import FleetCertainty, ProxyFit, proxy_fit
from convoy_server.release.remedies import Remedy, next_remedy
from convoy_server.release.slices import Slice, slices_of
from convoy_server.release.teachers import Teachers, teachers_of
from convoy_server.report.contract import Gate
from convoy_server.run_config import RunConfig
from convoy_server.run_directory import model_digest
from convoy_server.storage import write_file

logger = logging.getLogger(__name__)

PARITY_FRAMES: Final = 256
QAT_LEARNING_RATE: Final = 0.1
"""Of the learning rate: the student knows its lesson, it only has to bear the rounding."""

Progress = Callable[[str, int, int], None]
"""Phase, steps done, steps in all; RunObserver.phase fits."""

AskVehicles = Callable[[bytes, tuple[str, ...]], Mapping[str, TensorRanges]]
"""An observer (convoy_compression.model.range_observer) and its tensors -> what each vehicle saw;
calibration_round.ask_for_ranges does it."""

AskCertainty = Callable[[NDArray[np.float32]], FleetCertainty]
"""The global model -> how sure it is of the vehicles' frames; certainty_round.ask_for_certainty does it."""

Drive = Callable[[Path], float]
"""Drives an int8 file and says how well."""


class Candidate:
    """What it has become so far can be read when a step fails."""

    def __init__(
        self,
        *,
        run: RunConfig,
        result: FederationResult,
        name: ReleaseName,
        frames: ProxyFrames,
        folder: Path,
        answers: KnownAnswers,
        ask_vehicles: AskVehicles | None,
        ask_certainty: AskCertainty | None,
        drive: Drive | None,
        progress: Progress,
    ) -> None:
        """Nothing is done yet; arguments as in `build_release`."""
        self.run = run
        self.result = result
        self.name = name
        self.frames = frames
        self.folder = folder
        self.answers = answers
        self.ask_vehicles = ask_vehicles
        self.ask_certainty = ask_certainty
        self.drive = drive
        self.progress = progress
        self.measured = Measurements()
        self.fit: ProxyFit | None = None
        self.teachers: Teachers | None = None
        self.lessons: DistillationResult | None = None
        self.origin: Origin | None = None
        self.remedies: list[Remedy] = []
        self.slices: tuple[Slice, ...] = ()
        self.calibration: Literal["vehicles", "proxy", ""] = ""

    @property
    def gates(self) -> tuple[Gate, ...]:
        """As far as it has come."""
        return judge(self.measured, self.run.release, closed_loop=self.drive is not None)

    def make(self, student: DrivingModel) -> None:
        """Go all the way.

        Args:
            student: Untaught.

        Raises:
            WrongProxyError: The proxy frames are not what the fleet drives.
            ModelCompressionError: A step failed.
            ModelFileError: onnxruntime does not load what was written.
        """
        self.teachers = teachers = teachers_of(self.run, self.result)
        self._check_proxy(teachers.global_model)
        self.lessons = self._distil(student, self.run.release.epochs, "distil")
        self.measured = replace(
            self.measured, global_accuracy=self._accuracy(self._torch(teachers.global_model))
        )
        self._finish(student)
        while remedy := next_remedy(self.gates, self.run.release, self.remedies):
            self.remedies.append(remedy)
            student = self._mend(student, remedy)
            self._finish(student)
        int8 = OnnxDriver(self.folder / Variant.INT8_CPU.file_name)
        self.slices = slices_of(
            int8.predict, self.frames, self.run.release.regions, self.run.data.steering_threshold
        )
        if self.drive is not None:
            self.progress("drive the int8 model", 0, 1)
            path = self.folder / Variant.INT8_CPU.file_name
            score = self.drive(path)
            self.answers.closed_loop[sha256(path.read_bytes())] = score
            self.measured = replace(self.measured, closed_loop_score=score)
            self.progress("drive the int8 model", 1, 1)

    def origin_with(self, student: DrivingModel) -> Origin:
        """What is known about the release, with this student in it."""
        return origin_of(
            self.run,
            self.result,
            self.name,
            student_parameters=sum(parameter.numel() for parameter in student.parameters()),
            proxy=self.frames,
            calibration=self.calibration,
        )

    def _check_proxy(self, global_model: DrivingModel) -> None:
        digest = model_digest(self.result.model_N).hex()
        if self.ask_certainty is not None:
            self.answers.certainty[digest] = self.ask_certainty(self.result.model_N)
        told = self.answers.certainty.get(digest)
        self.fit = proxy_fit(self._torch(global_model), self.frames.train_NHWC, told)
        self.measured = replace(self.measured, proxy_distance=self.fit.distance)
        for gate in self.gates:
            if gate.name == PROXY_DISTANCE and not gate.passed:
                raise WrongProxyError(
                    f"{refusal(gate)}: {self.fit.figures()}; name recordings of what the fleet drives "
                    "in [release] proxy or with --proxy"
                )

    def _distil(
        self, network: DrivingModel, epochs: int, phase: str, *, for_int8: bool = False
    ) -> DistillationResult:
        assert self.teachers is not None  # noqa: S101 - make sets them first
        config = _distillation_config(self.run.release, epochs)
        if for_int8:
            slow = config.learning_rate * QAT_LEARNING_RATE
            config = replace(config, learning_rate=slow, bfloat16=False)
        return distil(
            network,
            self.teachers.models,
            self.frames.train_NHWC,
            config,
            seed=self.run.seed,
            on_epoch=lambda done, total: self.progress(phase, done, total),
        )

    def _mend(self, student: DrivingModel, remedy: Remedy) -> DrivingModel:
        config = self.run.release
        if remedy is Remedy.PRUNE:
            pruned = prune_channels(student, config.prune_ratio, config.prune_norm)
            if config.prune_epochs:
                self._distil(pruned, config.prune_epochs, "distil the pruned student")
            return pruned
        with rounded_as_int8(student):
            self._distil(student, config.qat_epochs, "train for int8", for_int8=True)
        return student

    def _finish(self, student: DrivingModel) -> None:
        """Write and measure the student as it is."""
        self._write_files(student)
        drivers = {
            variant: OnnxDriver(self.folder / variant.file_name) for variant in self._variants()
        }
        self._write_golden(drivers)
        self._measure_agreement(student, drivers)
        self._measure_latency(student, drivers[Variant.FP32], drivers[Variant.INT8_CPU])

    def _variants(self) -> tuple[Variant, ...]:
        return tuple(
            variant
            for variant in Variant
            if variant is not Variant.INT8_TRT or self.run.release.tensorrt
        )

    def _write_files(self, student: DrivingModel) -> None:
        data = self.run.data
        self.progress("export", 0, 3)
        driver = Driver(student, data.steering_threshold)
        fp32 = export_onnx(driver, data.frame_height, data.frame_width, {})
        self.progress("export", 1, 3)
        ranges, self.calibration = self._ranges(fp32)
        self.origin = origin = self.origin_with(student)
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
            try:
                return self._vehicles_ranges(observer_of(fp32)), "vehicles"
            except CalibrationError as error:
                if config.calibration == "vehicles":
                    raise
                logger.info("calibration: %s; proxy frames calibrate", error)
        frames = _every_nth(self.frames.train_NHWC, config.calibration_frames)
        return ranges_from_frames(fp32, frames), "proxy"

    def _vehicles_ranges(self, observer: onnx.ModelProto) -> TensorRanges:
        """Asked of them now, or known from when they were asked about the same network."""
        names = observed_tensors(observer)
        content = observer.SerializeToString(deterministic=True)
        digest = hashlib.sha256(content).hexdigest()
        if self.ask_vehicles is not None:
            self.answers.ranges.pop(digest, None)
            self.answers.ranges[digest] = merge_ranges(self.ask_vehicles(content, names), names)
        known = self.answers.ranges.get(digest)
        return known if known is not None else merge_ranges({}, names)

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
            student_accuracy=self._accuracy(self._torch(student)),
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
