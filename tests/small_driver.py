"""Driving networks small enough for tests, without the driving package."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

HEIGHT, WIDTH = 20, 24


class Controls(NamedTuple):
    """As the driving package's networks answer."""

    steering_BS: Tensor
    throttle_B: Tensor


class SmallNetwork(nn.Module):
    """Two convolutions, a dense layer, two heads; parameters from the seed alone."""

    def __init__(self, columns: int = 3, channels: tuple[int, int] = (8, 12), seed: int = 0):
        super().__init__()
        first, second = channels
        self.features = nn.Sequential(
            nn.Conv2d(3, first, 5, stride=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(second * 8 * 10, 16),
            nn.ReLU(inplace=True),
        )
        self.steering = nn.Linear(16, columns)
        self.throttle = nn.Linear(16, 1)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                scale = 1.4 / np.sqrt(max(1, parameter[0].numel()))
                parameter.normal_(0.0, float(scale), generator=generator)

    def forward(self, frames_BCHW: Tensor) -> Controls:
        """Float frames in [0, 1]."""
        features_BF = self.features(frames_BCHW * 2.0 - 1.0)
        return Controls(self.steering(features_BF), self.throttle(features_BF).squeeze(1))


class SmallDriver(nn.Module):
    """The network as the vehicle uses it: bytes in, probabilities and throttle out."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, frames_BHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Bytes of RGB frames."""
        controls = self.model(frames_BHWC.permute(0, 3, 1, 2).float() / 255.0)
        return controls.steering_BS.softmax(dim=1), controls.throttle_B


def road_frames(count: int, seed: int = 0) -> np.ndarray:
    """Grey pictures with a bright half: left, right or none, uint8 (count, H, W, 3)."""
    rng = np.random.default_rng(seed)
    frames_NHWC = rng.integers(60, 120, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for frame_HWC, side in zip(frames_NHWC, rng.integers(0, 3, count), strict=True):
        if side != 1:
            half = slice(0, WIDTH // 2) if side == 0 else slice(WIDTH // 2, WIDTH)
            frame_HWC[:, half] += 120
    return frames_NHWC
