"""A vehicle counts how sure the global model is of its held-back frames."""

import dataclasses
import json

import numpy as np
import pytest
from small_fleet import DATA

from convoy_driving.certainty import certainty_counts
from convoy_driving.evaluation import torch_predictor
from convoy_driving.models.registry import ModelConfig, build_model
from convoy_driving.parameters import flatten, schema_of
from convoy_edge_client.certainty_handler import certainty_of
from convoy_edge_client.errors import RefusedInstructionsError
from convoy_edge_client.vehicle_config import load_vehicle_config
from convoy_edge_client.warm_cache import WarmCache
from convoy_protos.settings import to_table
from convoy_protos.v1.federation_pb2 import RoundInstructions

MODEL = build_model(ModelConfig(), 32, 32, 3)


@pytest.fixture
def vehicle(small_fleet):
    return load_vehicle_config(small_fleet.vehicles["car1"])


def instructions(held_share=0.5):
    data = dataclasses.replace(DATA, held_share=held_share)
    return RoundInstructions(
        schema_digest=schema_of(MODEL).digest,
        settings_json=json.dumps({"data": to_table(data), "model": to_table(ModelConfig())}),
    ), data


def test_the_counts_are_those_of_the_held_back_frames(vehicle):
    asked, data = instructions()
    warm = WarmCache()

    told = certainty_of(asked, flatten(MODEL), vehicle, warm)

    held = warm.dataset(vehicle, data)
    expected = certainty_counts(torch_predictor(MODEL), held.frames_at(held.held_indices))
    assert list(told.counts) == expected.tolist()


@pytest.mark.parametrize("metrics", ["summed", "withheld"])
def test_a_vehicle_that_tells_no_figures_tells_none(vehicle, metrics):
    with pytest.raises(RefusedInstructionsError, match=f'metrics = "{metrics}"'):
        certainty_of(
            instructions()[0],
            flatten(MODEL),
            dataclasses.replace(vehicle, metrics=metrics),
            WarmCache(),
        )


def test_nobody_learns_the_certainty_of_a_few_frames(vehicle):
    with pytest.raises(RefusedInstructionsError, match="at least 16 held-back frames"):
        certainty_of(instructions(0.1)[0], flatten(MODEL), vehicle, WarmCache())


def test_a_model_of_another_form_is_refused(vehicle):
    with pytest.raises(RefusedInstructionsError, match="parameters"):
        certainty_of(instructions()[0], np.zeros(7, np.float32), vehicle, WarmCache())
