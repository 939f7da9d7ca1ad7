"""Clipping bounds the norm, keeps the direction and leaves short updates alone."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from convoy_privacy.clipping import clip
from convoy_privacy.errors import UnboundedUpdateError

updates = arrays(np.float32, st.integers(0, 50), elements=st.floats(-1e6, 1e6, width=32))


@given(updates, st.floats(1e-3, 1e3))
def test_a_clipped_update_is_short_and_points_the_same_way(update_N, clip_norm):
    clipped_N = clip(update_N, clip_norm)
    norm = float(np.linalg.norm(update_N.astype(float)))
    assert np.linalg.norm(clipped_N.astype(float)) <= clip_norm * (1 + 1e-5)
    expected_N = update_N.astype(float) * min(1.0, clip_norm / norm if norm else 1.0)
    np.testing.assert_allclose(clipped_N, expected_N, rtol=1e-5, atol=1e-30)
    assert clipped_N.dtype == np.float32


def test_a_short_update_is_returned_as_it_is():
    update_N = np.array([0.3, 0.4], np.float32)
    assert clip(update_N, 0.6) is update_N


def test_the_norm_of_large_values_does_not_overflow():
    clipped_N = clip(np.full(4, 3e38, np.float32), 1.0)
    np.testing.assert_allclose(clipped_N, 0.5, rtol=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_update_without_a_norm_is_refused(bad):
    with pytest.raises(UnboundedUpdateError):
        clip(np.array([1.0, bad], np.float32), 1.0)
