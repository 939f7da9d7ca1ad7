"""Is the clock right? What the kernel and the server's date say."""

from datetime import UTC, datetime

import pytest

from convoy_edge_client.agent.doctor.clock import clock_finding, look_at_clock, skew_finding
from convoy_protos.findings import Level

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("state", "level"),
    [(0, Level.OK), (1, Level.OK), (5, Level.WARNING)],  # 1: a leap second is on its way
)
def test_the_kernel_says_whether_the_clock_is_kept_in_step(state, level):
    assert clock_finding(state).level is level


def test_the_kernel_of_this_machine_answers():
    assert look_at_clock().subject == "clock"


@pytest.mark.parametrize(
    ("date", "level", "words"),
    [
        ("Tue, 24 Nov 2026 12:00:00 GMT", Level.OK, "agrees"),
        ("Tue, 24 Nov 2026 11:59:50 GMT", Level.OK, "agrees"),
        ("Tue, 24 Nov 2026 11:59:49 GMT", Level.WARNING, "11 s ahead"),
        ("Tue, 24 Nov 2026 12:01:00 GMT", Level.WARNING, "60 s behind"),
        ("Tue, 24 Nov 2026 14:00:00 GMT", Level.PROBLEM, "7200 s behind: the server refuses"),
        ("yesterday", Level.WARNING, "a date that is none"),
        ("Tue, 24 Nov 2026 12:00:00 -0000", Level.WARNING, "without a time zone"),
    ],
)
def test_the_clock_is_compared_with_the_servers(date, level, words):
    (finding,) = skew_finding(date, NOW)
    assert finding.level is level
    assert words in finding.message


def test_without_a_date_nothing_is_said():
    assert skew_finding(None, NOW) == []
