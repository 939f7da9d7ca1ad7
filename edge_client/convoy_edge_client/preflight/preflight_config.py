"""Settings of the preflight: what a release may ask of this vehicle."""

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal

from convoy_protos.release_manifest import Variant

ProviderName = Literal["tensorrt", "cuda", "cpu"]


class Provider(Enum):
    """An execution provider of onnxruntime; the values are the names in settings."""

    TENSORRT = "tensorrt"
    CUDA = "cuda"
    CPU = "cpu"

    @property
    def onnxruntime_name(self) -> str:
        """As onnxruntime calls it."""
        return _ONNXRUNTIME_NAMES[self]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """What is worth a trial on it.

        CUDA has no integer kernels for our graphs, so float32 is fastest there. Which integer form a
        processor prefers depends on it: x86 the unsigned one, some ARM cores the signed one.
        """
        return _VARIANTS[self]

    def options(self, engine_cache: str) -> dict[str, str]:
        """For onnxruntime; an empty `engine_cache` keeps none of TensorRT's engines."""
        if self is Provider.TENSORRT and engine_cache:
            return {"trt_engine_cache_enable": "1", "trt_engine_cache_path": engine_cache}
        return {}


_ONNXRUNTIME_NAMES: Final = {
    Provider.TENSORRT: "TensorrtExecutionProvider",
    Provider.CUDA: "CUDAExecutionProvider",
    Provider.CPU: "CPUExecutionProvider",
}
_VARIANTS: Final = {
    Provider.TENSORRT: (Variant.INT8_TRT, Variant.FP32),
    Provider.CUDA: (Variant.FP32,),
    Provider.CPU: (Variant.INT8_CPU, Variant.INT8_TRT, Variant.FP32),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLimits:
    """What an ONNX file may hold.

    Attributes:
        oldest_opset: Of the standard operators; 13 is the first with integers per channel.
        newest_opset: Likewise; 18 is what onnxruntime 1.16 loads.
        oldest_ir: Version of the file format.
        newest_ir: Likewise; 8 is what onnxruntime 1.16 loads.
        largest_weight: Magnitude of a constant, positive. A weight of 3e38 is finite and gives finite,
            wrong answers.
    """

    oldest_opset: int = 13
    newest_opset: int = 18
    oldest_ir: int = 7
    newest_ir: int = 8
    largest_weight: float = 1e4

    def __post_init__(self) -> None:
        for low, high in (("oldest_opset", "newest_opset"), ("oldest_ir", "newest_ir")):
            if not 1 <= getattr(self, low) <= getattr(self, high):
                raise ValueError(f"{low} must be in 1..{high}, got {getattr(self, low)}")
        if not (math.isfinite(self.largest_weight) and self.largest_weight > 0.0):
            raise ValueError(f"largest_weight must be positive, got {self.largest_weight}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightConfig:
    """Table [preflight]: how a release is tried before it may drive.

    Attributes:
        providers: Execution providers in the order of preference.
        frame_period_ms: Between two frames of the camera; 50 is 20 Hz.
        largest_period_share: Part of the frame period that the median answer may take, in 0..1, 0
            excluded.
        repetitions: Frames from which the latency is taken.
        largest_model_bytes: Of one ONNX file.
        largest_golden_bytes: Of the golden vectors.
        golden_difference_fp32: Largest difference of any probability or throttle to the golden
            vectors, of float32.
        golden_difference_int8: Likewise, of int8: processors round and saturate differently.
        memory_mb: Data that a trial may allocate, in 2^20 bytes.
        trial_s: What a trial may take, loading included.
        engine_build_s: The same where TensorRT builds an engine first.
        file: What an ONNX file may hold.
    """

    providers: tuple[ProviderName, ...] = ("tensorrt", "cuda", "cpu")
    frame_period_ms: float = 50.0
    largest_period_share: float = 0.5
    repetitions: int = 100
    largest_model_bytes: int = 64 * 2**20
    largest_golden_bytes: int = 16 * 2**20
    golden_difference_fp32: float = 1e-3
    golden_difference_int8: float = 0.05
    memory_mb: int = 1024
    trial_s: float = 20.0
    engine_build_s: float = 1800.0
    file: FileLimits = field(default_factory=FileLimits)

    def __post_init__(self) -> None:
        if not self.providers or len(set(self.providers)) != len(self.providers):
            raise ValueError(f"providers must name each at most once, got {self.providers}")
        for name in (
            "frame_period_ms",
            "golden_difference_fp32",
            "golden_difference_int8",
            "trial_s",
            "engine_build_s",
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"{name} must be positive, got {value}")
        if not 0.0 < self.largest_period_share <= 1.0:
            raise ValueError(
                f"largest_period_share must be in 0..1 (0 excluded), got {self.largest_period_share}"
            )
        for name, least in (
            ("repetitions", 1),
            ("largest_model_bytes", 1),
            ("largest_golden_bytes", 1),
            ("memory_mb", 256),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def latency_limit_ms(self) -> float:
        """What the median answer may take."""
        return self.frame_period_ms * self.largest_period_share

    def golden_difference(self, variant: Variant) -> float:
        """How far answers may be from the golden vectors."""
        exact = variant is Variant.FP32
        return self.golden_difference_fp32 if exact else self.golden_difference_int8

    def limit_s(self, provider: Provider) -> float:
        """What one trial may take."""
        return self.engine_build_s if provider is Provider.TENSORRT else self.trial_s
