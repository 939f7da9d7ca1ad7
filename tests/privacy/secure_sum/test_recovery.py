"""Secrets come back despite wrong shares, and who sent these is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_sum import fixed_random

from convoy_privacy.secret_sharing import split
from convoy_privacy.secure_sum.recovery import Wanted, recover


def wanted(owner, holders, threshold, lies=()):
    """A secret whose holders in `lies` send something else."""
    secret = bytes([owner]) * 32
    slots = range(1, holders + 1)
    shares = dict(
        zip(slots, split(secret, threshold, slots, fixed_random(str(owner))), strict=True)
    )
    for liar in lies:
        shares[liar] = fixed_random(f"lie {liar} {owner}")(32).rjust(33, b"\0")
    return Wanted(shares, secret.__eq__)


@given(st.data(), st.integers(2, 10))
def test_up_to_all_spare_shares_of_a_small_shard_may_be_wrong(data, holders):
    threshold = data.draw(st.integers(1, holders))
    owners = range(1, 4)
    liars = data.draw(st.sets(st.integers(1, holders), max_size=holders - threshold))
    result = recover({o: wanted(o, holders, threshold, liars) for o in owners}, threshold)
    assert result.secrets == {owner: bytes([owner]) * 32 for owner in owners}
    assert result.liars <= liars
    assert not result.hopeless


def test_in_a_large_shard_half_of_the_spare_shares_may_be_wrong():
    liars = set(range(1, 7))
    result = recover({o: wanted(o, 80, 67, liars) for o in range(1, 11)}, 67)
    assert (len(result.secrets), result.liars, result.hopeless) == (10, liars, set())


@pytest.mark.slow
def test_in_a_large_shard_more_wrong_shares_end_in_time():
    result = recover({o: wanted(o, 80, 67, range(1, 11)) for o in range(1, 3)}, 67)
    assert result.hopeless == {1, 2}


def test_a_liar_found_elsewhere_is_left_out():
    """Owner 1 alone is hopeless: two lies, three to spare, too many to decode and too many to try."""
    holders, threshold = 40, 37
    both = wanted(2, holders, threshold, [1])
    alone = wanted(3, holders, threshold, [2])
    hard = wanted(1, holders, threshold, [1, 2])
    result = recover({1: hard, 2: both, 3: alone}, threshold)
    assert result.secrets.keys() == {1, 2, 3}
    assert result.liars == {1, 2}


def test_an_owner_that_dealt_nonsense_is_hopeless_and_the_others_are_not():
    nonsense = Wanted(
        {slot: bytes([slot]).rjust(33, b"\0") for slot in range(1, 6)}, bytes(1).__eq__
    )
    result = recover({1: nonsense, 2: wanted(2, 5, 4)}, 4)
    assert (result.hopeless, result.secrets.keys(), result.liars) == ({1}, {2}, set())
