"""Polling, backing off and cutting into pieces: the schedules that the owner's data plan pays for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_edge_client.agent.link_pace import (
    SMALLEST_CHUNK_BYTES,
    BackOff,
    Throughput,
    poll_pause_s,
)

chances = st.floats(0.0, 1.0, exclude_max=True)
MIB = 1 << 20


@pytest.mark.parametrize(
    ("idle_s", "low_s", "high_s"),
    [
        (0.0, 0.05, 0.11),  # a run is under way
        (4.9, 0.05, 0.11),
        (59.0, 0.18, 0.32),  # a round may take its time
        (160.0, 7.0, 13.0),  # a tenth of the time beyond the first minute
        (1e6, 22.0, 38.0),  # never seldomer than asked, but for jitter
    ],
)
def test_the_longer_nothing_came_the_seldomer_the_agent_asks(idle_s, low_s, high_s):
    assert low_s < poll_pause_s(idle_s, 30.0, 0.0) <= poll_pause_s(idle_s, 30.0, 0.99) < high_s


def test_an_idle_agent_asks_a_few_times_a_minute():
    """A question over TLS that is open takes about 1.5 kB; 50 kB a minute is the limit."""
    assert 60.0 / poll_pause_s(3600.0, 30.0, 0.0) < 3.0


@given(chances, chances)
def test_two_agents_are_not_in_step(one, other):
    pauses = [poll_pause_s(3600.0, 30.0, chance) for chance in (one, other)]
    assert (pauses[0] == pauses[1]) == (abs(one - other) < 1e-12)


def test_the_first_call_is_made_at_once():
    assert BackOff().wait_s(0.5) == 0.0


@given(st.integers(1, 10_000), chances)
def test_a_link_that_stays_down_is_tried_for_ever_and_about_once_a_minute(failures, chance):
    wait_s = BackOff(failures).wait_s(chance)
    assert 0.3 < wait_s <= 75.0
    assert wait_s > 40.0 or failures < 9


def test_the_wait_doubles():
    assert [BackOff(count).wait_s(0.5) for count in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("bytes_per_s", "chunk"),
    [
        (0.0, 1 << 18),  # not known yet: careful
        (125_000.0, 1 << 18),  # 1 Mbit/s: about two seconds
        (1_000.0, SMALLEST_CHUNK_BYTES),
        (1e9, 5 * MIB),
    ],
)
def test_a_piece_takes_a_few_seconds(bytes_per_s, chunk):
    assert Throughput(bytes_per_s).chunk_bytes(5 * MIB) == chunk


@given(st.floats(0.0, 1e12), st.integers(SMALLEST_CHUNK_BYTES, 5 * MIB))
def test_a_piece_is_never_larger_than_its_owner_says(bytes_per_s, largest):
    chunk = Throughput(bytes_per_s).chunk_bytes(largest)
    assert SMALLEST_CHUNK_BYTES <= chunk <= largest


def test_the_throughput_follows_the_link_and_small_objects_say_nothing():
    fast = Throughput().measured(MIB, 1.0)
    assert fast == Throughput(float(MIB))
    assert fast.measured(100, 10.0) == fast
    assert fast.measured(MIB, 0.0) == fast
    slow = fast
    for _ in range(10):
        slow = slow.measured(MIB, 100.0)
    assert slow.bytes_per_s < 0.02 * MIB
