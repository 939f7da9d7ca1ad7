"""The bound goes where the wanted share of updates fits under it, and nobody can make it leap."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_privacy.adaptive_clipping import (
    MAX_CLIP_NORM,
    MIN_CLIP_NORM,
    next_clip_norm,
    update_noise_multiplier,
)


@pytest.mark.parametrize("start", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.9])
def test_the_bound_settles_at_the_quantile_from_either_side(start, quantile):
    norms = np.random.default_rng(0).lognormal(0.5, 0.6, 2001)
    bound = start
    for _ in range(600):
        bound = next_clip_norm(bound, float(np.mean(norms > bound)), quantile, 0.2)
    assert bound == pytest.approx(float(np.quantile(norms, quantile)), rel=0.02)


@pytest.mark.parametrize(
    ("clipped_share", "factor"),
    [
        (0.5, 1.0),  # as wanted
        (0.0, math.exp(-0.1)),  # nothing is clipped: the bound may shrink
        (1.0, math.exp(0.1)),  # everything is clipped
        (-3.0, math.exp(-0.1)),  # noise takes the share below nothing
        (1e18, math.exp(0.1)),  # a vehicle lies in its counter
    ],
)
def test_one_round_moves_the_bound_by_the_papers_factor(clipped_share, factor):
    assert next_clip_norm(2.0, clipped_share, 0.5, 0.2) == pytest.approx(2.0 * factor)


@given(
    st.floats(1e-9, 1e9),
    st.floats(allow_nan=False),
    st.floats(0.01, 0.99),
    st.floats(1e-3, 1e9),
)
def test_the_bound_stays_finite_and_positive(clip_norm, share, quantile, rate):
    assert MIN_CLIP_NORM <= next_clip_norm(clip_norm, share, quantile, rate) <= MAX_CLIP_NORM


@given(st.floats(1e-3, 1e3), st.floats(-1, 2), st.floats(-1, 2))
def test_more_clipped_updates_never_mean_a_lower_bound(clip_norm, one, other):
    less, more = sorted((one, other))
    assert next_clip_norm(clip_norm, less, 0.5, 0.2) <= next_clip_norm(clip_norm, more, 0.5, 0.2)


@pytest.mark.parametrize(
    "arguments",
    [
        (0.0, 0.5, 0.5, 0.2),
        (math.inf, 0.5, 0.5, 0.2),
        (1.0, math.nan, 0.5, 0.2),
        (1.0, 0.5, 0.0, 0.2),
        (1.0, 0.5, 1.0, 0.2),
        (1.0, 0.5, 0.5, 0.0),
    ],
)
def test_what_is_no_bound_share_or_rate_is_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        next_clip_norm(*arguments)


@given(st.floats(0.1, 10), st.floats(1.01, 100))
def test_update_and_count_together_are_as_private_as_the_whole(whole, ratio):
    count = whole * ratio
    update = update_noise_multiplier(whole, count)
    assert update > whole
    assert 1 / update**2 + 1 / count**2 == pytest.approx(1 / whole**2)


def test_a_count_with_too_little_noise_is_refused():
    with pytest.raises(ValueError, match="more noise"):
        update_noise_multiplier(1.0, 1.0)
