"""What a driving network says about a batch of frames, and how it is read.

Steering comes in three forms, told apart by the number of columns:

columns S  form        column s means
        3  classes     logit of left, straight, right
       15  bins        logit of the steering angle (s - 7) / 7; Donkeycar's categorical output
        1  regression  the steering angle itself
"""

# Shapes: B batch, S columns of the steering head, 3 steering classes: left, straight, right.

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from convoy_driving.steering_classes import BINS, classes_of

SteeringForm = Literal["classes", "bins", "regression"]

STEERING_COLUMNS: dict[SteeringForm, int] = {"classes": 3, "bins": BINS, "regression": 1}

REGRESSION_SHARPNESS = 10.0
"""How fast a regressed angle turns into a sure class on either side of the threshold."""


class Controls(NamedTuple):
    """What the network says about a batch of frames.

    Attributes:
        steering_BS: Logits, or the angle itself for a regression.
        throttle_B: -1 is full reverse, 0 coasting, 1 full throttle.
    """

    steering_BS: Tensor
    throttle_B: Tensor


def steering_probabilities(controls: Controls, threshold: float = 0.2) -> Tensor:
    """Probabilities of left, straight and right, shape (B, 3); rows add up to one.

    Args:
        controls: Of any form.
        threshold: Steering of a smaller magnitude is straight.
    """
    steering_BS = controls.steering_BS
    columns = steering_BS.shape[1]
    if columns == STEERING_COLUMNS["classes"]:
        return steering_BS.softmax(dim=1)
    if columns == STEERING_COLUMNS["bins"]:
        return steering_BS.softmax(dim=1) @ _classes_of_bins(threshold).to(steering_BS)
    angle_B1 = steering_BS
    logits_B3 = REGRESSION_SHARPNESS * torch.cat(
        [-angle_B1 - threshold, torch.zeros_like(angle_B1), angle_B1 - threshold], dim=1
    )
    return logits_B3.softmax(dim=1)


def steering_class_B(controls: Controls, threshold: float = 0.2) -> Tensor:  # noqa: N802 - its axes
    """The likeliest class: 0 left, 1 straight, 2 right; int64."""
    return steering_probabilities(controls, threshold).argmax(dim=1)


def steering_angle_B(controls: Controls) -> Tensor:  # noqa: N802 - its axes
    """Steering in [-1, 1]: the angle itself, or its expectation under the probabilities."""
    steering_BS = controls.steering_BS
    if steering_BS.shape[1] == STEERING_COLUMNS["regression"]:
        return steering_BS[:, 0].clamp(-1.0, 1.0)
    angles_S = torch.linspace(-1.0, 1.0, steering_BS.shape[1]).to(steering_BS)
    return steering_BS.softmax(dim=1) @ angles_S


def _classes_of_bins(threshold: float) -> Tensor:
    """Which class each bin counts for, one-hot, shape (15, 3)."""
    angles_S = np.linspace(-1.0, 1.0, BINS, dtype=np.float32)
    return torch.from_numpy(np.eye(3, dtype=np.float32)[classes_of(angles_S, threshold)])
