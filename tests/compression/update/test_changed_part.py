"""Frozen layers leave the vector that travels and come back as zeros."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_compression.update.changed_part import changed_part

NAMES = ["features.0.weight", "features.0.bias", "head.weight", "head.bias"]
SIZES = [6, 2, 3, 1]


@pytest.mark.parametrize(
    ("frozen", "kept"),
    [
        (["features."], [8, 9, 10, 11]),
        (["head.weight"], [0, 1, 2, 3, 4, 5, 6, 7, 11]),  # one in the middle
        (["features.0.bias", "head.bias"], [0, 1, 2, 3, 4, 5, 8, 9, 10]),
        (["features.", "features.0.bias"], [8, 9, 10, 11]),  # named twice
    ],
)
def test_what_is_frozen_is_left_out_and_comes_back_as_zero(frozen, kept):
    part = changed_part(NAMES, SIZES, frozen)
    vector_N = np.arange(1, 13, dtype=np.float32)
    vector_M = part.gather(vector_N)
    assert part.size == len(kept)
    np.testing.assert_array_equal(vector_M, vector_N[kept])

    expected_N = np.zeros(12, np.float32)
    expected_N[kept] = vector_N[kept]
    scattered_N = part.scatter(vector_M)
    np.testing.assert_array_equal(scattered_N, expected_N)
    assert scattered_N.dtype == np.float32


def test_the_vector_passes_as_it_is_where_nothing_is_frozen():
    part = changed_part(NAMES, SIZES)
    vector_N = np.ones(12, np.float32)
    assert part.size == part.parameter_count == 12
    assert part.gather(vector_N) is vector_N
    assert part.scatter(vector_N) is vector_N


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.data())
def test_gathering_undoes_scattering_whatever_is_frozen(sizes, data):
    names = [f"layer{index}." for index in range(len(sizes))]
    frozen = data.draw(st.lists(st.sampled_from(names), unique=True))
    changing = sum(size for name, size in zip(names, sizes, strict=True) if name not in frozen)
    if not changing:
        return
    part = changed_part(names, sizes, frozen)
    assert part.size == changing
    vector_M = np.arange(1, changing + 1, dtype=np.float32)
    np.testing.assert_array_equal(part.gather(part.scatter(vector_M)), vector_M)


@pytest.mark.parametrize(
    ("sizes", "frozen", "complaint"),
    [
        (SIZES, ["features.", "head."], "no parameter is left"),
        (SIZES, [""], "no parameter is left"),  # the empty prefix starts every name
        (SIZES, ["feature_"], "no parameter starts with 'feature_'"),
        (SIZES[:3], [], "4 names but 3 sizes"),
    ],
)
def test_a_part_that_cannot_be_is_refused(sizes, frozen, complaint):
    with pytest.raises(ValueError, match=complaint):
        changed_part(NAMES, sizes, frozen)


def test_a_vector_of_another_length_is_refused():
    part = changed_part(NAMES, SIZES, ["head."])
    with pytest.raises(ValueError, match=r"expected shape \(12,\), got \(8,\)"):
        part.gather(np.ones(8, np.float32))
    with pytest.raises(ValueError, match=r"expected shape \(8,\), got \(12,\)"):
        part.scatter(np.ones(12, np.float32))
