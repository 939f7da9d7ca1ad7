"""Half precision: rounded to the nearest float16, nothing beyond it sent, nothing poisonous let in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from convoy_compression.errors import CompressionError, InvalidUpdateError, PayloadLengthError
from convoy_compression.update.float16 import LARGEST, Float16Codec

CODEC = Float16Codec()

representable = arrays(
    np.float32, st.integers(0, 40), elements=st.floats(-LARGEST, LARGEST, width=32)
)


def test_the_payload_is_little_endian_float16():
    payload = CODEC.encode(np.array([1.0, -2.0, 2.0**-24], np.float32))
    assert payload == bytes.fromhex("003c 00c0 0100")
    assert len(payload) == CODEC.payload_limit(3)


@given(representable)
def test_an_update_comes_back_rounded_to_eleven_bits(update_N):
    decoded_N = CODEC.decode(memoryview(CODEC.encode(update_N)), update_N.size)
    assert decoded_N.dtype == np.float32
    # Half a unit in the last place of 11 bits; among denormals half of the smallest.
    assert (np.abs(decoded_N - update_N) <= np.maximum(np.abs(update_N) * 2.0**-11, 2.0**-25)).all()


@pytest.mark.parametrize(
    "entry", [np.nan, np.inf, -np.inf, 65_505.0, -65_520.0, 1e30], ids=lambda entry: f"{entry:g}"
)
def test_what_float16_cannot_hold_is_refused_and_not_cut_off(entry):
    with pytest.raises(InvalidUpdateError, match="float16 holds values up to 65504"):
        CODEC.encode(np.array([0.0, entry], np.float32))


@pytest.mark.parametrize("entry", [np.nan, np.inf, -np.inf], ids=str)
def test_poison_in_a_payload_leaves_the_sum_as_it_was(entry):
    accumulator = CODEC.accumulator(2)
    accumulator.add(memoryview(CODEC.encode(np.ones(2, np.float32))), 1.0)
    poison = np.array([0.0, entry], "<f2").tobytes()
    with pytest.raises(InvalidUpdateError, match="NaN or infinite"):
        accumulator.add(memoryview(poison), 1.0)
    assert accumulator.count == 1
    np.testing.assert_array_equal(accumulator.mean(), np.ones(2))


@given(st.binary(max_size=50), st.integers(0, 20))
def test_any_payload_is_added_or_refused_with_a_documented_error(payload, parameters):
    accumulator = CODEC.accumulator(parameters)
    try:
        accumulator.add(memoryview(payload), 1.0)
    except CompressionError:
        assert accumulator.count == 0
    else:
        assert len(payload) == 2 * parameters


def test_a_payload_of_another_length_names_both():
    with pytest.raises(PayloadLengthError, match="6 bytes, got 5"):
        CODEC.decode(memoryview(b"\0" * 5), 3)


def test_the_mean_is_weighted():
    accumulator = CODEC.accumulator(1)
    for value, weight in ((1.0, 3.0), (-1.0, 1.0)):
        accumulator.add(memoryview(CODEC.encode(np.array([value], np.float32))), weight)
    assert (accumulator.count, accumulator.total_weight) == (2, 4.0)
    np.testing.assert_array_equal(accumulator.mean(), [0.5])


def test_an_empty_sum_has_no_mean():
    with pytest.raises(ValueError, match="no updates"):
        CODEC.accumulator(3).mean()


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf"), 2.0**28])
def test_a_weight_is_positive_and_bounded(weight):
    with pytest.raises(ValueError, match="weight"):
        CODEC.accumulator(1).add(memoryview(b"\0\0"), weight)
