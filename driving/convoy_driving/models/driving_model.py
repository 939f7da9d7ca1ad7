"""The shape every driving network has: features from a frame, one head per control."""

# Shapes: B batch, C colour channels, H height, W width, S columns of the steering head, F features.

import torch
from torch import Tensor, nn

from convoy_driving.models.controls import STEERING_COLUMNS, Controls, SteeringForm


class DrivingModel(nn.Module):
    """A feature extractor with a steering and a throttle head.

    No BatchNorm anywhere: its running statistics of one vehicle mean nothing on another.
    """

    def __init__(self, features: nn.Module, feature_count: int, steering: SteeringForm) -> None:
        super().__init__()
        self.features = features
        self.steering = _head(feature_count, STEERING_COLUMNS[steering])
        self.throttle = _head(feature_count, 1)
        self.steering_form: SteeringForm = steering

    def forward(self, frames_BCHW: Tensor) -> Controls:
        """Frames are RGB in [0, 1]; they are centred here, so nobody else has to know."""
        features_BF = self.features(torch.add(frames_BCHW.new_tensor(-1.0), frames_BCHW, alpha=2.0))
        return Controls(
            steering_BS=self.steering(features_BF),
            throttle_B=self.throttle(features_BF).squeeze(1),
        )


def feature_count(features: nn.Module, frame_height: int, frame_width: int) -> int:
    """How many numbers come out of a feature extractor for one frame of this size."""
    with torch.no_grad():
        return int(features(torch.zeros(1, 3, frame_height, frame_width)).shape[1])


def _head(features: int, columns: int) -> nn.Linear:
    head = nn.Linear(features, columns)
    head.gain = 0.1  # type: ignore[assignment]  # read by layers.initialise: start undecided
    return head
