"""How long one frame takes, compared fairly on a machine that does other work as well.

The runners take turns, so that a slow minute hits all of them, and the clock is the processor time
of the calling thread, so that waiting for a core does not count: under load the ratios of these
medians stay within 3 %, while those of wall time are worthless. A runner must therefore do its work
on the calling thread: onnxruntime with one intra-op thread, torch within `one_thread`.
"""

import statistics
import time
from collections.abc import Callable, Mapping


def interleaved_p50_ms(
    runners: Mapping[str, Callable[[], object]],
    repetitions: int,
    *,
    warm_up: int = 10,
    clock_ns: Callable[[], int] = time.thread_time_ns,
) -> dict[str, float]:
    """Median milliseconds of each runner.

    Args:
        runners: What to time, by name; each call is one run.
        repetitions: Timed runs of each.
        warm_up: Untimed runs of each before.
        clock_ns: Nanoseconds of processor time.
    """
    if repetitions < 1:
        raise ValueError(f"repetitions must be at least 1, got {repetitions}")
    for _ in range(warm_up):
        for run in runners.values():
            run()
    taken_ns: dict[str, list[int]] = {name: [] for name in runners}
    for _ in range(repetitions):
        for name, run in runners.items():
            started_ns = clock_ns()
            run()
            taken_ns[name].append(clock_ns() - started_ns)
    return {name: statistics.median(times) / 1e6 for name, times in taken_ns.items()}
