"""What an agent must not lose survives its death, and a damaged file costs one message at most."""

import stat
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_edge_client.agent.parcels import Parcel, Shelf

PARCEL = Parcel(
    run_id=-3, message=b"m", tree=b"t", objects={"aa": b"1", "bb": b"2" * 70_000}, interruptions=2
)


@pytest.mark.parametrize("durable", [True, False])
def test_what_is_put_comes_back_whole_to_another_process(tmp_path, durable):
    Shelf(tmp_path / "box").put(PARCEL, durable=durable)
    assert Shelf(tmp_path / "box").get() == PARCEL


@pytest.mark.parametrize("durable", [True, False])
def test_only_the_agents_user_reads_it(tmp_path, durable):
    Shelf(tmp_path / "box").put(PARCEL, durable=durable)
    assert stat.S_IMODE((tmp_path / "box").stat().st_mode) == 0o600


def test_an_empty_shelf_holds_nothing(tmp_path):
    shelf = Shelf(tmp_path / "box")
    assert shelf.get() is None
    shelf.put(PARCEL)
    shelf.clear()
    shelf.clear()
    assert shelf.get() is None


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_file_with_a_changed_byte_is_what_it_was_or_an_empty_shelf(tmp_path_factory, at, flip):
    path = tmp_path_factory.mktemp("state") / "box"
    parcel = replace(PARCEL, objects={"aa": b"1", "bb": b"2" * 70})
    Shelf(path).put(parcel, durable=False)
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= flip
    path.write_bytes(content)
    assert Shelf(path).get() in (parcel, None)


@given(st.binary(max_size=200), st.integers(0, 70_000))
def test_a_damaged_file_is_an_empty_shelf(tmp_path_factory, noise, cut):
    path = tmp_path_factory.mktemp("state") / "box"
    Shelf(path).put(PARCEL)
    path.write_bytes(path.read_bytes()[:cut] + noise)
    assert Shelf(path).get() is None
    Shelf(path).put(PARCEL)
    assert Shelf(path).get() == PARCEL
