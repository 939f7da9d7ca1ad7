"""The rotation keeps lengths, can be undone, and spreads whatever it is given."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convoy_compression.update.public_bytes import public_bytes
from convoy_compression.update.rotation import layout_of, rotate, rotate_back

SEED = bytes(range(32))


@functools.cache
def slow_hadamard(length):
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < length:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.float32(np.sqrt(length))


def slow_cosine(length):
    matrix = np.empty((length, length))
    for k in range(length):
        for n in range(length):
            matrix[k, n] = np.sqrt((1 if k == 0 else 2) / length) * np.cos(
                np.pi * (2 * n + 1) * k / (2 * length)
            )
    return matrix


def slow_column(count, index, seed):
    """Where one parameter goes, shape (P,), from the definition."""
    layout = layout_of(count)
    rows, length = layout.rows, layout.row_length
    signs = np.unpackbits(public_bytes(seed, "convoy rotation/1", layout.padded_count // 8))
    # The rows stand as a rectangle as near to a square as can be, with a transform along each side.
    side = max(size for size in range(1, rows + 1) if rows % size == 0 and size * size <= rows)
    cosine = np.kron(slow_cosine(side), slow_cosine(rows // side))
    # Hands of 16 parameters are dealt to the super-blocks in turn, and there to the rows in turn.
    hand, place = divmod(index, 16)
    turn, block = divmod(hand, layout.super_blocks)
    deal, row = divmod(turn, rows)
    column_P = np.zeros(layout.padded_count)
    spread = np.outer(cosine[:, row], slow_hadamard(length)[:, 16 * deal + place]).reshape(-1)
    start = block * rows * length
    column_P[start : start + rows * length] = spread * (1.0 - 2.0 * signs[index])
    return column_P


@pytest.mark.parametrize(
    ("count", "padded"),
    [
        (1, 64),
        (64, 64),
        (65, 128),
        (4096, 4096),
        (4097, 2 * 4096),
        (256 * 4096, 256 * 4096),
        (256 * 4096 + 1, 2 * 129 * 4096),  # two super-blocks of equal size
        (883_338, 216 * 4096),  # 0.2 % where a power of two pads 19 %
        (25_557_032, 25 * 250 * 4096),
    ],
)
def test_padding_stays_small(count, padded):
    assert layout_of(count).padded_count == padded


def test_there_is_nothing_to_rotate_without_parameters():
    with pytest.raises(ValueError, match="at least 1"):
        layout_of(0)


@pytest.mark.parametrize("count", [1, 63, 64, 100, 500])
def test_it_is_the_matrix_of_its_definition(count):
    vector_N = np.random.default_rng(count).standard_normal(count, dtype=np.float32)
    rotated_P = rotate(vector_N, SEED)
    assert rotated_P.dtype == np.float32
    matrix = np.stack([slow_column(count, index, SEED) for index in range(count)], axis=1)
    np.testing.assert_allclose(rotated_P, matrix @ vector_N, atol=2e-5)
    np.testing.assert_allclose(rotate_back(rotated_P, count, SEED), vector_N, atol=2e-5)


@pytest.mark.parametrize(
    "count",
    [
        3 * 4096 + 5,  # 4 rows, as 2 times 2
        5 * 4096,  # a prime number of rows
        6 * 4096,  # 2 times 3
        pytest.param(256 * 4096 + 12_345, marks=pytest.mark.slow),  # two super-blocks of 130 rows
    ],
)
def test_it_takes_each_parameter_where_its_definition_says(count):
    for index in (0, 15, 16, count // 2, count - 1):
        vector_N = np.zeros(count, np.float32)
        vector_N[index] = 1.0
        np.testing.assert_allclose(
            rotate(vector_N, SEED), slow_column(count, index, SEED), atol=1e-6
        )


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 60_000),
    st.integers(-6, 6),
    st.binary(min_size=32, max_size=32),
)
def test_it_keeps_the_norm_and_can_be_undone_at_every_scale(count, decade, seed):
    rng = np.random.default_rng(count)
    vector_N = (rng.standard_normal(count) * 10.0**decade).astype(np.float32)
    norm = np.linalg.norm(vector_N)
    rotated_P = rotate(vector_N, seed)
    assert rotated_P.shape == (layout_of(count).padded_count,)
    assert np.linalg.norm(rotated_P) == pytest.approx(norm, rel=1e-4)
    back_N = rotate_back(rotated_P, count, seed)
    assert np.linalg.norm(back_N - vector_N) <= 1e-5 * norm


@pytest.mark.slow
def test_several_super_blocks_can_be_undone_too():
    count = 256 * 4096 + 12_345
    vector_N = np.random.default_rng(0).standard_normal(count, dtype=np.float32)
    rotated_P = rotate(vector_N, SEED)
    assert np.linalg.norm(rotated_P) == pytest.approx(np.linalg.norm(vector_N), rel=1e-4)
    np.testing.assert_allclose(rotate_back(rotated_P, count, SEED), vector_N, atol=1e-4)


def test_one_parameter_reaches_every_coordinate():
    vector_N = np.zeros(50_000, np.float32)
    vector_N[31_000] = 1.0
    rotated_P = rotate(vector_N, SEED)
    fair = 1.0 / np.sqrt(rotated_P.size)
    assert np.abs(rotated_P).max() <= 1.42 * fair
    assert (rotated_P != 0.0).mean() > 0.9


@pytest.mark.parametrize("layer", [slice(0, 5000), slice(20_000, 21_200), slice(45_000, 50_000)])
def test_coordinates_spread_alike_though_all_change_is_in_one_layer(layer):
    rng = np.random.default_rng(0)
    squares_P = np.zeros(layout_of(50_000).padded_count)
    for draw in range(20):
        vector_N = np.zeros(50_000, np.float32)
        vector_N[layer] = rng.standard_normal(vector_N[layer].size)
        squares_P += rotate(vector_N, draw.to_bytes(32, "big")) ** 2
    spread_R = squares_P.reshape(-1, 4096).mean(axis=1)
    assert spread_R.max() / spread_R.mean() < 1.2


def test_the_callers_threads_are_left_and_change_nothing():
    vector_N = np.random.default_rng(0).standard_normal(50_000, dtype=np.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(rotate(vector_N, SEED))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()


def test_a_vector_of_another_length_cannot_be_rotated_back():
    with pytest.raises(ValueError, match=r"expected shape \(128,\), got \(64,\)"):
        rotate_back(np.zeros(64, np.float32), 100, SEED)
