"""Totals over rounds.jsonl, each line read once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_rounds import line

from convoy_server.service.round_counts import RunCounts


def totals(counts):
    return (
        dict(counts.outcomes),
        dict(counts.rejections),
        counts.wall_s,
        counts.uplink_bytes,
        counts.downlink_bytes,
        counts.lost,
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rounds.jsonl"


def test_new_lines_are_added_and_half_a_line_waits(path):
    counts = RunCounts()
    counts.read_on(path)  # before the first round there is no file
    text = line(2, "abandoned")
    path.write_text(line(1) + "\n" + text[:40])
    counts.read_on(path)
    assert counts.outcomes == {"done": 1}
    with path.open("a") as file:
        file.write(text[40:] + "\n")
    counts.read_on(path)
    counts.read_on(path)
    assert totals(counts) == (
        {"done": 1, "abandoned": 1},
        {"not_finite": 2, "malformed": 2},
        4.0,
        200,
        20,
        2,
    )


def test_a_file_that_a_resumed_run_wrote_anew_is_counted_once(path):
    counts = RunCounts()
    path.write_text(line(1) + "\n" + line(2) + "\n")
    counts.read_on(path)
    mended = path.with_name("new")
    mended.write_text(line(1) + "\n" + line(2) + "\n" + line(3) + "\n")
    mended.replace(path)
    counts.read_on(path)
    assert counts.outcomes == {"done": 3}


def test_a_file_that_was_cut_is_counted_from_its_start(path):
    counts = RunCounts()
    path.write_text(line(1) + "\n" + line(2) + "\n")
    counts.read_on(path)
    path.write_text(line(1) + "\n")
    counts.read_on(path)
    assert counts.outcomes == {"done": 1}


@given(st.lists(st.booleans(), max_size=12), st.lists(st.integers(0, 1 << 13), max_size=6))
def test_however_often_somebody_asks_the_totals_are_the_same(tmp_path_factory, good, cuts):
    path = tmp_path_factory.mktemp("run") / "rounds.jsonl"
    data = b"".join(line(n).encode() + b"\n" if well else b"{}\n" for n, well in enumerate(good))
    often = RunCounts()
    with path.open("wb") as file:
        begin = 0
        for cut in sorted(cuts):
            file.write(data[begin:cut])
            file.flush()
            begin = max(begin, min(cut, len(data)))
            often.read_on(path)
        file.write(data[begin:])
    often.read_on(path)
    once = RunCounts()
    once.read_on(path)
    assert totals(often) == totals(once)
    assert often.unreadable == good.count(False)
    assert once.outcomes.total() == good.count(True)
