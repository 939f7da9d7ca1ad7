"""A vehicle reads manifest.json as something that anybody could have written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_protos.errors import MalformedMessageError
from convoy_protos.release_manifest import FileFacts, Variant, read_manifest

GOOD = {
    "schema": "convoy.release/1",
    "release_id": "spring-7",
    "counter": 7,
    "accepted": True,
    "input": {"height": 60, "width": 80, "name": "frames"},
    "files": {
        "model.fp32.onnx": {"sha256": "0" * 64, "bytes": 400},
        "model.int8.onnx": {"sha256": "a" * 64, "bytes": 100},
        "card.json": {"anything": "else"},
    },
    "gates": [],
}


def content(**changes):
    return json.dumps(GOOD | changes).encode()


def test_what_a_vehicle_goes_by():
    manifest = read_manifest(content())

    assert (manifest.release_id, manifest.counter, manifest.accepted) == ("spring-7", 7, True)
    assert (manifest.frame_height, manifest.frame_width) == (60, 80)
    assert manifest.variants == (Variant.FP32, Variant.INT8_CPU)
    assert manifest.files == {
        "model.fp32.onnx": FileFacts(sha256="0" * 64, size_bytes=400),
        "model.int8.onnx": FileFacts(sha256="a" * 64, size_bytes=100),
    }


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"schema": "convoy.release/2"}, "schema"),
        ({"release_id": ""}, "release_id"),
        ({"release_id": "two\nlines"}, "release_id"),
        ({"release_id": "x" * 201}, "release_id"),
        ({"counter": -1}, "counter"),
        ({"counter": True}, "counter"),  # in Python a bool is an int
        ({"counter": 1.0}, "counter"),
        ({"accepted": "yes"}, "accepted"),
        ({"input": []}, "input"),
        ({"input": {"height": 0, "width": 80}}, "height"),
        ({"input": {"height": 60, "width": 10**9}}, "width"),
        ({"files": {"model.int8.onnx": {"sha256": "A" * 64, "bytes": 1}}}, "sha256 of model.int8"),
        ({"files": {"model.int8.onnx": {"sha256": "a" * 63, "bytes": 1}}}, "sha256 of model.int8"),
        ({"files": {"model.int8.onnx": {"sha256": "a" * 64, "bytes": -1}}}, "bytes"),
        ({"files": {"model.int8.onnx": None}}, "sha256"),
    ],
)
def test_a_wrong_field_is_named(changes, named):
    with pytest.raises(MalformedMessageError, match=f"manifest.json: {named}"):
        read_manifest(content(**changes))


def test_an_endless_manifest_is_refused_by_its_size():
    with pytest.raises(MalformedMessageError, match="at most 1000000 bytes"):
        read_manifest(b" " * 1_000_001)


@given(st.binary(max_size=200))
def test_garbage_is_one_named_error(garbage):
    with pytest.raises(MalformedMessageError):
        read_manifest(garbage)


def test_nesting_without_end_is_refused():
    with pytest.raises(MalformedMessageError, match="not JSON"):
        read_manifest(b"[" * 100_000)
