"""Key streams are AES-256-CTR, lane for lane, and go away again."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from convoy_privacy import key_stream
from convoy_privacy.key_stream import KeyStream, StreamAdder

KEY = bytes(range(32))
ZERO_KEY_BLOCK = (
    "dc95c078a2408989ad48a21492842087"  # AES-256 of a zero block, as NIST's vectors have it
)


def whole_stream(key, length):
    """The slow obvious way: all bytes at once, block after block in ECB."""
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    blocks = b"".join(number.to_bytes(16, "big") for number in range(length // 16 + 1))
    return cipher.update(blocks)[:length]


def test_the_stream_is_aes_256_in_counter_mode():
    vectors = StreamAdder(np.zeros(16, np.uint8), np.zeros(0, np.uint64))
    vectors.add(bytes(32))
    assert vectors.lanes_P.tobytes().hex() == ZERO_KEY_BLOCK


@pytest.mark.parametrize("lane_type", [np.uint8, np.uint16])
@given(
    lanes=st.integers(0, 200), counters=st.integers(0, 9), block=st.sampled_from([16, 64, 1 << 18])
)
def test_lanes_then_counters_come_from_one_stream(lane_type, lanes, counters, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_stream, "_BLOCK_BYTES", block)
        vectors = StreamAdder(np.zeros(lanes, lane_type), np.zeros(counters, np.uint64))
        vectors.add(KEY)
    lane_bytes = lanes * np.dtype(lane_type).itemsize
    stream = whole_stream(KEY, lane_bytes + 8 * counters)
    little = np.dtype(lane_type).newbyteorder("<")
    np.testing.assert_array_equal(vectors.lanes_P, np.frombuffer(stream[:lane_bytes], little))
    np.testing.assert_array_equal(vectors.counters_C, np.frombuffer(stream[lane_bytes:], "<u8"))


@pytest.mark.parametrize("lane_type", [np.uint8, np.uint16])
def test_what_is_added_can_be_taken_away_in_any_order(lane_type):
    keys = [bytes([number]) * 32 for number in range(5)]
    vectors = StreamAdder(np.arange(100, dtype=lane_type), np.arange(3, dtype=np.uint64))
    for key in keys:
        vectors.add(key)
    for key in reversed(keys):
        vectors.subtract(key)
    np.testing.assert_array_equal(vectors.lanes_P, np.arange(100))
    np.testing.assert_array_equal(vectors.counters_C, np.arange(3))


@pytest.mark.parametrize(
    ("lanes_P", "counters_C"),
    [
        (np.zeros(4, np.int8), np.zeros(1, np.uint64)),  # signed lanes
        (np.zeros(4, np.uint32), np.zeros(1, np.uint64)),
        (np.zeros(4, np.uint8), np.zeros(1, np.int64)),  # signed counters
    ],
)
def test_other_types_are_refused(lanes_P, counters_C):
    with pytest.raises(ValueError, match="no lanes and counters"):
        StreamAdder(lanes_P, counters_C)


def test_a_key_of_another_length_is_refused():
    vectors = StreamAdder(np.zeros(4, np.uint8), np.zeros(1, np.uint64))
    with pytest.raises(ValueError, match="32 bytes"):
        vectors.add(bytes(16))


def test_a_stream_read_in_pieces_is_the_stream():
    whole = KeyStream(bytes(32)).read(100)
    pieces = KeyStream(bytes(32))
    assert pieces.read(1) + pieces.read(40) + pieces.read(59) == whole
    assert KeyStream(bytes(31) + b"x").read(100) != whole
    with pytest.raises(ValueError, match="32 bytes"):
        KeyStream(bytes(31))
