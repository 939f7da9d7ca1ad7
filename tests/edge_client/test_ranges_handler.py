"""A vehicle tells ranges of its own frames, and runs nothing but a network that tells ranges."""

import dataclasses

import numpy as np
import pytest
from small_fleet import DATA

from convoy_compression.model.range_observer import observed_tensors, observer_of
from convoy_compression.model.tensor_ranges import observe
from convoy_edge_client.errors import RefusedInstructionsError
from convoy_edge_client.ranges_handler import ranges_of
from convoy_edge_client.vehicle_config import load_vehicle_config
from convoy_edge_client.warm_cache import WarmCache
from convoy_protos.v1.federation_pb2 import CalibrationRequest
from convoy_simulation.releases import small_release
from convoy_simulation.releases.bad_models import SOUND, endless_loop

FRAME = (small_release.HEIGHT, small_release.WIDTH)
SMALL = dataclasses.replace(DATA, frame_height=FRAME[0], frame_width=FRAME[1])


@pytest.fixture
def vehicle(small_fleet):
    return load_vehicle_config(small_fleet.vehicles["car1"])


def tell(vehicle, observer, frames=32):
    request = CalibrationRequest(observer=observer, frames=frames)
    return ranges_of(request, vehicle, SMALL, WarmCache())


@pytest.mark.slow
def test_the_ranges_are_those_of_the_vehicles_training_frames(vehicle):
    network = observer_of(small_release.model())
    observer = network.SerializeToString()
    dataset = WarmCache().dataset(vehicle, SMALL)

    told = tell(vehicle, observer, frames=10_000)

    expected = observe(observer, dataset.frames_at(dataset.train_indices))
    assert len(told.low) == len(observed_tensors(network))
    np.testing.assert_allclose(told.low, expected.low_T, rtol=1e-6)
    np.testing.assert_allclose(told.high, expected.high_T, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("observer", "words"),
    [
        (SOUND, "observer contract: expected input frames and outputs low, high"),
        (endless_loop(), "observer operators: operator Loop"),
        (b"", "observer format"),
    ],
)
def test_what_is_no_observer_is_refused_unrun(vehicle, observer, words):
    with pytest.raises(RefusedInstructionsError, match=words):
        tell(vehicle, observer)


@pytest.mark.parametrize("metrics", ["summed", "withheld"])
def test_a_vehicle_that_tells_no_figures_tells_no_ranges(vehicle, metrics):
    with pytest.raises(RefusedInstructionsError, match=f'metrics = "{metrics}"'):
        tell(dataclasses.replace(vehicle, metrics=metrics), SOUND)


def test_nobody_learns_the_ranges_of_a_single_frame(vehicle):
    with pytest.raises(RefusedInstructionsError, match="at least 16 frames, not over 1"):
        tell(vehicle, SOUND, frames=1)
