"""From recordings on disk to examples, alone and pooled."""

import numpy as np
import pytest
from small_recordings import make_dataset, record, write_tub

from convoy_driving.data_config import DataConfig
from convoy_driving.dataset import load_vehicle, pool
from convoy_driving.errors import NotARecordingError, NoUsableFramesError

CONFIG = DataConfig(frame_height=16, frame_width=24, guard_frames=0)


def test_a_vehicle_is_the_sum_of_its_recordings(tmp_path):
    tubs = [
        write_tub(tmp_path / name, [record(index) for index in range(30)]) for name in ("a", "b")
    ]

    vehicle = load_vehicle("car", tubs, CONFIG, tmp_path / "cache")

    assert vehicle.frames_NHWC.shape == (60, 16, 24, 3)
    assert vehicle.lap_N.tolist() == [0] * 30 + [1] * 30
    assert vehicle.steering_classes()[:3].tolist() == [0, 1, 2]
    assert len(vehicle.train_indices) + len(vehicle.held_indices) == 60
    assert set(vehicle.steering_classes()[vehicle.held_indices]) == {0, 1, 2}


def test_a_vehicle_with_nothing_to_learn_from_is_refused_with_the_reasons(tmp_path):
    tub = write_tub(tmp_path / "a", [record(0), record(1)], pictures={0: None, 1: b"torn"})

    with pytest.raises(NoUsableFramesError, match=r"1 image_missing, 1 undecodable.*leave it out"):
        load_vehicle("car", [tub], CONFIG, tmp_path / "cache")


def test_a_path_that_is_no_recording_is_refused(tmp_path):
    with pytest.raises(NotARecordingError):
        load_vehicle("car", [tmp_path], CONFIG, tmp_path / "cache")


def test_a_pool_gives_the_frames_and_labels_of_its_vehicles():
    vehicles = [make_dataset(count, seed=seed) for seed, count in enumerate((12, 20, 8))]

    pooled = pool(vehicles)

    indices = np.random.default_rng(0).permutation(40)
    frames_NHWC = np.concatenate([vehicle.frames_NHWC for vehicle in vehicles])
    assert np.array_equal(pooled.frames_at(indices), frames_NHWC[indices])
    assert np.array_equal(
        pooled.steering_N, np.concatenate([vehicle.steering_N for vehicle in vehicles])
    )
    assert np.array_equal(
        pooled.steering_classes(),
        np.concatenate([vehicle.steering_classes() for vehicle in vehicles]),
    )


def test_a_pool_keeps_every_vehicles_split():
    vehicles = [make_dataset(count, seed=seed) for seed, count in enumerate((12, 20))]

    pooled = pool(vehicles)

    assert pooled.train_indices.tolist() == [*range(9), *range(12, 27)]
    assert pooled.held_indices.tolist() == [*range(9, 12), *range(27, 32)]


def test_vehicles_of_different_frame_sizes_cannot_be_pooled():
    with pytest.raises(ValueError, match="frame size"):
        pool([make_dataset(size=(32, 40)), make_dataset(size=(32, 48))])
    with pytest.raises(ValueError, match="at least one"):
        pool([])
