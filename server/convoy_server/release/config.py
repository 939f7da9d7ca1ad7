"""Settings of the release: which student, how it is distilled, what the gates ask.

Section [release] of a scenario.
"""

import math
from dataclasses import dataclass
from typing import Literal

from convoy_driving.golden import MAX_FRAMES


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseConfig:
    """One release of a small model.

    Attributes:
        enabled: Build a release when the rounds are done.
        proxy: Recordings that the server may see, for distillation, calibration and gates; empty
            means recordings of the simulator. Never the fleet's own.
        proxy_frames: Frames taken from the proxy recordings at most to learn from, and as many of
            those held back to measure on; spread evenly.
        student: Registry name of the small model.
        student_width: Scales the student's channels.
        teachers: The student learns from the ensemble of this many last global models; 1 means
            from the last one alone.
        epochs: Passes over the proxy frames.
        batch_size: Frames a step.
        learning_rate: AdamW's peak learning rate; it falls to zero along a cosine.
        temperature: Softens the steering probabilities that the student imitates.
        photometric: Change colour, brightness and noise of the proxy frames while distilling.
        mirror: Show half of the proxy frames mirrored while distilling; the teacher sees the same.
        prune_ratio: Share of the student's convolution channels removed after distillation; 0
            means none.
        prune_norm: Channels with the smallest norm go first.
        prune_epochs: Passes over the proxy frames after the pruning.
        calibration: Where the int8 ranges come from: "vehicles" tell those of their own frames and
            show none, "proxy" takes proxy frames, "auto" asks vehicles and takes proxy frames where
            fewer than three tell.
        calibration_vehicles: Vehicles asked at most.
        calibration_frames: Frames from which a vehicle, or the server, takes the ranges.
        tensorrt: Also write an int8 file in the form that NVIDIA's TensorRT takes.
        golden_frames: Held-back proxy frames that go with the release: every vehicle lets the model
            answer them before it trusts it.
        seven_bit_weights: Leave the top bit of the int8 weights unused in the file for processors. On
            x86 without VNNI (before about 2019) sums of 8-bit products saturate, so that the same
            file answers otherwise there than elsewhere; false where no vehicle has one.
        latency_repetitions: Single-frame runs from which the median latency is taken.
        max_student_accuracy_drop: Balanced accuracy that the student may lose to the global model.
        max_int8_accuracy_drop: Balanced accuracy that int8 may lose to float32.
        max_parity_difference: Largest difference of any output of the float32 file to torch.
        min_int8_agreement: Share of frames on which an int8 file chooses float32's steering class.
        max_steering_change: Mean difference of an int8 file's steering, in -1..1, to float32's.
        max_int8_size_ratio: Bytes of the int8 file over bytes of the float32 file.
        max_int8_latency_ratio: Median latency of int8 over float32, one thread, this machine.
        min_closed_loop_score: Score that the int8 file must drive; asked only where a road is at
            hand.
    """

    enabled: bool = True
    proxy: tuple[str, ...] = ()
    proxy_frames: int = 2000
    student: str = "slim"
    student_width: float = 1.0
    teachers: int = 3
    epochs: int = 12
    batch_size: int = 64
    learning_rate: float = 2e-3
    temperature: float = 2.0
    photometric: bool = True
    mirror: bool = True
    prune_ratio: float = 0.0
    prune_norm: Literal["l1", "l2"] = "l1"
    prune_epochs: int = 5
    calibration: Literal["auto", "vehicles", "proxy"] = "auto"
    calibration_vehicles: int = 20
    calibration_frames: int = 128
    tensorrt: bool = True
    golden_frames: int = 8
    seven_bit_weights: bool = True
    latency_repetitions: int = 200
    max_student_accuracy_drop: float = 0.05
    max_int8_accuracy_drop: float = 0.01
    max_parity_difference: float = 1e-4
    min_int8_agreement: float = 0.97
    max_steering_change: float = 0.005
    max_int8_size_ratio: float = 0.30
    max_int8_latency_ratio: float = 0.70
    min_closed_loop_score: float = 0.2

    def __post_init__(self) -> None:
        for name, least in (
            ("proxy_frames", 1),
            ("teachers", 1),
            ("epochs", 1),
            ("batch_size", 1),
            ("prune_epochs", 0),
            ("calibration_vehicles", 3),
            ("calibration_frames", 16),
            ("golden_frames", 1),
            ("latency_repetitions", 10),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.golden_frames > MAX_FRAMES:
            raise ValueError(
                f"golden_frames must be at most {MAX_FRAMES}, got {self.golden_frames}"
            )
        for name in (
            "student_width",
            "learning_rate",
            "temperature",
            "max_parity_difference",
            "max_steering_change",
            "max_int8_size_ratio",
            "max_int8_latency_ratio",
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"{name} must be positive, got {value}")
        for name in (
            "max_student_accuracy_drop",
            "max_int8_accuracy_drop",
            "min_int8_agreement",
        ):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be in 0..1, got {value}")
        if not 0.0 <= self.prune_ratio < 1.0:
            raise ValueError(f"prune_ratio must be in 0..1 (1 excluded), got {self.prune_ratio}")
        if not math.isfinite(self.min_closed_loop_score):
            raise ValueError(
                f"min_closed_loop_score must be a number, got {self.min_closed_loop_score}"
            )
        if not self.student:
            raise ValueError("student must name a model of the registry, got ''")
