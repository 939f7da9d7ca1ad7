"""Every rule against its definition written out slowly, and against attackers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from convoy_server.robust import items
from convoy_server.robust.coordinate_median import coordinate_median
from convoy_server.robust.geometric_median import geometric_median, median_shares
from convoy_server.robust.krum import krum, multi_krum
from convoy_server.robust.norm_bound import bound_norms
from convoy_server.robust.trimmed_mean import trimmed_mean


def sum_of_distances(point_N, updates_KN, weights_K):
    return sum(
        weight * math.dist(point_N.astype(float), update_N.astype(float))
        for weight, update_N in zip(weights_K, updates_KN, strict=True)
    )


def slow_weighted_median(values, weights):
    """One coordinate, by walking up the sorted values."""
    total, below = sum(weights), 0.0
    ranked = sorted(zip(values, weights, strict=True))
    for index, (value, weight) in enumerate(ranked):
        below += weight
        if below == total / 2:
            return (value + ranked[index + 1][0]) / 2
        if below > total / 2:
            return value
    raise AssertionError


def slow_krum_order(updates_KN, suspects):
    scores = []
    for i, here in enumerate(updates_KN):
        others = [
            float(np.sum((here.astype(float) - there.astype(float)) ** 2))
            for j, there in enumerate(updates_KN)
            if j != i
        ]
        scores.append(sum(sorted(others)[: len(updates_KN) - suspects - 2]))
    return sorted(range(len(scores)), key=lambda i: (scores[i], i))


# Whole numbers: the slow versions may then compare floats for equality.
some_items = st.integers(3, 9).flatmap(
    lambda count: st.tuples(
        arrays(np.float32, (count, 5), elements=st.integers(-50, 50).map(np.float32)),
        st.lists(st.integers(1, 9).map(float), min_size=count, max_size=count),
    )
)


@given(some_items, st.integers(0, 2**32 - 1))
def test_no_point_nearby_has_a_smaller_sum_of_distances_than_the_geometric_median(case, seed):
    updates_KN, weights_K = case
    median_N = geometric_median(list(updates_KN), weights_K)
    best = sum_of_distances(median_N, updates_KN, weights_K)
    rng = np.random.default_rng(seed)
    for size in (1e-3, 1e-1, 10.0):
        moved_N = median_N + size * rng.standard_normal(5)
        assert best <= sum_of_distances(moved_N, updates_KN, weights_K) * (1 + 1e-4) + 1e-9
    for update_N in updates_KN:
        assert best <= sum_of_distances(update_N, updates_KN, weights_K) * (1 + 1e-4) + 1e-9


def test_the_geometric_median_is_that_of_the_papers_iteration_on_whole_vectors():
    rng = np.random.default_rng(3)
    updates_KN = list(rng.standard_normal((7, 40)).astype(np.float32))
    weights_K = [1.0, 2.0, 3.0, 1.0, 5.0, 2.0, 1.0]
    point_N = np.mean(updates_KN, axis=0, dtype=np.float64)
    for _ in range(2000):
        beta_K = np.array(weights_K) / [
            max(1e-6, math.dist(point_N, update_N)) for update_N in updates_KN
        ]
        point_N = beta_K @ np.array(updates_KN, np.float64) / beta_K.sum()
    np.testing.assert_allclose(geometric_median(updates_KN, weights_K), point_N, atol=1e-4)


def test_three_items_on_a_line_have_the_middle_one_for_a_median():
    updates_KN = [np.full(4, value, np.float32) for value in (0.0, 1.0, 100.0)]
    np.testing.assert_allclose(geometric_median(updates_KN, [1, 1, 1]), 1.0, atol=1e-3)
    np.testing.assert_array_equal(coordinate_median(updates_KN, [1, 1, 1]), 1.0)


@given(some_items)
def test_the_coordinate_median_is_the_weighted_median_of_each_coordinate(case):
    updates_KN, weights_K = case
    expected_N = [slow_weighted_median(column, weights_K) for column in updates_KN.T.tolist()]
    np.testing.assert_array_equal(coordinate_median(list(updates_KN), weights_K), expected_N)


@given(some_items)
def test_the_trimmed_mean_is_the_mean_of_what_is_left(case):
    updates_KN, weights_K = case
    suspects = (len(updates_KN) - 1) // 2
    expected_N = []
    for column in updates_KN.T.tolist():
        # Equal values are cut off in the order of the items.
        ranked = sorted(range(len(column)), key=lambda i, column=column: (column[i], i))
        kept = ranked[suspects : len(column) - suspects]
        weight = sum(weights_K[i] for i in kept)
        expected_N.append(sum(weights_K[i] * column[i] for i in kept) / weight)
    result_N = trimmed_mean(list(updates_KN), weights_K, suspects)
    np.testing.assert_allclose(result_N, expected_N, rtol=1e-6, atol=1e-6)


@given(some_items)
def test_krum_takes_the_items_with_the_closest_company(case):
    updates_KN, weights_K = case
    suspects = (len(updates_KN) - 3) // 2
    order = slow_krum_order(updates_KN, suspects)
    items_KN = list(updates_KN)
    np.testing.assert_array_equal(krum(items_KN, weights_K, suspects), updates_KN[order[0]])
    kept = order[: len(order) - suspects - 2]
    expected_N = np.average(updates_KN[kept], axis=0, weights=[weights_K[i] for i in kept])
    result_N = multi_krum(items_KN, weights_K, suspects)
    np.testing.assert_allclose(result_N, expected_N, rtol=1e-5, atol=1e-5)


@given(some_items)
def test_medians_and_means_stay_between_the_smallest_and_the_largest_value(case):
    updates_KN, weights_K = case
    low_N, high_N = updates_KN.min(0), updates_KN.max(0)
    items_KN = list(updates_KN)
    for result_N in (
        coordinate_median(items_KN, weights_K),
        trimmed_mean(items_KN, weights_K, 1),
        krum(items_KN, weights_K, 0),
    ):
        assert (low_N <= result_N).all()
        assert (result_N <= high_N).all()
    # Shares of float64 sum to 1 up to rounding.
    median_N = geometric_median(items_KN, weights_K)
    assert (low_N - 1e-4 <= median_N).all()
    assert (median_N <= high_N + 1e-4).all()


def test_blocks_do_not_show_in_the_result(monkeypatch):
    rng = np.random.default_rng(1)
    updates_KN = list(rng.standard_normal((5, 33)).astype(np.float32))
    weights_K = [1.0, 2.0, 1.0, 4.0, 1.0]
    rules = (
        geometric_median,
        coordinate_median,
        lambda updates, weights: trimmed_mean(updates, weights, 2),
        lambda updates, weights: multi_krum(updates, weights, 1),
    )
    whole = [rule(updates_KN, weights_K) for rule in rules]
    monkeypatch.setattr(items, "_BLOCK_NUMBERS", 20)
    for rule, expected_N in zip(rules, whole, strict=True):
        np.testing.assert_allclose(rule(updates_KN, weights_K), expected_N, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "count", "needed"),
    [
        (geometric_median, 2, 3),
        (coordinate_median, 2, 3),
        (lambda updates, weights: trimmed_mean(updates, weights, 2), 4, 5),
        (lambda updates, weights: krum(updates, weights, 1), 4, 5),
        (lambda updates, weights: multi_krum(updates, weights, 2), 6, 7),
        (lambda updates, weights: multi_krum(updates, weights, 0), 0, 3),
    ],
)
def test_too_few_items_for_a_rule_are_refused(rule, count, needed):
    with pytest.raises(ValueError, match=f"at least {needed} items, got {count}"):
        rule([np.ones(2, np.float32)] * count, [1.0] * count)


@pytest.mark.parametrize("rule", [trimmed_mean, krum, multi_krum])
def test_fewer_than_no_suspects_are_refused(rule):
    with pytest.raises(ValueError, match="suspects must not be negative"):
        rule([np.ones(2, np.float32)] * 5, [1.0] * 5, -1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 4])
def test_no_rule_lets_a_number_in_that_is_none(bad, place):
    updates_KN = [np.ones(3, np.float32) for _ in range(5)]
    updates_KN[place][1] = bad
    for rule in (geometric_median, coordinate_median):
        with pytest.raises(ValueError, match=f"item {place} holds NaN or infinite"):
            rule(updates_KN, [1.0] * 5)
    for rule in (trimmed_mean, krum, multi_krum):
        with pytest.raises(ValueError, match=f"item {place} holds NaN or infinite"):
            rule(updates_KN, [1.0] * 5, 1)
    with pytest.raises(ValueError, match="NaN or infinite"):
        bound_norms(updates_KN)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf, 1e-300])
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(ValueError, match="weights must be positive"):
        geometric_median([np.ones(2, np.float32)] * 3, [1.0, weight, 1.0])


@pytest.mark.parametrize(
    ("bad_N", "error"),
    [
        (np.ones(3, np.float32), "item 1 is float32 of shape"),
        (np.ones(2, np.float64), "item 1 is float64 of shape"),
        (np.ones((2, 1), np.float32), "item 1 is float32 of shape"),
    ],
)
def test_an_item_of_another_shape_is_refused(bad_N, error):
    with pytest.raises(ValueError, match=error):
        geometric_median([np.ones(2, np.float32), bad_N, np.ones(2, np.float32)], [1.0] * 3)
    with pytest.raises(ValueError, match="2 updates have 3 weights"):
        geometric_median([np.ones(2, np.float32)] * 2, [1.0] * 3)


def test_equal_items_are_their_own_median_even_if_zero():
    for value in (0.0, 2.5, 3e38, 1e-45):
        updates_KN = [np.full(3, value, np.float32)] * 4
        for result_N in (
            geometric_median(updates_KN, [1, 2, 3, 4]),
            coordinate_median(updates_KN, [1, 2, 3, 4]),
            trimmed_mean(updates_KN, [1, 2, 3, 4], 1),
            multi_krum(updates_KN, [1, 2, 3, 4], 0),
        ):
            np.testing.assert_allclose(result_N, updates_KN[0], rtol=1e-6)


@pytest.mark.parametrize("size", [1e3, 1e10, 3e38])
def test_the_geometric_median_of_a_minority_of_giants_is_that_of_the_others(size):
    """Distances are taken from inner products; the giants' must not drown the others'."""
    rng = np.random.default_rng(2)
    honest_KN = list((1.0 + 0.1 * rng.standard_normal((5, 64))).astype(np.float32))
    giants_KN = [np.full(64, -size, np.float32)] * 4
    median_N = geometric_median(honest_KN + giants_KN, [1.0] * 9)
    # At worst at the edge of the honest items, on the side of the giants.
    assert np.linalg.norm(median_N - np.mean(honest_KN, axis=0)) < 2.0
    shares_K = median_shares(honest_KN + giants_KN, [1.0] * 9)
    assert shares_K.sum() == pytest.approx(1.0)
    assert shares_K[5:].max() < 1e-2


@settings(max_examples=30)
@given(
    arrays(np.float32, (4, 6), elements=st.floats(-1e6, 1e6, width=32)),
    st.none() | st.floats(1e-3, 1e3),
)
def test_bounded_items_are_short_and_point_the_same_way(updates_KN, bound):
    norms_K = np.linalg.norm(updates_KN.astype(float), axis=1)
    limit = float(np.median(norms_K)) if bound is None else bound
    for before_N, after_N, norm in zip(
        updates_KN, bound_norms(list(updates_KN), bound), norms_K, strict=True
    ):
        factor = min(1.0, limit / norm) if norm else 1.0
        np.testing.assert_allclose(after_N, before_N * factor, rtol=1e-4, atol=1e-30)
        assert after_N.dtype == np.float32


def test_a_short_item_is_returned_itself_and_a_bad_bound_refused():
    update_N = np.array([0.3, 0.4], np.float32)
    assert bound_norms([update_N], 1.0)[0] is update_N
    for bound in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="bound must be positive"):
            bound_norms([update_N], bound)
