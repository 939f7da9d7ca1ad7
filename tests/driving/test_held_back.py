"""Held-back parts are laps or blocks, spread over the recording, with every class."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_driving.data_config import DataConfig
from convoy_driving.held_back import split


def parts(lap_N, classes_N=None, training_only_N=None, **settings):
    lap_N = np.asarray(lap_N, np.int32)
    count = len(lap_N)
    classes_N = np.ones(count, np.int64) if classes_N is None else np.asarray(classes_N)
    training_only_N = np.zeros(count, np.bool_) if training_only_N is None else training_only_N
    return split(lap_N, classes_N, training_only_N, DataConfig(**settings))


def test_one_lap_is_cut_into_ten_blocks_of_which_the_fifth_and_tenth_are_held():
    train, held = parts([0] * 100, guard_frames=0)

    assert held.tolist() == [*range(40, 50), *range(90, 100)]
    assert sorted([*train, *held]) == list(range(100))


def test_whole_laps_are_held_where_there_are_enough_of_them():
    lap_N = np.repeat(np.arange(10), [3, 9, 4, 4, 7, 2, 4, 4, 4, 6])

    train, held = parts(lap_N, guard_frames=0)

    assert set(lap_N[held]) == {4, 9}
    assert set(lap_N[train]) == {0, 1, 2, 3, 5, 6, 7, 8}


def test_other_blocks_are_held_when_the_last_ones_lack_a_class():
    classes_N = np.ones(100, np.int64)
    classes_N[20:40] = 0  # left only in blocks 2 and 3

    train, held = parts([0] * 100, classes_N, guard_frames=0)

    assert set(classes_N[held]) == set(classes_N[train]) == {0, 1}


def test_frames_beside_a_held_part_are_not_trained_on():
    train, held = parts([0] * 100, guard_frames=3)

    assert min(abs(int(a) - int(b)) for a in train for b in held) == 4
    assert len(train) == 80 - 3 * 3  # three borders: the last block ends the recording


def test_side_cameras_are_never_held_and_leave_the_training_part_with_their_neighbours():
    training_only_N = np.arange(99) % 3 != 0

    train, held = parts([0] * 99, training_only_N=training_only_N, guard_frames=0)

    assert not training_only_N[held].any()
    assert not set(train) & set(range(held[0], held[0] + 8))


@pytest.mark.parametrize(
    ("count", "share", "held_count"),
    [(0, 0.2, 0), (1, 0.2, 0), (2, 0.2, 1), (50, 0.0, 0), (50, 0.3, 15), (50, 0.9, 45)],
)
def test_the_held_share_is_kept_even_for_the_smallest_recordings(count, share, held_count):
    train, held = parts([0] * count, held_share=share, guard_frames=0)

    assert len(held) == held_count
    assert len(train) == count - held_count


@given(
    laps=st.lists(st.integers(1, 30), max_size=30),
    share=st.floats(0.0, 0.9),
    blocks=st.integers(2, 20),
    guard=st.integers(0, 8),
    seed=st.integers(0, 99),
)
def test_no_frame_is_on_both_sides_and_no_lap_is_torn(laps, share, blocks, guard, seed):
    lap_N = np.repeat(np.arange(len(laps)), laps)
    classes_N = np.random.default_rng(seed).integers(0, 3, len(lap_N))

    train, held = parts(lap_N, classes_N, held_share=share, blocks=blocks, guard_frames=guard)

    assert not set(train) & set(held)
    assert np.all(np.diff(train) > 0)
    assert np.all(np.diff(held) > 0)
    if len(laps) >= blocks:
        for lap in set(lap_N[held]):
            assert set(np.flatnonzero(lap_N == lap)) <= set(held)
    if guard == 0:
        assert len(train) + len(held) == len(lap_N)
