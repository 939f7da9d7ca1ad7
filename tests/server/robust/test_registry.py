"""Combining a round's items by name: what attackers can do, and what the order of arrival cannot."""

import typing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from convoy_server.robust.registry import RobustConfig, Rule, combine, min_items

RULES = typing.get_args(Rule)
VEHICLES, SIZE = 100, 400


def honest_updates():
    """Updates that agree in direction about as much as real ones: mean square norm / square of the mean = 3."""
    rng = np.random.default_rng(0)
    common_N = rng.standard_normal(SIZE)
    return (common_N + np.sqrt(2.0) * rng.standard_normal((VEHICLES, SIZE))).astype(np.float32)


def attacked_groups(attackers, group_size):
    """The means of groups, and the honest mean; attackers send -5 x the sum of all, each in a group of its own."""
    updates_KN = honest_updates()
    places = [
        (index * group_size) % VEHICLES + index * group_size // VEHICLES
        for index in range(attackers)
    ]
    honest_N = np.delete(updates_KN, places, axis=0).mean(0)
    updates_KN[places] = -5.0 * VEHICLES * honest_N
    return list(updates_KN.reshape(-1, group_size, SIZE).mean(1)), honest_N


def error(config, attackers, group_size):
    """Squared error of the result over the square of the honest mean."""
    groups_KN, honest_N = attacked_groups(attackers, group_size)
    result_N = combine(groups_KN, [float(group_size)] * len(groups_KN), config).mean_N
    return float(np.sum((result_N - honest_N) ** 2) / np.sum(honest_N**2))


@pytest.mark.parametrize(
    ("attackers", "group_size", "largest"),
    [
        (0, 1, 0.01),  # the price without an attack
        (0, 10, 0.005),
        (2, 1, 0.05),  # sealed mode: single vehicles
        (5, 1, 0.05),
        (10, 1, 0.1),
        (2, 5, 0.02),  # 2 of 20 shards
        (5, 5, 0.1),
        (9, 5, 0.8),  # 9 of 20: still fewer than half
        (2, 10, 0.05),  # 2 of 10 shards
        (4, 10, 0.5),
    ],
)
def test_the_geometric_median_holds_while_attackers_touch_fewer_than_half_of_the_groups(
    attackers, group_size, largest
):
    config = RobustConfig(rule="geometric_median")
    assert error(config, attackers, group_size) < largest
    if attackers:
        assert error(RobustConfig(), attackers, group_size) > 50.0  # what the plain mean becomes


@pytest.mark.parametrize(("attackers", "group_size"), [(6, 10), (11, 5)])
def test_nothing_helps_once_attackers_touch_more_than_half_of_the_groups(attackers, group_size):
    assert error(RobustConfig(rule="geometric_median"), attackers, group_size) > 50.0


@pytest.mark.parametrize(
    "config",
    [
        RobustConfig(rule="coordinate_median"),
        RobustConfig(rule="trimmed_mean", suspects=4),
        RobustConfig(rule="krum", suspects=3),
        RobustConfig(rule="multi_krum", suspects=3),
        RobustConfig(rule="geometric_median", bound_norms=True),
    ],
    ids=lambda config: config.rule,
)
@pytest.mark.parametrize("attackers", [0, 1, 3])
def test_every_rule_withstands_as_many_as_it_says(config, attackers):
    assert error(config, attackers, 10) < 0.5


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=15)
@given(order=st.permutations(range(7)), bounded=st.booleans())
def test_the_order_of_arrival_does_not_change_a_byte(rule, order, bounded):
    rng = np.random.default_rng(5)
    updates_KN = list(rng.standard_normal((7, 50)).astype(np.float32))
    updates_KN[3] = updates_KN[2].copy()  # the same bytes twice, with other weights
    weights_K = [1.0, 3.0, 2.0, 9.0, 0.1, 0.3, 0.7]
    config = RobustConfig(rule=rule, suspects=2, bound_norms=bounded)
    here = combine(updates_KN, weights_K, config)
    there = combine([updates_KN[i] for i in order], [weights_K[i] for i in order], config)
    assert here.mean_N.tobytes() == there.mean_N.tobytes()
    if here.shares_K is not None and rule != "krum":
        assert there.shares_K == tuple(here.shares_K[i] for i in order)


@pytest.mark.parametrize("rule", RULES)
def test_items_are_left_as_they_were(rule):
    updates_KN = [np.full(4, value, np.float32) for value in range(7)]
    for update_N in updates_KN:
        update_N.flags.writeable = False  # as a view of the bytes that travelled
    result = combine(updates_KN, [1.0] * 7, RobustConfig(rule=rule, suspects=1, bound_norms=True))
    assert result.mean_N.dtype == np.float32
    assert not any(np.shares_memory(result.mean_N, update_N) for update_N in updates_KN)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=40)
@given(
    updates_KN=arrays(
        np.float32, (7, 3), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
    ),
    bounded=st.booleans(),
)
def test_whatever_is_finite_gives_something_finite_between_the_items(rule, updates_KN, bounded):
    config = RobustConfig(rule=rule, suspects=1, bound_norms=bounded)
    result_N = combine(list(updates_KN), [1.0, 2.0, 1.0, 1.0, 3.0, 1.0, 1e6], config).mean_N
    assert np.isfinite(result_N).all()
    # Items that were scaled down lie between themselves and zero.
    low_N = np.minimum(updates_KN.min(0), 0.0 if bounded else np.inf).astype(float)
    high_N = np.maximum(updates_KN.max(0), 0.0 if bounded else -np.inf).astype(float)
    slack_N = 1e-6 * np.maximum(np.abs(low_N), np.abs(high_N)) + 1e-44
    assert (low_N - slack_N <= result_N).all()
    assert (result_N <= high_N + slack_N).all()


def test_the_mean_weighs_items_and_says_so():
    updates_KN = [np.array([0.0, 4.0], np.float32), np.array([4.0, 0.0], np.float32)]
    result = combine(updates_KN, [3.0, 1.0], RobustConfig())
    np.testing.assert_array_equal(result.mean_N, [1.0, 3.0])
    assert result.shares_K == (0.75, 0.25)
    assert result.left_out == ()


def test_multi_krum_names_whom_it_left_out():
    updates_KN = [np.full(3, value, np.float32) for value in (1.0, 50.0, 1.1, 0.9, 1.05, -9.0, 1.0)]
    result = combine(updates_KN, [1.0] * 7, RobustConfig(rule="multi_krum", suspects=2))
    assert {1, 5} <= set(result.left_out)
    assert len(result.left_out) == 4
    np.testing.assert_allclose(result.mean_N, 1.0, atol=0.1)


def test_krum_gives_one_item_as_it_was():
    updates_KN = [np.full(3, value, np.float32) for value in (1.0, 50.0, 1.1, 0.9, 1.3)]
    result = combine(updates_KN, [1.0] * 5, RobustConfig(rule="krum", suspects=1))
    np.testing.assert_array_equal(result.mean_N, updates_KN[result.shares_K.index(1.0)])


@pytest.mark.parametrize("rule", RULES)
def test_fewer_items_than_the_rule_needs_are_refused(rule):
    config = RobustConfig(rule=rule, suspects=2)
    needed = min_items(config)
    combine([np.ones(2, np.float32)] * needed, [1.0] * needed, config)
    with pytest.raises(ValueError, match=f"at least {needed} items"):
        combine([np.ones(2, np.float32)] * (needed - 1), [1.0] * (needed - 1), config)


def test_fewer_than_no_suspects_are_refused_in_the_settings():
    with pytest.raises(ValueError, match="suspects must not be negative"):
        RobustConfig(suspects=-1)
