"""No bytes whatever make a decoder do anything but decode, or refuse with its documented error."""

import pytest
from every_decoder import every_decoder
from hypothesis import given
from hypothesis import strategies as st

DECODERS = every_decoder()
each_decoder = pytest.mark.parametrize("name", DECODERS)


def survives(name, data):
    decoder = DECODERS[name]
    try:
        decoder.decode(data)
    except decoder.raises as error:
        assert "\n" not in str(error), name  # one line for a log  # noqa: PT017


@each_decoder
def test_the_example_is_taken(name):
    DECODERS[name].decode(DECODERS[name].example())


@each_decoder
@given(data=st.binary(max_size=500))
def test_any_bytes_are_decoded_or_refused(name, data):
    survives(name, data)


@each_decoder
@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b'{"a":' * 100_000, b'{"a": %b}' % (b"1" * 9000), b"\xff" * 100_000]
)
def test_what_has_no_end_is_decoded_or_refused(name, data):
    survives(name, data)


@each_decoder
@given(draw=st.data())
def test_a_damaged_example_is_decoded_or_refused(name, draw):
    """Cut, flipped, overwritten, doubled or longer: nearer to valid bytes than chance would come."""
    data = bytearray(DECODERS[name].example())
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(0, max(0, len(data) - 1)))
        match draw.draw(st.sampled_from(("flip", "cut", "splice", "double"))):
            case "flip" if data:
                data[place] ^= draw.draw(st.integers(1, 255))
            case "cut":
                del data[place : place + draw.draw(st.integers(1, 40))]
            case "splice":
                data[place:place] = draw.draw(st.binary(max_size=20))
            case _:
                data[place:place] = data[place : place + draw.draw(st.integers(0, 40))]
    survives(name, bytes(data))
