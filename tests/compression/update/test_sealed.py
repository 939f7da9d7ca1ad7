"""The sealed codec: rounded to its grid and nothing more lost, and no payload that hurts its reader."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from convoy_compression.errors import (
    CompressionError,
    CorruptPayloadError,
    InvalidUpdateError,
    PayloadLengthError,
)
from convoy_compression.update.sealed import (
    LARGEST_ENCODED,
    SealedCodec,
    decode_sparse,
    encode_sparse,
    payload_limit,
)

CODEC = SealedCodec()
HEADER = struct.Struct("<IfIIII")
SMALLEST_STEP = 2.0**-126

factors = st.sampled_from([1e-3, 0.25, 0.5, 1.0, 2.0, 4.0, 100.0])
anything_finite = arrays(
    np.float32,
    st.integers(0, 60),
    elements=st.floats(-(2.0**63), 2.0**63, width=32, allow_subnormal=True),
    fill=st.just(np.float32(0)),
)


def heavy_tailed(count, seed=0):
    rng = np.random.default_rng(seed)
    values_N = (rng.standard_t(1.5, count) * 1e-3).astype(np.float32)
    values_N[rng.random(count) < 0.4] = 0.0
    return values_N


def decoded(payload, count):
    return decode_sparse(memoryview(payload), count)


def slow_decode(payload, count):
    """From the layout, value by value."""
    _, step, _, _, bitmap_bytes, values_bytes = HEADER.unpack_from(payload)
    bitmap = zlib.decompress(payload[24 : 24 + bitmap_bytes], -15)
    values_at = 24 + bitmap_bytes
    values = zlib.decompress(payload[values_at : values_at + values_bytes], -15)
    numbers = iter(struct.unpack(f"{len(values)}b", values))
    escaped = iter(struct.iter_unpack("<i", payload[values_at + values_bytes :]))
    update = []
    for index in range(count):
        value = 0
        if bitmap[index // 8] >> (7 - index % 8) & 1:
            value = next(numbers)
            if value == -128:
                (value,) = next(escaped)
        update.append(np.float32(value) * np.float32(step))
    return np.array(update, np.float32)


@given(anything_finite, factors)
def test_any_finite_update_comes_back_within_half_a_step(update_N, factor):
    payload = encode_sparse(update_N, factor)
    assert len(payload) <= payload_limit(update_N.size)
    decoded_N = decoded(payload, update_N.size)
    assert decoded_N.dtype == np.float32
    step = HEADER.unpack_from(payload)[1]
    rms = np.sqrt(np.mean(update_N.astype(float) ** 2)) if update_N.size else 0.0
    assert step == pytest.approx(max(factor * rms, SMALLEST_STEP), rel=1e-6)
    off_N = np.abs(decoded_N.astype(float) - update_N.astype(float))
    assert (off_N <= 0.5001 * step + 2.0**-22 * np.abs(update_N)).all()


@pytest.mark.parametrize("factor", [1e-3, 0.5, 1.0, 4.0])
def test_decoding_equals_a_plain_loop(factor):
    update_N = heavy_tailed(1003)
    payload = encode_sparse(update_N, factor)
    np.testing.assert_array_equal(decoded(payload, 1003), slow_decode(payload, 1003))


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
def test_an_update_of_zeros_is_valid_and_tiny(count):
    payload = CODEC.encode(np.zeros(count, np.float32))
    assert len(payload) < 40
    np.testing.assert_array_equal(decoded(payload, count), np.zeros(count))


def test_what_is_smaller_than_the_smallest_step_becomes_zero():
    update_N = np.array([1e-45, -1e-40, 0.0], np.float32)
    np.testing.assert_array_equal(decoded(CODEC.encode(update_N), 3), np.zeros(3))


def test_a_tail_is_escaped_and_not_cut_off():
    update_N = np.zeros(1_000_000, np.float32)
    update_N[[5, 77_777]] = [3.0, -4.0]
    payload = CODEC.encode(update_N)
    assert HEADER.unpack_from(payload)[2:4] == (2, 2)  # both far beyond 127 steps
    np.testing.assert_allclose(decoded(payload, 1_000_000)[[5, 77_777]], [3.0, -4.0], rtol=1e-3)


def test_the_error_is_that_of_the_grid():
    update_N = heavy_tailed(100_000)
    payload = encode_sparse(update_N, 0.01)
    step = HEADER.unpack_from(payload)[1]
    moved_N = update_N[update_N != 0.0]
    error = decoded(payload, update_N.size)[update_N != 0.0].astype(float) - moved_N
    assert np.mean(error**2) == pytest.approx(step**2 / 12, rel=0.2)


def test_more_rounding_takes_fewer_bytes():
    update_N = np.random.default_rng(0).laplace(size=50_000).astype(np.float32)
    sizes = [len(encode_sparse(update_N, factor)) for factor in (0.25, 0.5, 1.0, 2.0, 4.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 50_000 * 2.5 / 8  # with a step of one, of values without a tail


@pytest.mark.parametrize(
    "entry", [np.nan, np.inf, -np.inf, LARGEST_ENCODED, -3e38], ids=lambda entry: f"{entry:g}"
)
@pytest.mark.parametrize("count", [1, 1000])
def test_poison_is_not_sent(entry, count):
    update_N = np.zeros(count, np.float32)
    update_N[-1] = entry
    with pytest.raises(InvalidUpdateError):
        CODEC.encode(update_N)


@pytest.mark.parametrize("factor", [0.0, 9e-4, 101.0, -1.0, float("nan"), float("inf")])
def test_a_step_factor_is_bounded(factor):
    with pytest.raises(ValueError, match="step factor"):
        SealedCodec(factor)
    with pytest.raises(ValueError, match="step factor"):
        encode_sparse(np.ones(3, np.float32), factor)


def test_a_payload_cut_anywhere_or_grown_is_refused():
    payload = encode_sparse(heavy_tailed(200), 0.02)
    assert HEADER.unpack_from(payload)[3] > 0  # has an escaped section to cut
    for length in range(len(payload)):
        with pytest.raises(CorruptPayloadError):
            decoded(payload[:length], 200)
    with pytest.raises(PayloadLengthError):
        decoded(payload + b"\0", 200)


def test_a_flip_anywhere_is_refused_or_gives_another_finite_update():
    payload = bytearray(encode_sparse(heavy_tailed(200), 0.02))
    for offset in range(len(payload)):
        for bit in range(8):
            payload[offset] ^= 1 << bit
            try:
                update_N = decoded(bytes(payload), 200)
            except CorruptPayloadError:
                pass
            else:
                assert update_N.shape == (200,)
                assert np.isfinite(update_N).all()
            payload[offset] ^= 1 << bit


@settings(max_examples=100)
@given(st.binary(max_size=200), st.integers(0, 50))
def test_any_bytes_are_decoded_or_refused_with_a_documented_error(payload, count):
    accumulator = CODEC.accumulator(count)
    try:
        accumulator.add(memoryview(payload), 1.0)
    except CompressionError:
        assert accumulator.count == 0


@settings(max_examples=100)
@given(
    st.binary(max_size=8),
    st.binary(max_size=60),
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
    st.floats(SMALLEST_STEP, 2.0**100, width=32),
)
def test_any_well_formed_sections_are_decoded_or_refused(bitmap, values, escaped, step):
    payload = assembled(bitmap, values, escaped, step=step)
    try:
        update_N = decoded(payload, 50)
    except CorruptPayloadError:
        return
    assert np.isfinite(update_N).all()
    np.testing.assert_array_equal(update_N, slow_decode(payload, 50))


def deflated(section):
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return compressor.compress(section) + compressor.flush()


def assembled(bitmap, values, escaped, *, step=1.0, count=50, non_zero=None):
    sections = deflated(bitmap), deflated(values)
    marked = len(values) if non_zero is None else non_zero
    header = HEADER.pack(count, step, marked, len(escaped), *map(len, sections))
    return header + b"".join(sections) + struct.pack(f"<{len(escaped)}i", *escaped)


@pytest.mark.parametrize("section", ["bitmap", "values"])
def test_a_decompression_bomb_takes_no_more_memory_than_an_update(section):
    count = 1_000_000
    bomb = bytes(50_000_000)  # 50 MB in 49 kB
    honest = bytes(count // 8)
    values, bitmap = (b"", bomb) if section == "bitmap" else (bomb, honest)
    payload = assembled(bitmap, values, [], count=count, non_zero=0)
    del bomb, bitmap, values
    assert len(payload) <= payload_limit(count)  # the length alone does not give it away
    tracemalloc.start()
    try:
        with pytest.raises(CorruptPayloadError, match=f"the {section} section does not hold"):
            decoded(payload, count)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 * count


def test_no_number_in_a_header_makes_the_reader_allocate():
    for field in range(6):
        numbers = [50, 1.0, 0, 0, 0, 0]
        if field == 1:
            continue
        numbers[field] = 2**32 - 1
        tracemalloc.start()
        with pytest.raises(CorruptPayloadError):
            decoded(HEADER.pack(*numbers), 50)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak_bytes < 100_000


def test_a_payload_beyond_the_limit_is_not_looked_at():
    with pytest.raises(PayloadLengthError, match=f"of {payload_limit(10)} bytes"):
        decoded(bytes(payload_limit(10) + 1), 10)


def test_noise_at_the_finest_step_keeps_to_the_limit():
    noise_N = np.random.default_rng(0).standard_normal(30_000, dtype=np.float32)
    payload = encode_sparse(noise_N, 1e-3)
    assert HEADER.unpack_from(payload)[3] > 0.8 * 30_000  # most escaped
    assert len(payload) <= payload_limit(30_000)


def test_the_sum_is_weighted_and_what_is_refused_leaves_it_as_it_was():
    updates_KN = [heavy_tailed(500, seed) for seed in range(3)]
    weights_K = [3.0, 1.0, 0.5]
    touched, untouched = CODEC.accumulator(500), CODEC.accumulator(500)
    for update_N, weight in zip(updates_KN, weights_K, strict=True):
        payload = CODEC.encode(update_N)
        with pytest.raises(CompressionError):
            touched.add(memoryview(payload)[:-1], weight)
        touched.add(memoryview(payload), weight)
        untouched.add(memoryview(payload), weight)
    assert (touched.count, touched.total_weight) == (3, 4.5)
    mean_N = touched.mean()
    assert mean_N.tobytes() == untouched.mean().tobytes()
    slow_N = sum(
        weight * CODEC.decode(memoryview(CODEC.encode(update_N)), 500).astype(float)
        for update_N, weight in zip(updates_KN, weights_K, strict=True)
    )
    np.testing.assert_allclose(mean_N, slow_N / 4.5, rtol=1e-5, atol=1e-9)


def test_an_empty_sum_has_no_mean():
    with pytest.raises(ValueError, match="no updates"):
        CODEC.accumulator(3).mean()


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf"), 2.0**28])
def test_a_weight_is_positive_and_bounded(weight):
    payload = CODEC.encode(np.ones(1, np.float32))
    with pytest.raises(ValueError, match="weight"):
        CODEC.accumulator(1).add(memoryview(payload), weight)
