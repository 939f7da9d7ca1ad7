"""A torch network as a driver that another process can open."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from convoy_driving.data_config import DataConfig
from convoy_driving.models.driver import Driver
from convoy_driving.models.registry import ModelConfig, build_model
from convoy_driving.parameters import unflatten
from convoy_simulation.roads.closed_loop import Predictor


@dataclass(frozen=True, slots=True, eq=False)
class TorchDriver:
    """Makes a predictor when called, for `closed_loop_scores`.

    Attributes:
        parameters_N: float32, the whole network.
        model: Which network.
        data: Frame size and steering threshold that it was trained with.
    """

    parameters_N: NDArray[np.float32]
    model: ModelConfig
    data: DataConfig

    def __call__(self) -> Predictor:
        """Build the network; from here on this process's torch computes on one thread."""
        # One frame is too little work to share: two threads on a busy machine cost ten times more.
        torch.set_num_threads(1)
        network = build_model(self.model, self.data.frame_height, self.data.frame_width, seed=0)
        unflatten(self.parameters_N, network)
        driver = Driver(network, self.data.steering_threshold).eval()

        def predict(
            frames_BHWC: NDArray[np.uint8],
        ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            with torch.inference_mode():
                probabilities_B3, throttle_B = driver(torch.tensor(frames_BHWC))
            return probabilities_B3.numpy(), throttle_B.numpy()

        return predict
