"""Bands of turn and brightness."""

import numpy as np

from convoy_server.release.slices import brightness_of, turns_of


def test_a_turn_is_sharp_from_halfway_to_full_lock():
    steering = np.array([-1.0, -0.6, -0.5, -0.2, -0.1, 0.0, 0.19, 0.2, 0.59, 0.6, 1.0])

    assert turns_of(steering, 0.2) == [
        "sharp left", "sharp left", "left", "left", "straight", "straight", "straight",
        "right", "right", "sharp right", "sharp right",
    ]  # fmt: skip


def test_brightness_is_cut_in_thirds():
    levels = np.array([0, 85, 86, 170, 171, 255], np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (6, 2, 2, 3))

    assert brightness_of(frames) == ["dark", "dark", "medium", "medium", "bright", "bright"]
