"""A larger network than a vehicle could run: a small residual network with group normalisation.

Sources: He et al., CVPR 2016 (pre-activation residual blocks); Wu and He, ECCV 2018 (GroupNorm,
which keeps no running statistics and therefore survives federated averaging).
"""

from torch import Tensor, nn

from convoy_driving.models.controls import SteeringForm
from convoy_driving.models.driving_model import DrivingModel, feature_count
from convoy_driving.models.layers import SeededDropout

CHANNELS = (32, 64, 96, 128)
DENSE = 128
GROUP_SIZE = 8


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; halves height and width."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.GroupNorm(before // GROUP_SIZE, before),
            nn.ReLU(inplace=True),
            nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(after // GROUP_SIZE, after),
            nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, padding=1),
        )
        self.shortcut = nn.Conv2d(before, after, 1, stride=2)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Shape (B, before, H, W) to (B, after, H / 2, W / 2)."""
        sum_BCHW: Tensor = self.shortcut(features_BCHW) + self.branch(features_BCHW)
        return sum_BCHW


def teacher(
    frame_height: int, frame_width: int, steering: SteeringForm, dropout: float, width: float
) -> DrivingModel:
    """Build the network; `width` scales every layer's channels, in steps of the group size."""
    c1, c2, c3, c4 = (_in_groups(channels * width) for channels in CHANNELS)
    convolutions = nn.Sequential(
        nn.Conv2d(3, c1, 5, stride=2, padding=2),
        ResidualBlock(c1, c2),
        ResidualBlock(c2, c3),
        ResidualBlock(c3, c4),
        nn.GroupNorm(c4 // GROUP_SIZE, c4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
    )
    flat = feature_count(convolutions, frame_height, frame_width)
    features = nn.Sequential(
        *convolutions, nn.Linear(flat, DENSE), nn.ReLU(inplace=True), SeededDropout(dropout)
    )
    return DrivingModel(features, DENSE, steering)


def _in_groups(channels: float) -> int:
    return max(1, round(channels / GROUP_SIZE)) * GROUP_SIZE
