"""What is recorded is what the expert wanted, not what the disturbance did."""

import dataclasses
import itertools

import numpy as np

from convoy_simulation.roads.appearance import appearance_named
from convoy_simulation.roads.camera import CameraSize
from convoy_simulation.roads.car_racing import Road
from convoy_simulation.roads.recorder import RecordingConfig, record_drive

CALM = RecordingConfig(skip_s=0.0, disturbances_per_s=0.0)
ROUGH = dataclasses.replace(CALM, disturbances_per_s=3.0)


def steering(config: RecordingConfig, moments: int = 60, seed: int = 0) -> list[float]:
    drive = record_drive(
        Road(4),
        appearance_named("day"),
        CameraSize(width_px=8, height_px=6, subpixels=1),
        config,
        np.random.default_rng(seed),
    )
    return [moment.steering for moment in itertools.islice(drive, moments)]


def test_a_calm_drive_on_the_starting_straight_hardly_steers():
    assert np.abs(steering(CALM, 8)).max() < 0.1


def test_disturbances_call_for_corrections():
    assert np.std(steering(ROUGH)) > 1.5 * np.std(steering(CALM))


def test_one_seed_gives_one_drive():
    assert steering(ROUGH, seed=3) == steering(ROUGH, seed=3)
    assert steering(ROUGH, seed=3) != steering(ROUGH, seed=4)


def test_pictures_are_taken_at_the_configured_interval():
    drive = record_drive(
        Road(4),
        appearance_named("day"),
        CameraSize(width_px=8, height_px=6, subpixels=1),
        dataclasses.replace(CALM, physics_steps=5),
        np.random.default_rng(0),
    )
    times_s = [moment.time_s for moment in itertools.islice(drive, 3)]
    assert times_s == [0.0, 0.1, 0.2]
