"""The step follows the sum: never too fine for it, never coarser and coarser."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_compression.update.masked import LaneSum, MaskedFormat
from convoy_compression.update.range_control import (
    DEVIATIONS,
    first_sigma,
    next_sigma,
    signal_sigma,
    step_for,
)


@given(st.floats(1e-20, 1e20), st.integers(1, 16))
def test_the_range_holds_the_deviations_asked_for(sigma, bits):
    assert step_for(sigma, bits) * 2 ** (bits - 1) == pytest.approx(DEVIATIONS * sigma)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_a_deviation_is_positive_and_finite(sigma):
    with pytest.raises(ValueError, match="sigma"):
        step_for(sigma, 8)


def test_the_first_bound_is_that_of_equal_updates_as_long_as_allowed():
    # All of length C: a sum of n has length n C over P coordinates.
    assert 50 * first_sigma(2.0, 10_000) == pytest.approx(50 * 2.0 / 100.0)


@given(st.floats(1e-9, 1e6), st.integers(2, 128), st.floats(1e-9, 1e6))
def test_rounding_is_taken_out_but_never_most_of_the_sum(rms, count, step):
    sigma = signal_sigma(rms, count, step)
    assert rms / math.sqrt(2.0) * 0.999 <= sigma <= rms * 1.001


def test_fine_steps_take_nothing_out():
    assert signal_sigma(1.0, 100, 1e-6) == pytest.approx(1.0)


@given(st.floats(1e-9, 1e9), st.floats(1.0, 100.0))
def test_slack_widens(sigma, slack):
    assert next_sigma(sigma, slack) == pytest.approx(sigma * slack)


def test_a_sum_of_nothing_still_leaves_a_step():
    assert step_for(next_sigma(0.0, 1.3), 16) > 0.0


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8, 12])
def test_step_and_sum_settle_without_overflow(bits):
    """Twenty vehicles that go on sending updates of the same size."""
    rng = np.random.default_rng(bits)
    updates_KN = rng.standard_normal((20, 8000)).astype(np.float32) + 0.3
    sigma, slack = 3.0 * np.linalg.norm(updates_KN.sum(0)) / np.sqrt(8192), 1.3
    overflows, steps = [], []
    for number in range(8):
        lanes = MaskedFormat(
            parameter_count=8000,
            modulus_bits=bits,
            step=step_for(sigma, bits),
            seed=bytes([number]) * 32,
        )
        total = LaneSum(lanes)
        for slot, update_N in enumerate(updates_KN, start=1):
            total.add(lanes.quantize(update_N, slot))
        decoded = lanes.decode(total.lanes_P, len(updates_KN))
        overflows.append(decoded.overflowed)
        steps.append(lanes.step)
        sigma = next_sigma(signal_sigma(decoded.rms, 20, lanes.step), slack)
    assert not any(overflows)
    assert steps[-1] == pytest.approx(steps[-2], rel=0.05)
