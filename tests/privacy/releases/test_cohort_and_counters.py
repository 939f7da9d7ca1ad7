"""Who is among the first, and which counters a vehicle accepts."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_privacy.errors import ReleaseCounterError
from convoy_privacy.releases.cohort import PLACES, VehicleProfile, in_rollout, place
from convoy_privacy.releases.counters import MAX_COUNTER_STEP, check_counter
from convoy_privacy.releases.signed_texts import ChannelPointer

SALT = bytes(range(16)).hex()
POINTER = ChannelPointer(channel="stable", release="r1", counter=1, percent=5, salt=SALT)
PERCENT = st.integers(0, 100)


def at(percent, **changes):
    return dataclasses.replace(POINTER, percent=percent, **changes)


def test_places_are_these_for_ever():
    # A change would move vehicles in and out of rollouts that are under way.
    assert [place(name, SALT) for name in ("car-1", "car-2", "träger")] == [9592, 9664, 4549]


@given(st.text(max_size=20), PERCENT, PERCENT)
def test_whoever_is_in_stays_in_when_the_percentage_grows(name, one, other):
    profile = VehicleProfile(vehicle=name)
    few, many = sorted((one, other))
    assert in_rollout(at(many), profile) or not in_rollout(at(few), profile)


@given(st.text(max_size=20))
def test_all_are_in_at_100_and_only_canaries_at_0(name):
    assert in_rollout(at(100), VehicleProfile(vehicle=name))
    assert not in_rollout(at(0), VehicleProfile(vehicle=name))
    assert in_rollout(at(0), VehicleProfile(vehicle=name, canary=True))


@pytest.mark.parametrize("percent", [1, 5, 25])
def test_about_that_many_vehicles_are_in(percent):
    names = [f"car-{number}" for number in range(20_000)]
    share = sum(place(name, SALT) < percent * PLACES // 100 for name in names) / len(names)
    # Four standard deviations of a fair draw.
    assert abs(share - percent / 100) < 4 * (percent / 100 / len(names)) ** 0.5


def test_another_salt_puts_others_first():
    names = [f"car-{number}" for number in range(1000)]
    first = {name for name in names if place(name, SALT) < 500}
    others = {name for name in names if place(name, "ff" * 16) < 500}
    assert len(first & others) < 20


@pytest.mark.parametrize(
    ("tags", "inside"),
    [
        ({}, True),  # no filter
        ({"hardware": ("orin",)}, True),
        ({"hardware": ("x86", "orin")}, True),
        ({"hardware": ("x86",)}, False),
        ({"hardware": ("orin",), "region": ("eu",)}, True),
        ({"hardware": ("orin",), "region": ("us",)}, False),  # every tag must fit
        ({"camera": ("wide",)}, False),  # the vehicle has no such tag
        ({"hardware": ()}, False),  # nobody
    ],
)
@pytest.mark.parametrize("canary", [False, True])
def test_tags_filter_also_canaries(tags, inside, canary):
    profile = VehicleProfile(
        vehicle="car-1", canary=canary, tags={"hardware": "orin", "region": "eu"}
    )
    assert in_rollout(at(100, tags=tags), profile) is inside


@pytest.mark.parametrize(
    ("counter", "minimum", "floor", "fine"),
    [
        (1, 1, 0, True),  # the first of all
        (5, 1, 5, True),  # the committed one again, after its file was lost
        (4, 1, 5, False),  # older than what was driven
        (4, 5, 0, False),  # a new vehicle too
        (5, 5, 0, True),
        (5 + MAX_COUNTER_STEP, 1, 5, True),
        (6 + MAX_COUNTER_STEP, 1, 5, False),  # no number may be used up by one release
        (6 + MAX_COUNTER_STEP, 6, 5, True),  # from the minimum on, too
    ],
)
def test_a_counter_is_taken_or_refused(counter, minimum, floor, fine):
    if fine:
        check_counter(counter, minimum=minimum, floor=floor)
    else:
        with pytest.raises(ReleaseCounterError):
            check_counter(counter, minimum=minimum, floor=floor)


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(1, 50))
def test_the_floor_never_falls_whatever_is_offered(offers, minimum):
    floor, floors = 0, []
    for counter in offers:
        try:
            check_counter(counter, minimum=minimum, floor=floor)
        except ReleaseCounterError:
            continue
        floor = counter
        floors.append(floor)
    assert floors == sorted(floors)
    assert all(one >= minimum for one in floors)
