"""Values of m bits, packed without gaps and unpacked again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_compression.errors import PayloadLengthError
from convoy_compression.update.bit_packing import lane_type, pack, packed_bytes, unpack

every_width = pytest.mark.parametrize("bits", range(1, 17))
groups = st.integers(0, 6)


def drawn(count, bits, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 1 << bits, count).astype(lane_type(bits))


def slow_pack(values, bits):
    """One whole number for every eight values; beyond 8 bits all low bytes come first."""
    if bits > 8:
        low = bytes(int(value) & 255 for value in values)
        high = [int(value) >> 8 for value in values]
        return low + slow_pack(high, bits - 8)
    packed = b""
    for start in range(0, len(values), 8):
        group = sum(int(value) << (bits * i) for i, value in enumerate(values[start : start + 8]))
        packed += group.to_bytes(bits, "little")
    return packed


def slow_pack_16(values):
    return b"".join(int(value).to_bytes(2, "little") for value in values)


@every_width
@given(groups=groups, seed=st.integers(0, 2**32 - 1))
def test_packing_equals_a_plain_loop_and_unpacking_undoes_it(bits, groups, seed):
    values_P = drawn(8 * groups, bits, seed)
    packed = pack(values_P, bits)
    assert packed == (slow_pack_16(values_P) if bits == 16 else slow_pack(values_P, bits))
    assert len(packed) == packed_bytes(8 * groups, bits) == groups * bits
    unpacked_P = unpack(memoryview(packed), 8 * groups, bits)
    np.testing.assert_array_equal(unpacked_P, values_P)
    assert unpacked_P.dtype.itemsize == np.dtype(lane_type(bits)).itemsize


def test_the_layout_is_this_one():
    # 6 bits: 1 + 2 * 2**6 + 3 * 2**12 + ...: eight values in six bytes, low bits first.
    assert pack(np.arange(1, 9, dtype=np.uint8), 6).hex() == "813010857120"
    # 12 bits: low bytes, then the high halves two to a byte.
    values_P = np.array([0x123, 0x456, 0x789, 0xABC, 0xDEF, 0, 0xFFF, 1], np.uint16)
    assert pack(values_P, 12).hex() == "235689bcef00ff01" + "41a70d0f"
    assert pack(np.arange(8, dtype=np.uint16), 16).hex() == "00000100020003000400050006000700"


@every_width
def test_bits_above_the_width_are_dropped(bits):
    full = np.iinfo(lane_type(bits)).max
    values_P = np.full(16, full, lane_type(bits))
    unpacked_P = unpack(pack(values_P, bits), 16, bits)
    np.testing.assert_array_equal(unpacked_P, np.full(16, (1 << bits) - 1))


@every_width
def test_a_payload_of_any_other_length_is_refused(bits):
    packed = pack(drawn(64, bits), bits)
    for length in range(len(packed)):
        with pytest.raises(PayloadLengthError):
            unpack(memoryview(packed)[:length], 64, bits)
    with pytest.raises(PayloadLengthError, match=f"{len(packed)} bytes, got {len(packed) + 1}"):
        unpack(packed + b"\0", 64, bits)


@pytest.mark.parametrize("bits", [-1, 0, 17])
def test_a_width_that_no_lane_has_is_refused(bits):
    with pytest.raises(ValueError, match="bits must be in"):
        lane_type(bits)


def test_values_come_in_groups_of_eight():
    with pytest.raises(ValueError, match="groups of 8, got 9"):
        pack(np.zeros(9, np.uint8), 4)
