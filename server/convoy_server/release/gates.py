"""What a release must reach before a vehicle may have it, as pure functions of what was measured.

gate                     value                                          must be
proxy_distance           certainty on proxy frames to that on vehicles' at most the limit
student_accuracy_drop    balanced accuracy: global model - student      at most the limit
int8_accuracy_drop       balanced accuracy: float32 file - int8 file    at most
parity_difference        largest difference: float32 file to torch      at most
int8_agreement           frames with the same steering class as float32 at least
int8_steering_change     mean difference of the steering to float32       at most
trt_agreement            as int8_agreement, of the file for TensorRT      at least
trt_steering_change      as int8_steering_change, likewise                at most
int8_size_ratio          bytes: int8 file / float32 file                at most
int8_latency_ratio       median latency: int8 / float32, one thread     at most
int8_bytes               size of the int8 file                          at most
int8_ms                  median latency of int8, one thread             at most
closed_loop_score        what the int8 file drove                       at least

The first one is there where enough vehicles told how sure the global model is of their frames, the last
three where a limit or a road is.
"""

import math
from dataclasses import dataclass
from typing import Final

from convoy_server.release.config import ReleaseConfig
from convoy_server.report.contract import Gate

PROXY_DISTANCE: Final = "proxy_distance"
AT_LEAST: Final = frozenset({"int8_agreement", "trt_agreement", "closed_loop_score"})
"""Gates whose limit is a lower one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """What is known of a candidate; None where it did not get that far.

    Attributes:
        proxy_distance: Of the proxy frames to the vehicles', by certainty; None also where too few told.
        global_accuracy: Balanced accuracy of the global model on the held-back proxy frames.
        student_accuracy: The same of the student, in torch.
        fp32_accuracy: The same of the float32 file.
        int8_accuracy: The same of the int8 file.
        parity_difference: Largest difference of the float32 file's outputs to torch's.
        int8_agreement: Share of frames on which int8 and float32 choose the same class.
        int8_steering_change: Mean difference of int8's steering in -1..1 to float32's.
        trt_agreement: As int8_agreement, of the file for TensorRT.
        trt_steering_change: As int8_steering_change, likewise.
        fp32_bytes: Size of the float32 file.
        int8_bytes: Size of the int8 file.
        torch_p50_ms: Median latency of the student in torch.
        fp32_p50_ms: Median latency of the float32 file.
        int8_p50_ms: Median latency of the int8 file.
        closed_loop_score: What the int8 file drove; stays None where there is no road.
    """

    proxy_distance: float | None = None
    global_accuracy: float | None = None
    student_accuracy: float | None = None
    fp32_accuracy: float | None = None
    int8_accuracy: float | None = None
    parity_difference: float | None = None
    int8_agreement: float | None = None
    int8_steering_change: float | None = None
    trt_agreement: float | None = None
    trt_steering_change: float | None = None
    fp32_bytes: int | None = None
    int8_bytes: int | None = None
    torch_p50_ms: float | None = None
    fp32_p50_ms: float | None = None
    int8_p50_ms: float | None = None
    closed_loop_score: float | None = None


def judge(measured: Measurements, config: ReleaseConfig, *, closed_loop: bool) -> tuple[Gate, ...]:
    """All gates, in the order of the table above; what was not measured does not pass.

    Args:
        measured: The candidate's figures.
        config: The limits.
        closed_loop: Whether a road is at hand; without one there is no closed-loop gate.
    """
    values_and_limits: dict[str, tuple[float | None, float]] = {
        PROXY_DISTANCE: (measured.proxy_distance, config.max_proxy_distance),
        "student_accuracy_drop": (
            _drop(measured.global_accuracy, measured.student_accuracy),
            config.max_student_accuracy_drop,
        ),
        "int8_accuracy_drop": (
            _drop(measured.fp32_accuracy, measured.int8_accuracy),
            config.max_int8_accuracy_drop,
        ),
        "parity_difference": (measured.parity_difference, config.max_parity_difference),
        "int8_agreement": (measured.int8_agreement, config.min_int8_agreement),
        "int8_steering_change": (measured.int8_steering_change, config.max_steering_change),
        "trt_agreement": (measured.trt_agreement, config.min_int8_agreement),
        "trt_steering_change": (measured.trt_steering_change, config.max_steering_change),
        "int8_size_ratio": (
            _ratio(measured.int8_bytes, measured.fp32_bytes),
            config.max_int8_size_ratio,
        ),
        "int8_latency_ratio": (
            _ratio(measured.int8_p50_ms, measured.fp32_p50_ms),
            config.max_int8_latency_ratio,
        ),
        "int8_bytes": (measured.int8_bytes, config.max_int8_bytes),
        "int8_ms": (measured.int8_p50_ms, config.max_int8_ms),
        "closed_loop_score": (measured.closed_loop_score, config.min_closed_loop_score),
    }
    asked = {
        PROXY_DISTANCE: measured.proxy_distance is not None,
        "trt_agreement": config.tensorrt,
        "trt_steering_change": config.tensorrt,
        "int8_bytes": config.max_int8_bytes > 0,
        "int8_ms": config.max_int8_ms > 0.0,
        "closed_loop_score": closed_loop,
    }
    return tuple(
        gate(name, value, limit)
        for name, (value, limit) in values_and_limits.items()
        if asked.get(name, True)
    )


def gate(name: str, value: float | None, limit: float) -> Gate:
    """One gate; a value that is missing or no finite number never passes and is reported as None."""
    if value is None or not math.isfinite(value):
        return Gate(name=name, value=None, limit=limit, passed=False)
    passed = value >= limit if name in AT_LEAST else value <= limit
    return Gate(name=name, value=value, limit=limit, passed=passed)


def refusal(gate: Gate) -> str:
    """Why a gate that did not pass refused, in words."""
    bound = "at least" if gate.name in AT_LEAST else "at most"
    found = "was not measured" if gate.value is None else f"is {gate.value:.4g}"
    return f"{gate.name} {found}, must be {bound} {gate.limit:.4g}"


def _drop(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else before - after


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole
