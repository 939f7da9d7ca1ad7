"""Let one variant answer the golden frames on one execution provider, and time it.

Runs in a process of its own (worker.py). What a provider claims counts for nothing: onnxruntime lists
providers whose libraries do not load, and silently computes on the processor instead. A trial passes
where the provider really computed nodes of the graph, answered right, and in time.
"""

import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from convoy_driving.errors import InferenceError, ModelFileError
from convoy_driving.golden import Answers, read_golden
from convoy_driving.onnx_driver import OnnxDriver
from convoy_edge_client.errors import ReleaseFileError
from convoy_edge_client.preflight.checked_file import checked_content
from convoy_edge_client.preflight.preflight_config import Provider
from convoy_edge_client.preflight.trial_order import TrialOrder, TrialResult
from convoy_protos.release_manifest import GOLDEN_FILE, Variant

_WARM_UP = 5


def try_out(order: TrialOrder) -> TrialResult:
    """Load, answer, time; see the top of the file."""
    variant, provider = Variant(order.variant), Provider(order.provider)
    folder = Path(order.folder)
    if provider.onnxruntime_name not in onnxruntime.get_available_providers():
        return TrialResult(fault="not part of this onnxruntime", absent=True)
    try:
        golden = read_golden(checked_content(folder / GOLDEN_FILE, order.golden))
        if variant not in golden.answers:
            return TrialResult(fault="no golden vectors for this variant")
        path = folder / variant.file_name
        content = checked_content(path, order.model)
        started_ns = time.perf_counter_ns()
        driver = OnnxDriver(
            path,
            content=content,
            providers=((provider.onnxruntime_name, provider.options(order.engine_cache)),),
            profile_prefix="trial",
        )
        load_ms = (time.perf_counter_ns() - started_ns) / 1e6
        answers = Answers(*driver.predict(golden.frames_NHWC))
    except (ReleaseFileError, ModelFileError, InferenceError) as error:
        return TrialResult(fault=_first_line(error))
    if provider.onnxruntime_name not in driver.end_profile():
        return TrialResult(fault="computed nothing: onnxruntime fell back to another provider")
    if not (np.isfinite(answers.steering_N3).all() and np.isfinite(answers.throttle_N).all()):
        return TrialResult(fault="answers NaN or infinite values")
    taken_ms = _times_ms(driver, golden.frames_NHWC[:1], order.repetitions)
    return TrialResult(
        difference=answers.difference(golden.answers[variant]),
        p50_ms=statistics.median(taken_ms),
        p99_ms=float(np.percentile(taken_ms, 99)),
        load_ms=load_ms,
    )


def _times_ms(driver: OnnxDriver, frame_1HWC: NDArray[np.uint8], repetitions: int) -> list[float]:
    for _ in range(_WARM_UP):
        driver.predict(frame_1HWC)
    taken_ms = []
    for _ in range(repetitions):
        started_ns = time.perf_counter_ns()
        driver.predict(frame_1HWC)
        taken_ms.append((time.perf_counter_ns() - started_ns) / 1e6)
    return taken_ms


def _first_line(error: Exception) -> str:
    line = (str(error).splitlines() or [""])[0][:300]
    return line or type(error).__name__
