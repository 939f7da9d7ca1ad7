"""The update envelope: golden bytes, and bytes that are wrong in one named way each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_protos.envelope import envelope_limit, pack, unpack
from convoy_protos.errors import MalformedMessageError
from convoy_protos.v1.federation_pb2 import UpdateHeader

HEADER = UpdateHeader(
    run_id="r1",
    round=7,
    vehicle_id="car0",
    schema_digest=b"\xab\xcd",
    codec="float32/1",
    parameter_count=2,
    example_count=300,
    metrics={"train_loss": 0.5},
)
PAYLOAD = bytes.fromhex("0000803f 000000c0")  # 1.0, -2.0

GOLDEN = bytes.fromhex(
    "43565532"  # magic "CVU2"
    "39000000"  # the header has 57 bytes
    "0a02 7231"  # 1 run_id "r1"
    "10 07"  # 2 round 7
    "1a04 63617230"  # 3 vehicle_id "car0"
    "2202 abcd"  # 4 schema_digest
    "2a09 666c6f617433322f31"  # 5 codec "float32/1"
    "30 02"  # 6 parameter_count 2
    "38 ac02"  # 7 example_count 300
    "4215"  # 8 metrics, one entry of 21 bytes
    "0a0a 747261696e5f6c6f7373"  # "train_loss"
    "11 000000000000e03f"  # 0.5
    "48 08"  # 9 payload_bytes 8
    "000000000000000000000000000000"  # 15 zeros: the payload starts at byte 80
    "0000803f 000000c0"  # payload
)

HEADER_BYTES = 57


def test_the_golden_envelope_is_written_and_read():
    header = UpdateHeader.FromString(HEADER.SerializeToString())
    assert pack(header, PAYLOAD) == GOLDEN
    read, payload = unpack(GOLDEN)
    assert read == header
    assert bytes(payload) == PAYLOAD
    assert header.payload_bytes == 8


@pytest.mark.parametrize("name_length", range(33))
def test_the_payload_starts_where_numbers_are_read_fast(name_length):
    header = UpdateHeader(vehicle_id="c" * name_length)
    blob = pack(header, PAYLOAD)
    assert (len(blob) - len(PAYLOAD)) % 16 == 0
    assert bytes(unpack(blob)[1]) == PAYLOAD


def test_the_payload_is_a_view_and_not_a_copy():
    blob = bytearray(GOLDEN)
    _, payload = unpack(memoryview(blob))
    blob[-1] = 0xFF
    assert payload[-1] == 0xFF


BAD = {
    "nothing at all": b"",
    "prefix cut": GOLDEN[:7],
    "other magic": b"CVU1" + GOLDEN[4:],
    "header longer than the blob": GOLDEN[:4] + (1000).to_bytes(4, "little") + GOLDEN[8:],
    "header of four gigabytes": GOLDEN[:4] + b"\xff\xff\xff\xff" + GOLDEN[8:],
    "header longer than allowed": GOLDEN[:4] + (65_537).to_bytes(4, "little") + b"\0" * 70_000,
    "header that is not protobuf": GOLDEN[:4] + (4).to_bytes(4, "little") + b"\xff\xff\xff\xff",
    "header with text that is not UTF-8": GOLDEN[:10] + b"\xff\xfe" + GOLDEN[12:],
    "padding that is not zero": GOLDEN[:-9] + b"\1" + GOLDEN[-8:],
    "no padding": GOLDEN[: 8 + HEADER_BYTES] + PAYLOAD,
    "payload one byte short": GOLDEN[:-1],
    "payload one byte long": GOLDEN + b"\0",
    "header length one short": GOLDEN[:4] + bytes([HEADER_BYTES - 1]) + GOLDEN[5:],
}


@pytest.mark.parametrize("blob", BAD.values(), ids=BAD)
def test_a_bad_envelope_is_refused(blob):
    with pytest.raises(MalformedMessageError):
        unpack(blob)


def test_an_envelope_cut_anywhere_is_refused():
    for length in range(len(GOLDEN)):
        with pytest.raises(MalformedMessageError):
            unpack(GOLDEN[:length])


@given(st.binary(max_size=300))
def test_garbage_is_refused_with_the_documented_error(blob):
    with pytest.raises(MalformedMessageError):
        unpack(blob)


@given(st.integers(0, len(GOLDEN) - 1), st.integers(1, 255))
def test_a_changed_byte_gives_an_envelope_or_the_documented_error(position, change):
    blob = bytearray(GOLDEN)
    blob[position] ^= change
    try:
        header, payload = unpack(blob)
    except MalformedMessageError:
        return
    assert len(payload) == header.payload_bytes


@given(st.binary(max_size=2000), st.text(max_size=20), st.integers(0, 2**64 - 1))
def test_what_is_packed_is_unpacked(payload, vehicle_id, example_count):
    header = UpdateHeader(vehicle_id=vehicle_id, example_count=example_count)
    blob = pack(header, payload)
    read, view = unpack(blob)
    assert (read, bytes(view)) == (header, payload)
    assert len(blob) <= envelope_limit(len(payload))
