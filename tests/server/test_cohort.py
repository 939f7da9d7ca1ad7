"""Drawing a cohort: fair, repeatable, from seed and round alone."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_server.cohort import Purpose, draw, draw_poisson, into_shards, invitations

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


def poisson(fleet=FLEET, rate=0.4, seed=1, round_number=1, purpose=Purpose.TRAIN):
    return draw_poisson(fleet, rate, seed=seed, round_number=round_number, purpose=purpose)


def test_the_poisson_draw_of_a_seed_and_round_is_pinned():
    """Another draw would change every recorded run."""
    assert poisson() == ("car1", "car4", "car7", "car8", "car9")


@given(st.permutations(FLEET), st.integers(0, 2**63 - 1), st.integers(1, 1000))
def test_the_order_of_the_fleet_does_not_matter_to_a_poisson_draw(fleet, seed, round_number):
    here = poisson(fleet, seed=seed, round_number=round_number)
    assert here == poisson(seed=seed, round_number=round_number)


@given(st.sets(st.sampled_from(FLEET)), st.integers(1, 1000))
def test_whether_a_vehicle_is_drawn_does_not_depend_on_the_others(others, round_number):
    drawn_alone = poisson(["car3"], round_number=round_number)
    assert ("car3" in poisson({"car3", *others}, round_number=round_number)) == bool(drawn_alone)


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"round_number": 2}, {"purpose": Purpose.EVALUATE}]
)
def test_seed_round_and_purpose_each_change_the_poisson_draw(change):
    assert poisson(**change) != poisson()


def test_a_rate_of_all_draws_all_and_a_rate_of_none_nobody():
    for number in range(100):
        assert poisson(rate=1.0, round_number=number) == tuple(FLEET)
        assert poisson(rate=0.0, round_number=number) == ()


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(ValueError, match="rate"):
        poisson(rate=rate)


def test_poisson_draws_are_fair_and_independent():
    draws = [poisson(round_number=number) for number in range(4000)]
    counts = Counter(name for names in draws for name in names)
    # 4000 rounds at 0.4: 1600 each, standard deviation 31.
    assert min(counts.values()) > 1480
    assert max(counts.values()) < 1720
    # Both of a pair: 640, standard deviation 23.
    assert 550 < sum({"car1", "car2"} <= set(names) for names in draws) < 730
    # The size of a cohort is binomial: variance 10 * 0.4 * 0.6 = 2.4.
    sizes = [len(names) for names in draws]
    mean = sum(sizes) / len(sizes)
    assert 2.1 < sum((size - mean) ** 2 for size in sizes) / len(sizes) < 2.7


def shards_of(fleet, size=3, seed=1, round_number=1):
    return into_shards(fleet, size, seed=seed, round_number=round_number)


@given(st.integers(1, 300), st.integers(2, 128), st.integers(0, 2**63 - 1))
def test_shards_hold_every_vehicle_once_and_are_equal_up_to_one(count, size, seed):
    fleet = {f"car{number:03}" for number in range(count)}

    shards = shards_of(fleet, size, seed)

    sizes = [len(shard) for shard in shards]
    assert sorted(vehicle for shard in shards for vehicle in shard) == sorted(fleet)
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    assert len(shards) == -(-count // size)  # no more of them than it takes
    assert all(list(shard) == sorted(shard) for shard in shards)


def test_the_shards_of_a_seed_and_round_are_pinned():
    """Other shards would change every recorded run."""
    assert shards_of(FLEET, 4) == [
        ("car0", "car5", "car6", "car7"),
        ("car2", "car3", "car4"),
        ("car1", "car8", "car9"),
    ]


@given(st.permutations(FLEET), st.integers(1, 1000))
def test_the_order_in_which_vehicles_answered_does_not_matter_to_shards(fleet, round_number):
    assert shards_of(fleet, round_number=round_number) == shards_of(
        FLEET, round_number=round_number
    )


def test_who_is_with_whom_changes_from_round_to_round():
    pairs = Counter(
        (one, other)
        for number in range(300)
        for shard in shards_of(FLEET, 5, round_number=number)
        for one in shard
        for other in shard
        if one < other
    )
    # Two shards of five: a pair is together in 4 of 9 rounds; 133 of 300, standard deviation 8.6.
    assert len(pairs) == 45
    assert min(pairs.values()) > 95
    assert max(pairs.values()) < 172


@pytest.mark.parametrize("change", [{"seed": 2}, {"round_number": 2}])
def test_another_seed_or_round_mixes_otherwise(change):
    assert shards_of(FLEET, **change) != shards_of(FLEET)


def test_shards_do_not_follow_the_draw_of_the_cohort():
    """Who was drawn first would otherwise always be together."""
    assert shards_of(FLEET, 5)[0] != tuple(sorted(drawn(count=10)[::2]))


def test_of_nobody_there_are_no_shards():
    assert shards_of([]) == []


@pytest.mark.parametrize(
    ("vehicles", "shard_size", "minimum", "sizes"),
    [
        (7, 3, 3, [3, 4]),  # three shards would leave two of two
        (6, 3, 3, [3, 3]),
        (2, 3, 3, [2]),  # too few for any sum; that is for the sum to say
        (100, 50, 30, [50, 50]),
    ],
)
def test_no_shard_is_left_below_the_minimum_where_fewer_would_do(
    vehicles, shard_size, minimum, sizes
):
    names = [f"car{number}" for number in range(vehicles)]
    shards = into_shards(names, shard_size, seed=1, round_number=1, minimum=minimum)
    assert sorted(map(len, shards)) == sizes
    assert sorted(name for shard in shards for name in shard) == sorted(names)
