"""Drawing a cohort: fair, repeatable, from seed and round alone."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_server.cohort import Purpose, draw, invitations

FLEET = [f"car{index}" for index in range(10)]


def drawn(fleet=FLEET, count=4, seed=1, round_number=1, purpose=Purpose.TRAIN):
    return draw(fleet, count, seed=seed, round_number=round_number, purpose=purpose)


def test_the_draw_of_a_seed_and_round_is_pinned():
    """Another draw would change every recorded run."""
    assert drawn() == ("car7", "car2", "car4", "car6")


@given(st.permutations(FLEET), st.integers(0, 2**63 - 1), st.integers(1, 1000))
def test_the_order_in_which_vehicles_are_known_does_not_matter(fleet, seed, round_number):
    here = drawn(fleet, seed=seed, round_number=round_number)
    assert here == drawn(seed=seed, round_number=round_number)
    assert len(set(here)) == 4


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"round_number": 2}, {"purpose": Purpose.EVALUATE}]
)
def test_seed_round_and_purpose_each_change_the_draw(change):
    assert drawn(**change) != drawn()


def test_a_fleet_smaller_than_the_count_is_drawn_whole():
    assert sorted(drawn(count=99)) == FLEET
    assert drawn(fleet=[]) == ()


def test_every_vehicle_has_the_same_chance():
    counts = Counter(name for number in range(2000) for name in drawn(round_number=number))
    # 2000 rounds, 4 of 10: 800 each, standard deviation 22.
    assert min(counts.values()) > 700
    assert max(counts.values()) < 900


@pytest.mark.parametrize(
    ("wanted", "over_selection", "fleet_size", "count"),
    [
        (10, 1.0, 100, 10),
        (10, 1.1, 100, 11),  # 11.000000000000002 in binary
        (10, 1.25, 100, 13),
        (10, 1.25, 12, 12),
        (0, 1.5, 0, 0),
    ],
)
def test_over_selection_rounds_up_and_stays_in_the_fleet(wanted, over_selection, fleet_size, count):
    assert invitations(wanted, over_selection, fleet_size) == count
