"""The median of runs that take turns."""

import contextlib

import pytest
import torch

from convoy_compression.model.latency import interleaved_p50_ms
from convoy_compression.update.one_thread import one_thread


def test_runners_take_turns_and_the_median_ignores_one_slow_run():
    now_ns, order = [0], []
    durations_ns = {"fast": iter([1, 1, 1, 90, 1, 1]), "slow": iter([4, 4, 4, 4, 4, 4])}

    def runner(name):
        def run():
            order.append(name)
            now_ns[0] += next(durations_ns[name]) * 1_000_000

        return run

    p50_ms = interleaved_p50_ms(
        {"fast": runner("fast"), "slow": runner("slow")},
        repetitions=5,
        warm_up=1,
        clock_ns=lambda: now_ns[0],
    )

    assert p50_ms == {"fast": 1.0, "slow": 4.0}
    assert order == ["fast", "slow"] * 6


def test_zero_repetitions_are_a_mistake():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        interleaved_p50_ms({}, 0)


def test_torch_gets_its_threads_back():
    torch.set_num_threads(2)  # the fixture around this test restores what was before

    with contextlib.suppress(RuntimeError), one_thread():
        within = torch.get_num_threads()
        raise RuntimeError

    assert within == 1
    assert torch.get_num_threads() == 2
