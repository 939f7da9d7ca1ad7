"""Golden vectors of every update payload, version 1, and broken ones named for what is broken.

They stand in tests/vectors/update_codecs.toml. A changed vector is a new version of the codec: then give
the codec a new name and write a new file with `python tests/compression/update/test_vectors.py > FILE`.
"""

import struct
import sys
import textwrap
import tomllib
import zlib
from pathlib import Path

import numpy as np
import pytest

from convoy_compression.errors import CorruptPayloadError, InvalidUpdateError
from convoy_compression.update.float16 import Float16Codec
from convoy_compression.update.float32 import Float32Codec
from convoy_compression.update.masked import LaneSum, MaskedFormat
from convoy_compression.update.model_delta import apply_delta, encode_delta
from convoy_compression.update.rotation import rotate
from convoy_compression.update.sealed import decode_sparse, encode_sparse

PATH = Path(__file__).parents[2] / "vectors" / "update_codecs.toml"
SEED = bytes(range(32))
MASKED_COUNT, MASKED_STEP, SLOTS, WIDTHS = 50, 0.25, (1, 2, 3), (1, 4, 6, 8, 12, 16)
SEALED_FACTOR = 0.05
HEADER = struct.Struct("<IfIIII")
COMMENT = """\
# Payloads of updates and of model deltas, bytes as hex, floats as little-endian float32.
#
# Made by tests/compression/update/test_vectors.py, which says from what: `python` with its path prints this
# file. Numbers are simple formulas, the seed of the masked payloads is the bytes 0 to 31. Three vehicles
# in slots 1 to 3; `sum` is what their lanes add up to, `decoded` what that says. The bytes of a deflated
# section may differ from one zlib to the next, so a reader must decode these; a writer need not repeat them.
# Everything under bad_sealed must be refused; the name says what is wrong.
"""


def masked_updates():
    """Shape (3, 50); no rotated coordinate lies where two machines could round apart."""
    index_N = np.arange(MASKED_COUNT, dtype=np.float32)
    return [(np.float32(slot) + (index_N * 7 % 11) - 5) / np.float32(8) for slot in SLOTS]


def sealed_update():
    """Shape (20,): zeros, small values, one of more than 127 steps."""
    update_N = np.zeros(20, np.float32)
    update_N[[0, 3, 7, 8, 19]] = [0.5, -0.25, 12.0, 0.75, -1.0]
    return update_N


def models():
    """A base of 40 parameters and what came of it."""
    base_N = (np.arange(40) % 7 - 3).astype(np.float32)
    new_N = base_N.copy()
    new_N[[2, 3, 30]] += np.array([0.5, -0.125, 0.0625], np.float32)
    return new_N, base_N


def masked_format(bits):
    return MaskedFormat(
        parameter_count=MASKED_COUNT, modulus_bits=bits, step=MASKED_STEP, seed=SEED
    )


def deflated(section):
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return compressor.compress(section) + compressor.flush()


def assembled(
    *,
    count=10,
    step=1.0,
    non_zero=3,
    escapes=1,
    bitmap=None,
    values=None,
    escaped=(200,),
    rest=b"",
):
    """A payload of 10 parameters of which 0, 5 and 9 are 1, -1 and 200, or something broken."""
    bitmap = deflated(bytes([0b10000100, 0b01000000])) if bitmap is None else bitmap
    values = deflated(struct.pack("3b", 1, -1, -128)) if values is None else values
    header = HEADER.pack(count, step, non_zero, escapes, len(bitmap), len(values))
    return header + bitmap + values + struct.pack(f"<{len(escaped)}i", *escaped) + rest


def broken():
    """Payloads for 10 parameters, by what is wrong with them."""
    good_bitmap = bytes([0b10000100, 0b01000000])
    return {
        "empty": b"",
        "header_cut_short": assembled()[:23],
        "escaped_value_cut_short": assembled()[:-1],
        "byte_left_over": assembled(rest=b"\0"),
        "other_parameter_count": assembled(count=11),
        "step_zero": assembled(step=0.0),
        "step_negative": assembled(step=-1.0),
        "step_denormal": assembled(step=1e-40),
        "step_infinite": assembled(step=float("inf")),
        "step_nan": assembled(step=float("nan")),
        "more_values_than_parameters": assembled(non_zero=11),
        "more_escapes_than_values": assembled(escapes=4, escaped=(200,) * 4),
        "bitmap_marks_fewer": assembled(bitmap=deflated(bytes([0b10000100, 0]))),
        "bitmap_marks_beyond_the_end": assembled(bitmap=deflated(bytes([0b10000100, 1]))),
        "bitmap_too_short": assembled(bitmap=deflated(good_bitmap[:1])),
        "bitmap_too_long": assembled(bitmap=deflated(good_bitmap + b"\0")),
        "bitmap_is_a_bomb": assembled(bitmap=deflated(bytes(20_000))),
        "bitmap_not_deflated": assembled(bitmap=b"\xff" + good_bitmap),
        "bitmap_unfinished": assembled(bitmap=deflated(good_bitmap)[:-1]),
        "bitmap_with_bytes_after_its_end": assembled(bitmap=deflated(good_bitmap) + b"\0"),
        "values_too_few": assembled(values=deflated(struct.pack("2b", 1, -128))),
        "values_too_many": assembled(values=deflated(struct.pack("4b", 1, -1, -128, 1))),
        "values_with_zlib_header": assembled(values=zlib.compress(struct.pack("3b", 1, -1, -128))),
        "value_zero": assembled(values=deflated(struct.pack("3b", 1, 0, -128))),
        "escape_without_mark": assembled(values=deflated(struct.pack("3b", 1, -1, 127))),
        "mark_without_escape": assembled(escapes=0, escaped=()),
        "escaped_value_fits_a_byte": assembled(escaped=(127,)),
        "absurdly_large": assembled(step=2.0**60),
    }


@pytest.fixture(scope="module")
def vectors():
    with PATH.open("rb") as file:
        return tomllib.load(file)


def floats(hexadecimal):
    return np.frombuffer(bytes.fromhex(hexadecimal), "<f4")


def test_rounding_of_the_masked_vectors_is_the_same_on_every_machine():
    for slot, update_N in zip(SLOTS, masked_updates(), strict=True):
        lanes = masked_format(16)
        exact_P = rotate(update_N, SEED) / MASKED_STEP + lanes._dither(slot)
        assert np.abs(exact_P - np.rint(exact_P)).min() > 1e-4


@pytest.mark.parametrize("bits", WIDTHS)
def test_masked_payloads_are_written_and_read_as_ever(vectors, bits):
    lanes = masked_format(bits)
    vector = vectors["masked"][f"m{bits}"]
    total = LaneSum(lanes)
    for update_N, slot, payload in zip(masked_updates(), SLOTS, vector["payloads"], strict=True):
        assert lanes.pack(lanes.quantize(update_N, slot)).hex() == "".join(payload.split())
        total.add(lanes.unpack(bytes.fromhex(payload)))
    assert lanes.pack(total.lanes_P) == bytes.fromhex(vector["sum"])
    decoded = lanes.decode(lanes.unpack(bytes.fromhex(vector["sum"])), len(SLOTS))
    np.testing.assert_allclose(decoded.sum_N, floats(vector["decoded"]), rtol=1e-5, atol=1e-5)


def test_sealed_payloads_are_read_as_ever(vectors):
    payload = bytes.fromhex(vectors["sealed"]["payload"])
    decoded_N = decode_sparse(memoryview(payload), 20)
    assert decoded_N.astype("<f4").tobytes() == bytes.fromhex(vectors["sealed"]["decoded"])
    written = encode_sparse(sealed_update(), SEALED_FACTOR)
    assert decode_sparse(memoryview(written), 20).tobytes() == decoded_N.tobytes()
    assert written[:16] == payload[:16]  # what follows depends on zlib


def test_deltas_are_applied_as_ever(vectors):
    new_N, base_N = models()
    payload = bytes.fromhex(vectors["delta"]["payload"])
    model_N = apply_delta(base_N, memoryview(payload))
    assert model_N.astype("<f4").tobytes() == bytes.fromhex(vectors["delta"]["model"])
    written = encode_delta(new_N, base_N, 0.25)
    assert apply_delta(base_N, memoryview(written)).tobytes() == model_N.tobytes()


@pytest.mark.parametrize("codec", [Float32Codec(), Float16Codec()], ids=lambda codec: codec.name)
def test_plain_payloads_are_written_and_read_as_ever(vectors, codec):
    payload = bytes.fromhex(vectors["plain"][codec.name])
    assert codec.encode(sealed_update()) == payload
    accumulator = codec.accumulator(20)
    accumulator.add(memoryview(payload), 1.0)
    np.testing.assert_array_equal(accumulator.mean(), sealed_update())


def test_what_the_broken_payloads_break_is_whole_without_it():
    expected_N = np.zeros(10, np.float32)
    expected_N[[0, 5, 9]] = [1, -1, 200]
    np.testing.assert_array_equal(decode_sparse(memoryview(assembled()), 10), expected_N)


@pytest.mark.parametrize("name", broken())
def test_broken_sealed_payloads_are_refused(vectors, name):
    payload = bytes.fromhex(vectors["bad_sealed"][name])
    with pytest.raises(CorruptPayloadError):
        decode_sparse(memoryview(payload), 10)


def test_every_vector_has_its_test(vectors):
    assert set(vectors["bad_sealed"]) == set(broken())
    assert set(vectors["masked"]) == {f"m{bits}" for bits in WIDTHS}


@pytest.mark.parametrize("name", ["bad_nan", "bad_infinite"])
def test_broken_plain_payloads_are_refused(vectors, name):
    for codec in (Float32Codec(), Float16Codec()):
        payload = bytes.fromhex(vectors["plain"][name][codec.name])
        with pytest.raises(InvalidUpdateError):
            codec.accumulator(2).add(memoryview(payload), 1.0)


def file_text():
    """The file, from the code as it is."""
    lines = []
    lines.append(COMMENT)
    for bits in WIDTHS:
        lanes = masked_format(bits)
        total = LaneSum(lanes)
        payloads = []
        for update_N, slot in zip(masked_updates(), SLOTS, strict=True):
            payloads.append(lanes.pack(lanes.quantize(update_N, slot)))
            total.add(lanes.unpack(payloads[-1]))
        lines.append(f"[masked.m{bits}]\npayloads = [")
        lines.extend(f"  {_quoted(payload)}," for payload in payloads)
        lines.append("]")
        lines.append(f"sum = {_quoted(lanes.pack(total.lanes_P))}")
        lines.append(
            f"decoded = {_quoted(lanes.decode(total.lanes_P, len(SLOTS)).sum_N.astype('<f4').tobytes())}\n"
        )
    payload = encode_sparse(sealed_update(), SEALED_FACTOR)
    decoded_N = decode_sparse(memoryview(payload), 20)
    lines.append(f"[sealed]\npayload = {_quoted(payload)}")
    lines.append(f"decoded = {_quoted(decoded_N.astype('<f4').tobytes())}\n")
    new_N, base_N = models()
    delta = encode_delta(new_N, base_N, 0.25)
    model_N = apply_delta(base_N, memoryview(delta))
    lines.append(f"[delta]\npayload = {_quoted(delta)}")
    lines.append(f"model = {_quoted(model_N.astype('<f4').tobytes())}\n")
    lines.append("[plain]")
    for codec, kind in ((Float32Codec(), "<f4"), (Float16Codec(), "<f2")):
        lines.append(f'"{codec.name}" = {_quoted(codec.encode(sealed_update()))}')
        for name, entry in (("bad_nan", np.nan), ("bad_infinite", -np.inf)):
            lines.append(
                f'{name}."{codec.name}" = {_quoted(np.array([1.0, entry], kind).tobytes())}'
            )
    lines.append("\n[bad_sealed]")
    for name, bad in broken().items():
        lines.append(f"{name} = {_quoted(bad)}")
    return "\n".join(lines) + "\n"


def _quoted(payload):
    lines = textwrap.wrap(payload.hex(), 96)
    if len(lines) <= 1:
        return f'"{payload.hex()}"'
    return '"""\n' + "".join(f"    {line}\n" for line in lines) + '"""'


if __name__ == "__main__":
    sys.stdout.write(file_text())
