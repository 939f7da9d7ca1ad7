"""Lanes whose sum says the sum of the updates: in any order, without bias, and not silently wrong."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convoy_compression.errors import InvalidUpdateError, PayloadLengthError
from convoy_compression.update.masked import (
    OVERFLOW_WRAP_RATIO,
    LaneSum,
    MaskedFormat,
    overflow_limit,
)
from convoy_compression.update.public_bytes import public_bytes
from convoy_compression.update.range_control import step_for
from convoy_compression.update.rotation import rotate, rotate_back

SEED = bytes(range(32))


def lanes_of(count=500, bits=8, step=0.1, seed=SEED):
    return MaskedFormat(parameter_count=count, modulus_bits=bits, step=step, seed=seed)


def drawn(clients, count, seed=0):
    return np.random.default_rng(seed).standard_normal((clients, count), dtype=np.float32)


def summed(lanes, updates_KN, order=None):
    total = LaneSum(lanes)
    for index in order if order is not None else range(len(updates_KN)):
        total.add(lanes.unpack(lanes.pack(lanes.quantize(updates_KN[index], index + 1))))
    return total.lanes_P


def fitting_step(updates_KN, bits):
    """The step that range control would take if it knew the sum."""
    true_P = rotate(updates_KN.sum(0), SEED)
    return step_for(float(np.sqrt(np.mean(true_P**2))), bits)


def error(decoded_N, true_N):
    return float(np.square(decoded_N - true_N).sum() / np.square(true_N).sum())


@pytest.mark.parametrize("bits", [1, 2, 5, 6, 8, 9, 12, 16])
def test_quantizing_summing_and_decoding_equal_a_plain_loop(bits):
    updates_KN = drawn(5, 100)
    lanes = lanes_of(100, bits, 0.3)
    uniform_P = public_bytes(SEED, "convoy dither/1", 2 * lanes.padded_count).view("<u2")
    totals = [0] * lanes.padded_count
    for slot, update_N in enumerate(updates_KN, start=1):
        rotated_P = rotate(update_N, SEED)
        quantized_P = lanes.quantize(update_N, slot)
        for j in range(lanes.padded_count):
            dither = (int(uniform_P[j]) + slot * 40_503) % 65_536 / 65_536 + 2.0**-17
            scaled = float(rotated_P[j]) / 0.3 + dither
            value = math.floor(scaled)
            # Where float32 and float64 may disagree, one of two neighbours is right.
            if abs(scaled - round(scaled)) < 1e-4:
                modulus = 1 << bits
                apart = (int(quantized_P[j]) - value + modulus // 2) % modulus - modulus // 2
                value += apart if abs(apart) <= 1 else 0
            totals[j] += value
            assert (int(quantized_P[j]) - value) % (1 << bits) == 0
    decoded = lanes.decode(summed(lanes, updates_KN), len(updates_KN))
    half = 1 << (bits - 1)
    centred_P = np.array([(total + half) % (2 * half) - half for total in totals], np.float32)
    np.testing.assert_allclose(
        decoded.sum_N, rotate_back(centred_P * np.float32(0.3), 100, SEED), atol=1e-4 * 2**bits
    )
    rms = math.sqrt(np.mean(centred_P.astype(float) ** 2))
    assert decoded.wrap_ratio == pytest.approx(rms / half, abs=1e-6)
    assert decoded.rms == pytest.approx(rms * 0.3, abs=1e-6)


@pytest.mark.parametrize(("bits", "lane_bytes"), [(1, 1), (6, 1), (8, 1), (9, 2), (16, 2)])
def test_length_and_type_follow_from_the_format_alone(bits, lane_bytes):
    lanes = lanes_of(5000, bits)
    assert lanes.padded_count == 8192
    assert lanes.payload_bytes == 8192 * bits // 8
    quantized_P = lanes.quantize(drawn(1, 5000)[0], 1)
    assert quantized_P.dtype == lanes.lane_type
    assert quantized_P.itemsize == lane_bytes
    assert len(lanes.pack(quantized_P)) == lanes.payload_bytes


def test_a_fine_step_gives_the_sum_itself():
    updates_KN = drawn(10, 500)
    lanes = lanes_of(bits=16, step=fitting_step(updates_KN, 16))
    decoded = lanes.decode(summed(lanes, updates_KN), len(updates_KN))
    assert error(decoded.sum_N, updates_KN.sum(0)) < 1e-5


def test_a_single_update_may_wrap_where_the_sum_does_not():
    large_N = drawn(1, 500)[0] * 100
    updates_KN = np.stack([large_N, -large_N + drawn(1, 500, seed=1)[0]])
    lanes = lanes_of(bits=8, step=fitting_step(updates_KN, 8))
    assert lanes.decode(lanes.quantize(large_N, 1), 1).overflowed
    decoded = lanes.decode(summed(lanes, updates_KN), len(updates_KN))
    assert not decoded.overflowed
    assert error(decoded.sum_N, updates_KN.sum(0)) < 0.01


@settings(max_examples=30)
@given(st.permutations(range(6)), st.sampled_from([4, 6, 8, 12]))
def test_the_order_of_uploads_changes_no_byte(order, bits):
    updates_KN = drawn(6, 200)
    lanes = lanes_of(200, bits)
    assert summed(lanes, updates_KN, order).tobytes() == summed(lanes, updates_KN).tobytes()


@settings(max_examples=30)
@given(st.integers(1, 16), st.integers(0, 2**32 - 1))
def test_masks_that_are_added_and_subtracted_leave_the_sum_as_it_was(bits, seed):
    lanes = lanes_of(64, bits)
    updates_KN = drawn(3, 64)
    rng = np.random.default_rng(seed)
    top = np.iinfo(lanes.lane_type).max
    plain, masked = LaneSum(lanes), LaneSum(lanes)
    for slot, update_N in enumerate(updates_KN, start=1):
        quantized_P = lanes.quantize(update_N, slot)
        mask_P = rng.integers(0, top, 64, dtype=lanes.lane_type, endpoint=True)
        plain.add(lanes.unpack(lanes.pack(quantized_P)))
        masked.add(lanes.unpack(lanes.pack(quantized_P + mask_P)))
        masked.subtract(mask_P)
    before, after = lanes.decode(plain.lanes_P, 2), lanes.decode(masked.lanes_P, 2)
    assert before.sum_N.tobytes() == after.sum_N.tobytes()


@pytest.mark.parametrize("value", [0.0, 0.013, -0.37, 0.5, -0.999, 12.25])
def test_the_dither_is_unbiased(value):
    """floor(x + u) with u uniform is x on average: over coordinates and over vehicles."""
    lanes = lanes_of(4096, 16, 1.0)
    rotated_P = np.full(4096, value, np.float32)
    update_N = rotate_back(rotated_P, 4096, SEED)
    centred_KP = np.stack([lanes.quantize(update_N, slot).view(np.int16) for slot in range(1, 51)])
    assert centred_KP.mean() == pytest.approx(value, abs=2e-3)
    # Over the vehicles alone, in each coordinate: the shifts are spread evenly.
    assert np.abs(centred_KP.mean(axis=0) - value).max() < 3 / 50


def test_shifted_dithers_halve_the_error_of_independent_ones():
    updates_KN = drawn(50, 4096)
    step = 0.5
    lanes = lanes_of(4096, 16, step)
    decoded = lanes.decode(summed(lanes, updates_KN), len(updates_KN))
    square = np.mean((decoded.sum_N - updates_KN.sum(0)) ** 2)
    assert 0.8 < square / (50 * step**2 / 12) < 1.2  # independent: 50 * step**2 / 6


@pytest.mark.parametrize("lost", [[], [3], list(range(0, 50, 2))])
def test_lost_vehicles_leave_a_good_sum_of_the_others(lost):
    updates_KN = drawn(50, 4096) + np.float32(0.5)
    present = [index for index in range(50) if index not in lost]
    true_N = updates_KN[present].sum(0)
    lanes = lanes_of(4096, 8, fitting_step(updates_KN[present], 8))
    decoded = lanes.decode(summed(lanes, updates_KN, present), len(present))
    assert not decoded.overflowed
    assert error(decoded.sum_N, true_N) < 0.01


@pytest.mark.parametrize(
    ("share", "overflowed", "low", "high"),
    [
        (4.0, False, 0.05, 0.07),
        (1.0, False, 0.22, 0.25),  # 1 / 4.25 and a little rounding
        (0.5, True, 0.42, 0.48),
        (0.1, True, 0.56, 0.59),  # uniform: 1 / sqrt(3)
    ],
)
def test_a_step_too_fine_for_the_sum_is_noticed(share, overflowed, low, high):
    updates_KN = drawn(10, 8000)
    lanes = lanes_of(8000, 8, share * fitting_step(updates_KN, 8))
    decoded = lanes.decode(summed(lanes, updates_KN), len(updates_KN))
    assert low < decoded.wrap_ratio < high
    assert decoded.overflowed is overflowed
    assert (decoded.wrap_ratio > OVERFLOW_WRAP_RATIO) is overflowed


def test_every_update_zero_is_valid():
    lanes = lanes_of(500, 6, 1e-6)
    decoded = lanes.decode(summed(lanes, np.zeros((3, 500), np.float32)), 3)
    np.testing.assert_array_equal(decoded.sum_N, np.zeros(500))
    assert (decoded.rms, decoded.wrap_ratio) == (0.0, 0.0)


def test_the_same_update_always_makes_the_same_bytes():
    update_N = drawn(1, 50_000)[0]
    lanes = lanes_of(50_000, 6)
    before = torch.get_num_threads()
    payloads = set()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            payloads.add(lanes.pack(lanes.quantize(update_N, 7)))
    finally:
        torch.set_num_threads(before)
    assert len(payloads) == 1
    assert lanes.pack(lanes.quantize(update_N, 8)) not in payloads


@pytest.mark.parametrize("entry", [np.nan, np.inf, -np.inf, 3e38, 1e12], ids=lambda e: f"{e:g}")
def test_what_cannot_be_rounded_is_refused(entry):
    update_N = np.zeros(500, np.float32)
    update_N[123] = entry
    with pytest.raises(InvalidUpdateError):
        lanes_of().quantize(update_N, 1)


def test_infinities_that_the_rotation_makes_are_refused_too():
    with pytest.raises(InvalidUpdateError, match="absurdly large"):
        lanes_of().quantize(np.full(500, 3e38, np.float32), 1)


@pytest.mark.parametrize("bits", [1, 6, 8, 11, 16])
def test_a_payload_cut_or_grown_anywhere_is_refused(bits):
    lanes = lanes_of(64, bits)
    payload = lanes.pack(lanes.quantize(drawn(1, 64)[0], 1))
    for length in range(len(payload)):
        with pytest.raises(PayloadLengthError):
            lanes.unpack(memoryview(payload)[:length])
    with pytest.raises(PayloadLengthError):
        lanes.unpack(payload + b"\0")


@settings(max_examples=50)
@given(st.sampled_from([1, 6, 8, 11, 16]), st.randoms(use_true_random=False))
def test_whatever_bytes_of_the_right_length_decode_to_finite_numbers(bits, random):
    lanes = lanes_of(100, bits)
    decoded = lanes.decode(lanes.unpack(random.randbytes(lanes.payload_bytes)), 1)
    assert np.isfinite(decoded.sum_N).all()
    assert 0.0 <= decoded.wrap_ratio <= 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"bits": 0},
        {"bits": 17},
        {"count": -1},
        {"step": 0.0},
        {"step": math.nan},
        {"step": math.inf},
        {"seed": bytes(31)},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_format_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="must "):
        lanes_of(**wrong)


def test_an_update_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"expected shape \(500,\), got \(499,\)"):
        lanes_of().quantize(np.zeros(499, np.float32), 1)


def test_a_sum_of_counters_alone_has_no_lanes():
    lanes = lanes_of(0, 2)
    assert (lanes.padded_count, lanes.payload_bytes) == (0, 0)
    assert lanes.pack(lanes.quantize(np.zeros(0, np.float32), 1)) == b""
    decoded = lanes.decode(lanes.unpack(b""), 3)
    assert (decoded.sum_N.size, decoded.overflowed) == (0, False)


@pytest.mark.parametrize(
    ("bits", "vehicles", "limit"),
    [
        (8, 50, 0.30),  # rounding is nothing against a wrap
        (6, 50, 0.337),
        (5, 50, 0.399),
        (4, 50, 0.5),
        (2, 50, 0.5),  # no wider range would be better
        (5, 6, 0.314),
        (3, 6, 0.442),
        (16, 128, 0.30),
    ],
)
def test_the_fewer_the_bits_and_the_more_the_vehicles_the_later_a_wider_range_pays(
    bits, vehicles, limit
):
    assert overflow_limit(bits, vehicles) == pytest.approx(limit, abs=0.002)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 6, 5, 4, 3])
@pytest.mark.parametrize("vehicles", [6, 50])
def test_a_sum_beyond_the_limit_is_better_made_again_and_one_below_is_not(bits, vehicles):
    updates_KN = drawn(vehicles, 16_384)
    wanted_N = updates_KN.sum(axis=0)

    def error(share):
        lanes = lanes_of(16_384, bits, share * fitting_step(updates_KN, bits))
        decoded = lanes.decode(summed(lanes, updates_KN), vehicles)
        return decoded, float(np.sum((decoded.sum_N - wanted_N) ** 2))

    for share in (0.35, 0.5, 0.7, 1.0, 1.4):
        (decoded, now), (_, again) = error(share), error(2 * share)
        near_the_limit = 0.75 < decoded.wrap_ratio / decoded.limit < 1.25
        assert near_the_limit or decoded.overflowed == (again < now)
