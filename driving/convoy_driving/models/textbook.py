"""The textbook smart-car network.

Source: Bojarski et al., "End to End Learning for Self-Driving Cars", 2016, in the smaller form that
Donkeycar made common.

Five convolutions (24, 32, 64 channels of 5x5 stride 2, then 64, 64 of 3x3), flatten, dense 100,
dropout. The 3x3 convolutions are padded so that frames down to 32 x 32 work.
"""

from torch import nn

from convoy_driving.models.controls import SteeringForm
from convoy_driving.models.driving_model import DrivingModel, feature_count
from convoy_driving.models.layers import AlignedConv2d, SeededDropout

CHANNELS = (24, 32, 64, 64, 64)
DENSE = 100
SMALLEST_FRAME = 32


def textbook(
    frame_height: int, frame_width: int, steering: SteeringForm, dropout: float, width: float
) -> DrivingModel:
    """Build the network; `width` scales every layer's channels."""
    if min(frame_height, frame_width) < SMALLEST_FRAME:
        raise ValueError(
            f"this network needs frames of {SMALLEST_FRAME} x {SMALLEST_FRAME} or more, "
            f"got {frame_height} x {frame_width}"
        )
    c1, c2, c3, c4, c5 = (max(1, round(channels * width)) for channels in CHANNELS)
    dense = max(1, round(DENSE * width))
    convolutions = nn.Sequential(
        nn.Conv2d(3, c1, 5, stride=2),
        nn.ReLU(inplace=True),
        AlignedConv2d(c1, c2, 5, stride=2),
        nn.ReLU(inplace=True),
        AlignedConv2d(c2, c3, 5, stride=2),
        nn.ReLU(inplace=True),
        AlignedConv2d(c3, c4, 3, padding=1),
        nn.ReLU(inplace=True),
        AlignedConv2d(c4, c5, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Flatten(),
    )
    flat = feature_count(convolutions, frame_height, frame_width)
    features = nn.Sequential(
        *convolutions, nn.Linear(flat, dense), nn.ReLU(inplace=True), SeededDropout(dropout)
    )
    return DrivingModel(features, dense, steering)
