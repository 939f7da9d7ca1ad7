"""How long the supervisor waits before it starts a process again."""

from hypothesis import given
from hypothesis import strategies as st

from convoy_server.service.restart_policy import STABLE_S, RestartPolicy

LONGEST_S = 30.0


def after(*ran_s):
    """A process that has run for so long each time."""
    policy = RestartPolicy()
    for one in ran_s:
        policy = policy.ended(one)
    return policy


def test_nothing_is_waited_for_before_the_first_end():
    assert RestartPolicy().wait_s == 0.0


def test_the_wait_doubles_up_to_half_a_minute():
    waits = [after(*[0.0] * ends).wait_s for ends in range(1, 10)]
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, LONGEST_S]


def test_a_process_that_was_stable_starts_again_quickly():
    assert after(*[0.0] * 20, STABLE_S).wait_s == after(0.0).wait_s


@given(st.lists(st.floats(0.0, 1e9), max_size=200))
def test_the_wait_stays_within_bounds_whatever_happens(ran_s):
    assert 0.0 <= after(*ran_s).wait_s <= LONGEST_S


@given(st.lists(st.floats(0.0, STABLE_S, exclude_max=True), max_size=200))
def test_a_process_that_never_was_stable_waits_no_less_each_time(ran_s):
    assert after(*ran_s, 0.0).wait_s >= after(*ran_s).wait_s
