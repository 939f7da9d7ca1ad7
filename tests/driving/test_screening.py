"""What is usable, where laps begin, and what is counted instead."""

import math
from itertools import pairwise

import numpy as np
import pytest
from small_recordings import jpeg

from convoy_driving.data_config import DataConfig
from convoy_driving.recordings.reader import Sample, Skipped
from convoy_driving.recordings.screening import Tally, usable_frames


class Listed:
    """A reader of what it is given."""

    format = "listed"

    def __init__(self, items):
        self._items = items

    def items(self):
        """As the protocol has it."""
        return iter(self._items)

    def identify(self, digest):
        """As the protocol has it."""
        digest.update(repr(self._items).encode())


def sample(**changes):
    return Sample(**({"picture": jpeg(), "steering": 0.0, "throttle": 0.0} | changes))


def screened(*items, **settings):
    tally = Tally()
    return list(usable_frames(Listed(items), DataConfig(**settings), tally)), tally


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steering": math.nan}, "value_not_finite"),
        ({"throttle": math.inf}, "value_not_finite"),
        ({"steering": 1.01}, "value_out_of_range"),
        ({"throttle": -4.0}, "value_out_of_range"),
        ({"picture": b"no picture"}, "undecodable"),
        ({"picture": jpeg()[:200]}, "undecodable"),  # truncated
        ({"picture": b""}, "undecodable"),
    ],
)
def test_a_frame_that_cannot_be_used_is_counted_with_its_reason(changes, reason):
    frames, tally = screened(sample(), sample(**changes), Skipped("image_missing", 4))

    assert len(frames) == 1
    assert tally.skipped == {reason: 1, "image_missing": 4}


def test_every_mode_counts_unless_modes_are_named():
    items = [sample(mode="user"), sample(mode="local")]

    everything, tally = screened(*items)
    only_people, strict_tally = screened(*items, modes=("user",))

    assert (len(everything), tally.other_modes) == (2, {"local": 1})
    assert (len(only_people), strict_tally.skipped) == (1, {"mode_not_user": 1})


@pytest.mark.parametrize(
    ("changes", "laps"),
    [
        ([{"time_s": 0.0}, {"time_s": 15.0}], 1),  # the gap is allowed
        ([{"time_s": 0.0}, {"time_s": 15.1}], 2),
        ([{"time_s": 20.0}, {"time_s": 0.0}], 2),  # the clock was set back
        ([{"session": "a"}, {"session": "b"}], 2),
        ([{"time_s": None}, {"time_s": 99.0}], 1),  # nothing known, nothing split
    ],
)
def test_a_lap_ends_at_a_pause_or_a_new_session(changes, laps):
    frames, tally = screened(*(sample(**change) for change in changes))

    assert tally.laps == laps
    assert all(after.lap - before.lap in (0, 1) for before, after in pairwise(frames))
    assert frames[-1].lap == laps - 1


def test_each_recording_of_a_vehicle_starts_a_lap_of_its_own():
    tally = Tally()
    config = DataConfig()

    first = list(usable_frames(Listed([sample()]), config, tally))
    second = list(usable_frames(Listed([sample()]), config, tally))

    assert [first[0].lap, second[0].lap] == [0, 1]


def test_rounding_beyond_the_range_is_clipped():
    (frame,), _ = screened(sample(steering=1.0005, throttle=-1.0005))

    assert (frame.steering, frame.throttle) == (1.0, -1.0)


def test_a_picture_may_come_decoded():
    picture_HWC = np.full((4, 6, 3), 9, np.uint8)

    (frame,), tally = screened(sample(picture=picture_HWC))

    assert np.array_equal(np.asarray(frame.image), picture_HWC)
    assert tally.resolution == (6, 4)
