"""Windows of work: what is inside, and how long until one opens."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_edge_client.agent.work_windows import (
    MINUTES_A_DAY,
    parse_window,
    seconds_to_opening,
)


def at(text):
    return datetime.fromisoformat(f"2026-11-24T{text}").astimezone()


@pytest.mark.parametrize(
    ("window", "time", "inside"),
    [
        ("08:00-17:30", "08:00", True),  # the start belongs to it
        ("08:00-17:30", "17:29", True),
        ("08:00-17:30", "17:30", False),  # the end does not
        ("08:00-17:30", "07:59", False),
        ("22:00-06:00", "23:00", True),
        ("22:00-06:00", "00:00", True),  # past midnight
        ("22:00-06:00", "05:59", True),
        ("22:00-06:00", "12:00", False),
        ("00:00-00:00", "13:13", True),  # the whole day
        ("07:00-07:00", "06:59", True),
    ],
)
def test_a_time_is_inside_or_not(window, time, inside):
    hour, minute = map(int, time.split(":"))
    assert parse_window(window).contains(60 * hour + minute) is inside


@pytest.mark.parametrize("text", ["", "22:00", "22:00-24:00", "22:60-06:00", "2:00-06:00", "a-b"])
def test_what_is_no_window_is_refused(text):
    with pytest.raises(ValueError, match="22:00-06:00"):
        parse_window(text)


def test_without_windows_it_is_always_open():
    assert seconds_to_opening([], at("12:00:00")) == 0


def test_the_nearest_opening_counts():
    windows = [parse_window("22:00-06:00"), parse_window("13:00-14:00")]
    assert seconds_to_opening(windows, at("12:00:30")) == 3570
    assert seconds_to_opening(windows, at("13:30:00")) == 0
    assert seconds_to_opening(windows, at("21:00:00")) == 3600


@given(
    st.integers(0, MINUTES_A_DAY - 1),
    st.integers(0, MINUTES_A_DAY - 1),
    st.integers(0, 86399),
)
def test_after_the_wait_the_window_is_open(start, end, second):
    text = f"{start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"
    window = parse_window(text)
    now = datetime(2026, 1, 1) + timedelta(seconds=second)  # noqa: DTZ001 - no zone, no jumps

    wait_s = seconds_to_opening([window], now)
    opened = now + timedelta(seconds=wait_s)

    assert window.contains(60 * opened.hour + opened.minute)
    if wait_s > 1:
        before = now + timedelta(seconds=wait_s - 1)
        assert not window.contains(60 * before.hour + before.minute)
