"""A torch driver opened from plain parameters predicts what the network predicts."""

import pickle

import numpy as np
import torch

from convoy_driving.data_config import DataConfig
from convoy_driving.evaluation import torch_predictor
from convoy_driving.models.registry import ModelConfig, build_model
from convoy_driving.parameters import flatten
from convoy_simulation.roads.torch_driver import TorchDriver


def test_a_pickled_driver_predicts_what_its_network_does():
    data, config = DataConfig(frame_height=60, frame_width=80), ModelConfig(width=0.25)
    network = build_model(config, 60, 80, seed=9)
    threads = torch.get_num_threads()
    try:
        opened = pickle.loads(pickle.dumps(TorchDriver(flatten(network), config, data)))()
        frames_BHWC = np.random.default_rng(0).integers(0, 256, (3, 60, 80, 3)).astype(np.uint8)
        frames_BHWC.flags.writeable = False
        for got, wanted in zip(
            opened(frames_BHWC), torch_predictor(network)(frames_BHWC.copy()), strict=True
        ):
            np.testing.assert_allclose(got, wanted, atol=1e-5)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
