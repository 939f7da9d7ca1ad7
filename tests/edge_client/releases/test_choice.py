"""What a vehicle does about its channel's pointer."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_edge_client.releases.choice import Held, ReleaseRef, choose
from convoy_privacy.releases.cohort import VehicleProfile
from convoy_privacy.releases.signed_texts import ChannelPointer, ReleasePolicy

POINTER = ChannelPointer(channel="stable", release="r5", counter=5, percent=100, salt="00" * 16)
CAR = VehicleProfile(vehicle="car-1")
POLICY = ReleasePolicy()
R3, R4, R5, R6 = (ReleaseRef(f"r{counter}", counter) for counter in (3, 4, 5, 6))


def verdict(held=None, policy=POLICY, profile=CAR, **changes):
    return choose(dataclasses.replace(POINTER, **changes), policy, profile, held or Held())


@pytest.mark.parametrize(
    ("held", "changes", "why"),
    [
        (Held(), {}, ""),
        (Held(committed=R4, floor=4), {}, ""),
        (Held(committed=R4, candidate=R6, floor=4), {}, ""),  # what is tried gives way
        (Held(committed=R5, floor=5), {}, "r5 is driven already"),
        (Held(candidate=R5), {}, "r5 is being tried already"),
        (Held(quarantined=frozenset({"r5"})), {}, "r5 failed on this vehicle"),
        (Held(), {"withdrawn": ("r5",)}, "r5 was withdrawn"),
        (Held(), {"state": "paused"}, "the rollout of r5 is paused"),
        (Held(), {"percent": 0}, "r5 is for 0 % so far, and this vehicle is not among them"),
        (Held(), {"tags": {"hardware": ("orin",)}}, "r5 is for other vehicles"),
        (Held(committed=R4, floor=6), {}, "stable points at r5, but counter 5 is below 6"),
    ],
)
def test_a_vehicle_installs_unless_there_is_a_reason(held, changes, why):
    found = verdict(held, **changes)
    assert found.why.startswith(why)
    assert found.install is (why == "")


def test_nothing_is_installed_while_nothing_is_released():
    found = choose(None, POLICY, CAR, Held(committed=R4, candidate=R5, floor=4))
    assert (found.install, found.keep_committed, found.keep_candidate) == (False, True, True)


def test_a_percentage_that_goes_down_expels_nobody():
    for held in (Held(committed=R5, floor=5), Held(candidate=R5)):
        found = verdict(held, percent=0)
        assert (found.keep_committed, found.keep_candidate, found.advance) == (True, True, True)


def test_a_pause_holds_a_candidate_where_it_is():
    found = verdict(Held(candidate=R5), state="paused")
    assert (found.keep_candidate, found.advance) == (True, False)
    assert verdict(Held(candidate=R4), state="paused").advance  # another release's pause


def test_withdrawn_while_in_trial_goes_back_and_committed_stays():
    found = verdict(Held(committed=R4, candidate=R5, floor=4), withdrawn=("r5",))
    assert (found.keep_committed, found.keep_candidate) == (True, False)
    assert verdict(Held(committed=R5, floor=5), withdrawn=("r5",)).keep_committed


def test_withdrawn_is_known_also_when_the_channel_has_gone_on():
    assert not verdict(Held(candidate=R4), withdrawn=("r4",)).keep_candidate


def test_below_the_minimum_nothing_is_kept():
    found = verdict(Held(committed=R3, candidate=R4, floor=3), ReleasePolicy(minimum_counter=5))
    assert (found.install, found.keep_committed, found.keep_candidate) == (True, False, False)


refs = st.none() | st.integers(1, 9).map(lambda counter: ReleaseRef(f"r{counter}", counter))
pointers = st.builds(
    ChannelPointer,
    channel=st.just("stable"),
    release=st.integers(1, 9).map(lambda counter: f"r{counter}"),
    counter=st.just(1),
    percent=st.integers(0, 100),
    salt=st.just("00" * 16),
    state=st.sampled_from(["rolling", "paused"]),
    withdrawn=st.lists(st.sampled_from(["r1", "r5", "r9"]), max_size=3).map(tuple),
).map(lambda pointer: dataclasses.replace(pointer, counter=int(pointer.release[1:])))
helds = st.builds(
    Held,
    committed=refs,
    candidate=refs,
    floor=st.integers(0, 9),
    quarantined=st.frozensets(st.sampled_from(["r2", "r5"])),
)


@given(pointers, helds, st.integers(1, 9), st.booleans())
def test_whatever_the_pointer_says_the_rules_hold(pointer, held, minimum, canary):
    policy = ReleasePolicy(minimum_counter=minimum)
    found = choose(pointer, policy, VehicleProfile(vehicle="car-1", canary=canary), held)
    if found.install:
        assert pointer.counter >= max(minimum, held.floor)
        assert pointer.state == "rolling"
        assert pointer.release not in {*pointer.withdrawn, *held.quarantined}
    if held.committed is not None:
        # The online key alone never takes the committed release away.
        assert found.keep_committed is (held.committed.counter >= minimum)
    assert found.install is (found.why == "")
    assert not (found.install and found.refused)
