"""Teach a small network what large ones know, on frames that need no labels.

Source: Hinton et al., 2015: 0.9 * T^2 * KL(teacher || student) at temperature T for the steering
and 0.1 * squared error for the throttle, the weights that the networks were trained with. For a
regressed steering (one column) the squared error takes the place of the divergence.

The teachers are asked once about every frame and once about its mirror image, before the student
starts. Changes of the light are shown to the student alone: the right answer stays that for the
plain frame, and the teachers need not be asked again in every pass.
"""

# Shapes: N frames, B batch, V views of a frame (plain, mirrored), S columns of the steering head.

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convoy_compression.model.photometric import change_light
from convoy_compression.model.teacher import Lesson, ask, to_input

STEERING_WEIGHT: Final = 0.9
THROTTLE_WEIGHT: Final = 0.1
WARM_UP_SHARE: Final = 0.05
"""Share of all steps in which the learning rate rises, before it falls along a cosine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationConfig:
    """How the student learns.

    Attributes:
        epochs: Passes over the frames.
        batch_size: Frames a step.
        learning_rate: AdamW's highest.
        temperature: Softens the steering probabilities that the student imitates.
        photometric: Change the light of what the student sees.
        mirror: Show half of the frames mirrored.
        bfloat16: Compute in half precision, for processors that are fast at it.
    """

    epochs: int = 12
    batch_size: int = 64
    learning_rate: float = 2e-3
    temperature: float = 2.0
    photometric: bool = True
    mirror: bool = True
    bfloat16: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "temperature"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationResult:
    """What the lessons were like.

    Attributes:
        loss: Mean of the last pass.
        steps: Optimizer steps.
        entropy: Mean normalised entropy of the teachers' answers; see `teacher.Lesson`.
        disagreement: How often a teacher was of another opinion than the ensemble.
    """

    loss: float
    steps: int
    entropy: float
    disagreement: float


def distil(
    student: nn.Module,
    teachers: Sequence[nn.Module],
    frames_NHWC: NDArray[np.uint8],
    config: DistillationConfig,
    *,
    seed: int,
    on_epoch: Callable[[int, int], None] | None = None,
) -> DistillationResult:
    """Train the student in place; it is left in evaluation mode.

    Args:
        student: Takes float frames_BCHW in [0, 1] and returns steering_BS and throttle_B, with
            as many steering columns as the teachers. Trained in evaluation mode, that is without
            dropout: soft targets are regularization enough for a small network.
        teachers: Networks of the same form; see `teacher.ask`.
        frames_NHWC: uint8, RGB, frames that the server may see.
        config: How.
        seed: Order of the frames and all changes to them follow from it.
        on_epoch: Told after every pass: passes done, passes in all.

    Raises:
        UnusableTeacherError: A teacher holds or says NaN or infinite values.
    """
    views = [frames_NHWC] + ([frames_NHWC[:, :, ::-1]] if config.mirror else [])
    lessons = [ask(teachers, view, bfloat16=config.bfloat16) for view in views]
    steering_VNS = torch.stack([lesson.steering_NS for lesson in lessons])
    throttle_VN = torch.stack([lesson.throttle_N for lesson in lessons])
    student.eval()
    _arrange(student, torch.channels_last)  # a third faster than channels first
    generator = torch.Generator().manual_seed(seed)
    steps = config.epochs * -(-len(frames_NHWC) // config.batch_size)
    optimizer = torch.optim.AdamW(student.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=steps + 1, pct_start=WARM_UP_SHARE
    )
    loss = 0.0
    for epoch in range(config.epochs):
        order_N = torch.randperm(len(frames_NHWC), generator=generator)
        view_N = torch.randint(len(views), (len(frames_NHWC),), generator=generator)
        total = 0.0
        for chosen_B in torch.split(order_N, config.batch_size):
            view_B = view_N[chosen_B]
            frames_BHWC = frames_NHWC[chosen_B.numpy()]
            mirrored_B = view_B.numpy() == 1
            frames_BHWC[mirrored_B] = frames_BHWC[mirrored_B, :, ::-1]
            inputs_BCHW = to_input(frames_BHWC)
            if config.photometric:
                inputs_BCHW = change_light(inputs_BCHW, generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
                steering_BS, throttle_B = student(inputs_BCHW)
            batch_loss = distillation_loss(
                (steering_BS.float(), throttle_B.float()),
                (steering_VNS[view_B, chosen_B], throttle_VN[view_B, chosen_B]),
                config.temperature,
            )
            optimizer.zero_grad()
            batch_loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
            optimizer.step()
            schedule.step()
            total += batch_loss.item() * len(chosen_B)
        loss = total / len(frames_NHWC)
        if on_epoch is not None:
            on_epoch(epoch + 1, config.epochs)
    _arrange(student, torch.contiguous_format)
    return _result(lessons, loss, steps)


def distillation_loss(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], temperature: float
) -> Tensor:
    """Mean loss of a batch; both sides are steering_BS and throttle_B."""
    steering_BS, throttle_B = student
    target_BS, target_throttle_B = teacher
    if steering_BS.shape[1] == 1:
        steering_loss = nn.functional.mse_loss(steering_BS, target_BS)
    else:
        steering_loss = temperature**2 * nn.functional.kl_div(
            (steering_BS / temperature).log_softmax(dim=1),
            (target_BS / temperature).log_softmax(dim=1),
            log_target=True,
            reduction="batchmean",
        )
    throttle_loss = nn.functional.mse_loss(throttle_B, target_throttle_B)
    return STEERING_WEIGHT * steering_loss + THROTTLE_WEIGHT * throttle_loss


def _arrange(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Lay out the kernels in memory; the numbers stay the same."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)


def _result(lessons: Sequence[Lesson], loss: float, steps: int) -> DistillationResult:
    return DistillationResult(
        loss=loss,
        steps=steps,
        entropy=float(np.mean([lesson.entropy for lesson in lessons])),
        disagreement=float(np.mean([lesson.disagreement for lesson in lessons])),
    )
