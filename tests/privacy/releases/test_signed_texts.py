"""A channel's pointer, the policy and the manifest: written, read, and garbage refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_privacy.errors import ReleaseFormatError
from convoy_privacy.releases.layout import MAX_COUNTER
from convoy_privacy.releases.manifest import ListedFile, read_manifest
from convoy_privacy.releases.signed_texts import (
    ChannelPointer,
    ReleasePolicy,
    read_pointer,
    read_policy,
    write_pointer,
    write_policy,
)

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
POINTERS = st.builds(
    ChannelPointer,
    channel=NAMES,
    release=NAMES,
    counter=st.integers(1, MAX_COUNTER),
    percent=st.integers(0, 100),
    salt=st.binary(min_size=16, max_size=16).map(bytes.hex),
    state=st.sampled_from(["rolling", "paused"]),
    tags=st.dictionaries(NAMES, st.lists(NAMES, max_size=3).map(tuple), max_size=3),
    withdrawn=st.lists(NAMES, max_size=3).map(tuple),
)
SHA = "ab" * 32

# The exact bytes that vehicles read.
GOLDEN = b"""{
 "channel": "stable",
 "counter": 7,
 "percent": 5,
 "release": "r0007-5f3a01bc",
 "salt": "000102030405060708090a0b0c0d0e0f",
 "schema": "convoy.channel/1",
 "state": "rolling",
 "tags": {
  "hardware": [
   "jetson-orin"
  ]
 },
 "withdrawn": [
  "r0006-00000000"
 ]
}
"""


def test_a_pointer_has_these_bytes():
    pointer = ChannelPointer(
        channel="stable",
        release="r0007-5f3a01bc",
        counter=7,
        percent=5,
        salt=bytes(range(16)).hex(),
        tags={"hardware": ("jetson-orin",)},
        withdrawn=("r0006-00000000",),
    )
    assert write_pointer(pointer) == GOLDEN
    assert read_pointer(GOLDEN, "stable") == pointer


@given(POINTERS)
def test_a_pointer_survives_its_text(pointer):
    assert read_pointer(write_pointer(pointer), pointer.channel) == pointer


@given(st.integers(1, MAX_COUNTER))
def test_a_policy_survives_its_text(counter):
    policy = ReleasePolicy(minimum_counter=counter)
    assert read_policy(write_policy(policy)) == policy


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": "convoy.channel/2"}, "another schema"),
        ({"channel": "beta"}, "expected the pointer of stable, got that of beta"),
        ({"release": "../r1"}, "is no name"),
        ({"counter": 0}, "counter is in 1"),
        ({"counter": "7"}, "expected int"),
        ({"percent": 101}, "percent must be in 0..100"),
        ({"percent": 5.0}, "expected int"),
        ({"salt": "00"}, "salt must be"),
        ({"state": "open"}, "expected one of rolling, paused"),
        ({"tags": {"a/b": []}}, "is no name"),
        ({"tags": {"a": ["../b"]}}, "is no name"),
        ({"tags": []}, "expected dict"),
        ({"withdrawn": ["x"] * 33}, "at most 32"),
        ({"extra": 1}, "unknown key 'extra'"),
    ],
)
def test_a_pointer_with_one_fault_is_refused_by_name(changes, said):
    text = json.dumps({**json.loads(GOLDEN), **changes}).encode()
    with pytest.raises(ReleaseFormatError, match=said):
        read_pointer(text, "stable")


@pytest.mark.parametrize("name", ["release", "counter", "percent", "salt", "channel", "schema"])
def test_a_pointer_without_a_field_is_refused(name):
    fields = json.loads(GOLDEN)
    del fields[name]
    with pytest.raises(ReleaseFormatError):
        read_pointer(json.dumps(fields).encode(), "stable")


@given(st.binary(max_size=200) | st.just(b"[" * 60_000) | st.just(b" " * 70_000))
def test_any_bytes_are_read_or_refused(data):
    for read in (read_policy, read_manifest, lambda data: read_pointer(data, "stable")):
        with pytest.raises(ReleaseFormatError):
            read(data)


def manifest(**changes):
    fields = {
        "schema": "convoy.release/1",
        "accepted": True,
        "files": {"model.onnx": {"sha256": SHA, "bytes": 5}},
        "whatever": ["else"],
    }
    return json.dumps({**fields, **changes}).encode()


def test_a_manifest_lists_its_files():
    found = read_manifest(manifest())
    assert (found.accepted, found.files) == (True, {"model.onnx": ListedFile(SHA, 5)})
    assert [read_manifest(manifest(counter=counter)).counter for counter in (0, 7)] == [0, 7]


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "convoy.model/1"},
        {"accepted": "yes"},
        {"counter": -1},
        {"counter": False},
        {"counter": "7"},
        {"files": {}},
        {"files": []},
        {"files": {"manifest.json": {"sha256": SHA, "bytes": 5}}},
        {"files": {"../model.onnx": {"sha256": SHA, "bytes": 5}}},
        {"files": {"a/model.onnx": {"sha256": SHA, "bytes": 5}}},
        {"files": {"model.onnx": {"sha256": SHA.upper(), "bytes": 5}}},
        {"files": {"model.onnx": {"sha256": SHA, "bytes": -1}}},
        {"files": {"model.onnx": {"sha256": SHA, "bytes": 1 << 40}}},
        {"files": {"model.onnx": {"sha256": SHA}}},
        {"files": {"model.onnx": None}},
        {"files": {f"f{n}": {"sha256": SHA, "bytes": 5} for n in range(65)}},
    ],
)
def test_a_manifest_with_one_fault_is_refused(changes):
    with pytest.raises(ReleaseFormatError):
        read_manifest(manifest(**changes))
