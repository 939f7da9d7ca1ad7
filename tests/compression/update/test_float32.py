"""The plain codec: nothing lost, nothing poisonous let in, the sum untouched by what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from convoy_compression.errors import (
    CompressionError,
    CorruptPayloadError,
    InvalidUpdateError,
    PayloadLengthError,
)
from convoy_compression.update.float32 import (
    LARGEST_SURELY_ACCEPTED,
    SMALLEST_SURELY_REFUSED,
    Float32Codec,
)

CODEC = Float32Codec()
# Around the row length of the check, and none at all.
LENGTHS = [0, 1, 7, 8191, 8192, 8193, 20_000]

finite = arrays(
    np.float32,
    st.integers(0, 40),
    elements=st.floats(-(2.0**40), 2.0**40, width=32),
)


def added(updates_KN, weights_K):
    accumulator = CODEC.accumulator(len(updates_KN[0]))
    for update_N, weight in zip(updates_KN, weights_K, strict=True):
        accumulator.add(memoryview(CODEC.encode(update_N)), weight)
    return accumulator


def test_the_payload_is_little_endian_float32():
    payload = CODEC.encode(np.array([1.0, -2.0], np.float32))
    assert payload == bytes.fromhex("0000803f 000000c0")
    assert len(payload) == CODEC.payload_limit(2)


@given(finite)
def test_an_update_alone_is_its_own_mean(update_N):
    mean_N = added([update_N], [1.0]).mean()
    np.testing.assert_array_equal(mean_N, update_N)
    assert mean_N.dtype == np.float32


@pytest.mark.parametrize("length", LENGTHS)
def test_the_mean_is_that_of_a_plain_loop(length):
    rng = np.random.default_rng(length)
    updates_KN = rng.standard_normal((5, length), dtype=np.float32)
    weights_K = [3.0, 1.0, 250.0, 17.0, 0.5]
    accumulator = added(updates_KN, weights_K)
    assert accumulator.count == 5
    assert accumulator.total_weight == sum(weights_K)

    slow_N = sum(w * u.astype(float) for w, u in zip(weights_K, updates_KN, strict=True))
    slow_N = slow_N / sum(weights_K)
    np.testing.assert_allclose(accumulator.mean(), slow_N, rtol=1e-5, atol=1e-6)


def test_an_empty_sum_has_no_mean():
    with pytest.raises(ValueError, match="no updates"):
        CODEC.accumulator(3).mean()


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf"), 2.0**28])
def test_a_weight_is_positive_and_bounded(weight):
    with pytest.raises(ValueError, match="weight"):
        CODEC.accumulator(1).add(memoryview(b"\0" * 4), weight)


POISON = {
    "NaN": np.float32("nan"),
    "negative NaN": -np.float32("nan"),
    "signalling NaN": np.array([0x7F800001], np.uint32).view(np.float32)[0],
    "infinity": np.float32("inf"),
    "minus infinity": -np.float32("inf"),
    "the largest float32": np.finfo(np.float32).max,
    "the smallest refused": np.float32(SMALLEST_SURELY_REFUSED),
    "its negative": -np.float32(SMALLEST_SURELY_REFUSED),
}


@pytest.mark.parametrize("length", [length for length in LENGTHS if length])
@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
def test_one_poisonous_entry_anywhere_is_refused(length, poison):
    rng = np.random.default_rng(0)
    for position in {0, length // 2, length - 1}:
        update_N = rng.standard_normal(length, dtype=np.float32)
        update_N[position] = poison
        with pytest.raises(InvalidUpdateError):
            added([update_N], [1.0])


def test_poison_cannot_hide_behind_its_opposite():
    for pair in ((np.inf, -np.inf), (1e38, -1e38)):
        update_N = np.zeros(9000, np.float32)
        update_N[:2] = pair
        with pytest.raises(InvalidUpdateError):
            added([update_N], [1.0])


@pytest.mark.parametrize("length", LENGTHS)
def test_large_honest_values_are_accepted(length):
    update_N = np.full(length, LARGEST_SURELY_ACCEPTED, np.float32)
    np.testing.assert_array_equal(added([update_N], [1.0]).mean(), update_N)


@given(st.binary(max_size=100), st.integers(0, 20))
def test_any_payload_is_added_or_refused_with_a_documented_error(payload, parameters):
    accumulator = CODEC.accumulator(parameters)
    try:
        accumulator.add(memoryview(payload), 1.0)
    except CompressionError:
        assert accumulator.count == 0
    else:
        assert len(payload) == 4 * parameters
        assert accumulator.count == 1


def test_a_payload_of_another_length_names_both():
    with pytest.raises(PayloadLengthError, match="12 bytes, got 11") as error:
        CODEC.accumulator(3).add(memoryview(b"\0" * 11), 1.0)
    assert isinstance(error.value, CorruptPayloadError)


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from(["good", "nan", "late nan", "inf", "huge", "short", "long"])),
    st.integers(0, 2**32 - 1),
)
def test_what_is_refused_leaves_the_sum_as_if_it_had_never_come(kinds, seed):
    length = 10_000
    rng = np.random.default_rng(seed)
    touched, untouched = CODEC.accumulator(length), CODEC.accumulator(length)
    for kind in ["good", *kinds]:
        update_N = rng.standard_normal(length, dtype=np.float32)
        position = {"nan": 0, "late nan": -1, "inf": 5000, "huge": 9999}.get(kind)
        if position is not None:
            update_N[position] = {"inf": -np.inf, "huge": 1e30}.get(kind, np.nan)
        payload = CODEC.encode(update_N)
        payload = {"short": payload[:-4], "long": payload + b"\0" * 4}.get(kind, payload)
        if kind == "good":
            touched.add(memoryview(payload), 3.0)
            untouched.add(memoryview(payload), 3.0)
        else:
            with pytest.raises(CompressionError):
                touched.add(memoryview(payload), 3.0)
    assert touched.count == untouched.count
    assert touched.mean().tobytes() == untouched.mean().tobytes()


def test_the_payload_is_neither_changed_nor_kept():
    payload = bytearray(CODEC.encode(np.ones(10, np.float32)))
    accumulator = CODEC.accumulator(10)
    accumulator.add(memoryview(payload), 2.0)
    assert payload == CODEC.encode(np.ones(10, np.float32))
    payload.extend(b"a bytearray that is still viewed cannot grow")
    np.testing.assert_array_equal(accumulator.mean(), np.ones(10))


def test_the_callers_threads_are_left_as_they_were():
    before = torch.get_num_threads()
    added([np.ones(4, np.float32)], [1.0])
    with pytest.raises(InvalidUpdateError):
        added([np.full(4, np.nan, np.float32)], [1.0])
    assert torch.get_num_threads() == before
