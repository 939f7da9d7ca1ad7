"""Golden vectors survive the trip and are refused when they are something else."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_driving.errors import ModelFileError
from convoy_driving.golden import Answers, GoldenVectors, golden_bytes, read_golden
from convoy_protos.release_manifest import Variant

FRAMES = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)


def answers(throttle=0.5):
    return Answers(np.tile(np.float32([0.25, 0.5, 0.25]), (2, 1)), np.full(2, throttle, np.float32))


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_they_come_back_as_they_were():
    golden = GoldenVectors(FRAMES, {Variant.FP32: answers(), Variant.INT8_TRT: answers(0.25)})

    found = read_golden(golden_bytes(golden))

    np.testing.assert_array_equal(found.frames_NHWC, FRAMES)
    assert set(found.answers) == {Variant.FP32, Variant.INT8_TRT}
    assert found.answers[Variant.INT8_TRT].difference(answers(0.25)) == 0.0


def test_the_same_vectors_give_the_same_bytes():
    golden = GoldenVectors(FRAMES, {Variant.FP32: answers()})

    assert golden_bytes(golden) == golden_bytes(golden)


def test_the_difference_is_the_largest_one_and_keeps_nan():
    assert answers(0.5).difference(answers(-0.5)) == 1.0
    assert np.isnan(answers().difference(answers(np.nan)))


GOOD = {
    "frames": FRAMES,
    "fp32.steering": answers().steering_N3,
    "fp32.throttle": answers().throttle_N,
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frames": FRAMES.astype(np.float32)}, "expected uint8 frames"),
        ({"frames": FRAMES[:0]}, "expected uint8 frames"),
        ({"frames": FRAMES[0]}, "expected uint8 frames"),
        ({"frames": np.uint8(3)}, "expected uint8 frames"),
        ({"frames": np.zeros((65, 1, 1, 3), np.uint8)}, "expected uint8 frames"),
        ({"fp32.throttle": np.float32([0.5])}, "fp32: expected finite float32"),
        ({"fp32.throttle": np.float32([0.5, np.nan])}, "fp32: expected finite float32"),
        ({"fp32.steering": np.zeros((2, 3))}, "fp32: expected finite float32"),
        ({"frames": np.array([None])}, "not what a release holds"),  # a pickle
    ],
)
def test_other_arrays_are_refused(changes, words):
    with pytest.raises(ModelFileError, match=words):
        read_golden(npz(**(GOOD | changes)))


def test_half_an_answer_is_refused():
    with pytest.raises(ModelFileError, match="not what a release holds"):
        read_golden(npz(**{name: GOOD[name] for name in ("frames", "fp32.steering")}))


@given(st.binary(max_size=200))
def test_garbage_is_one_named_error(garbage):
    with pytest.raises(ModelFileError):
        read_golden(garbage)


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_an_answer_or_one_named_error(place, bit):
    content = bytearray(golden_bytes(GoldenVectors(FRAMES, {Variant.FP32: answers()})))
    content[place % len(content)] ^= 1 << bit

    with contextlib.suppress(ModelFileError):
        read_golden(bytes(content))
