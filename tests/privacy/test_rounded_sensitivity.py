"""What one vehicle can change by its rounded update is bounded, by force where chance will not do."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_privacy.rounded_sensitivity import (
    Sensitivity,
    bounded_lanes,
    centred_norm,
    rounded_sensitivity,
)

BITS = 16


def rounding(step, dither_P, bits=BITS):
    """A quantizer without a rotation."""

    def quantize(update_N):
        numbers = np.floor(update_N.astype(float) / step + dither_P).astype(np.int64)
        return (numbers % (1 << bits)).astype(np.uint16)

    return quantize


def slow_norm(lanes_P, bits):
    modulus = 1 << bits
    return math.sqrt(sum(min(int(x), modulus - int(x)) ** 2 for x in lanes_P.astype(int) % modulus))


def test_a_fine_step_costs_nothing_and_a_coarse_one_rules():
    fine = rounded_sensitivity(1.0, 1e-6, 4096)
    assert fine.l2 == pytest.approx(1e6, rel=1e-3)
    coarse = rounded_sensitivity(1.0, 10.0, 4096)
    assert coarse.l2 == pytest.approx(math.sqrt(4096 / 4), rel=0.1)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.integers(1, 10**7))
def test_the_bound_is_between_the_unrounded_norm_and_the_worst_case(clip_norm, step, count):
    bound = rounded_sensitivity(clip_norm, step, count)
    assert clip_norm / step <= bound.l2 <= clip_norm / step + math.sqrt(count)
    assert bound.l1 <= math.sqrt(count) * bound.l2 * (1 + 1e-12)
    assert bound.l1 <= bound.l2**2 * (1 + 1e-12)


@pytest.mark.parametrize("step", [0.001, 0.02, 1.0])
def test_almost_every_update_keeps_to_the_bound_as_it_is(step):
    rng = np.random.default_rng(0)
    bound = rounded_sensitivity(1.0, step, 4096)
    for _ in range(50):
        update_N = rng.standard_normal(4096)
        update_N = (update_N / np.linalg.norm(update_N)).astype(np.float32)
        quantize = rounding(step, rng.random(4096))
        lanes_P = bounded_lanes(update_N, quantize, BITS, bound)
        np.testing.assert_array_equal(lanes_P, quantize(update_N))
        assert centred_norm(lanes_P, BITS) <= bound.l2


def test_an_update_that_rounds_badly_is_shortened_until_it_fits():
    """Every coordinate is rounded up from just above nothing: the worst case."""
    dither_P = np.full(1000, 0.999)
    update_N = np.full(1000, 1.0 / math.sqrt(1000), np.float32)
    bound = rounded_sensitivity(1.0, 1.0, 1000)
    quantize = rounding(1.0, dither_P)
    assert centred_norm(quantize(update_N), BITS) > bound.l2
    lanes_P = bounded_lanes(update_N, quantize, BITS, bound)
    assert centred_norm(lanes_P, BITS) <= bound.l2


def test_where_nothing_fits_zeros_are_sent():
    stubborn = rounding(1e-9, np.zeros(4))
    lanes_P = bounded_lanes(np.ones(4, np.float32), stubborn, BITS, Sensitivity(0.5, 0.5))
    np.testing.assert_array_equal(lanes_P, 0)


@given(st.integers(1, 16), st.lists(st.integers(0, 2**16 - 1), max_size=20))
def test_a_lane_counts_as_the_nearest_number_it_stands_for(bits, values):
    lanes_P = np.array(values, np.uint16)
    assert centred_norm(lanes_P, bits) == pytest.approx(slow_norm(lanes_P, bits))


def test_the_narrow_lanes_are_not_added_in_their_own_type():
    assert centred_norm(np.full(100, 0x80, np.uint8), 8) == pytest.approx(1280.0)


@pytest.mark.parametrize(
    "arguments", [(0.0, 1.0, 10), (1.0, 0.0, 10), (1.0, 1.0, 0), (math.inf, 1.0, 10)]
)
def test_what_is_no_norm_step_or_count_is_refused(arguments):
    with pytest.raises(ValueError, match="no clip norm, step and count"):
        rounded_sensitivity(*arguments)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_sensitivity_is_positive_and_finite(value):
    with pytest.raises(ValueError, match="positive and finite"):
        Sensitivity(value, 1.0)
    with pytest.raises(ValueError, match="positive and finite"):
        Sensitivity(1.0, value)


def test_noise_is_measured_by_what_one_vehicle_can_change():
    assert Sensitivity(l1=100.0, l2=10.0).noise_variance(1.5) == pytest.approx(225.0)
