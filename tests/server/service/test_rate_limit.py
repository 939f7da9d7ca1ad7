"""How often one address may call."""

from hypothesis import given
from hypothesis import strategies as st

from convoy_server.service.rate_limit import RateLimit


def test_a_minutes_calls_may_come_at_once_and_no_more():
    limit = RateLimit(60)
    assert [limit.allows("a", 5.0) for _ in range(61)] == [True] * 60 + [False]
    assert limit.allows("b", 5.0)  # another address has its own
    assert limit.allows("a", 6.0)  # one a second comes back
    assert not limit.allows("a", 6.5)


@given(st.lists(st.floats(0.0, 30.0), min_size=1, max_size=300))
def test_no_minute_has_more_than_twice_the_rate(pauses_s):
    limit, now_s, allowed = RateLimit(10), 0.0, []
    for pause_s in pauses_s:
        now_s += pause_s / 30
        if limit.allows("a", now_s):
            allowed.append(now_s)
    assert all(sum(start <= each < start + 60.0 for each in allowed) <= 20 for start in allowed)


def test_memory_does_not_grow_with_the_number_of_callers():
    limit = RateLimit(1)
    for number in range(10_000):
        limit.allows(str(number), 0.0)
    assert len(limit._buckets) == 4096
