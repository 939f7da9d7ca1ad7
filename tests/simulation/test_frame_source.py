"""A road as a source of frames: what is decided, the car does."""

import pytest

from convoy_edge_client.drive.loaded_model import Answer
from convoy_edge_client.errors import FrameSourceError
from convoy_simulation.roads.frame_source import SimulatedRoad


def steered(steering):
    return Answer(
        steering=steering, throttle=0.0, probabilities=(0, 1, 0), release="r", latency_ms=0.0
    )


def heading_after(steering):
    source = SimulatedRoad("11,dark")
    for count, picture in enumerate(source.pictures()):
        assert picture.ndim == 3
        source.act(steered(steering))
        if count == 10:
            break
    return source.road.pose.heading_rad


def test_the_car_turns_where_the_model_steers():
    assert heading_after(-1.0) > heading_after(1.0)


@pytest.mark.parametrize("what", ["", "eleven", "11,fog of war"])
def test_a_track_or_camera_that_is_none_is_said(what):
    with pytest.raises(FrameSourceError, match="SEED"):
        SimulatedRoad(what)
