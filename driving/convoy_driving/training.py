"""Section [training] of a scenario, and the work of a vehicle in one round."""

# Shapes: B batch, S columns of the steering head, N parameters; BCHW frames for the network.

import contextlib
import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convoy_driving.augmentation import Batch, mirror, shift
from convoy_driving.dataset import DrivingData
from convoy_driving.models.controls import Controls, SteeringForm
from convoy_driving.models.driving_model import DrivingModel
from convoy_driving.models.layers import seed_dropout
from convoy_driving.steering_classes import bins_of, classes_of
from convoy_driving.training_state import TrainingState, moments_of, restore_moments

STEERING_SHARE = 0.9
"""Of the loss; the rest is the throttle's."""

BetweenBatches = Callable[[Callable[[], TrainingState]], None]
"""Called before every batch with a function that says where training stands. It may take its time;
what it raises ends the training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How a vehicle trains.

    Attributes:
        optimizer: "sgd" with momentum, or "adamw".
        learning_rate: Step size; positive.
        momentum: Of SGD, in [0, 1); 0 is plain SGD. AdamW does not use it.
        weight_decay: Decoupled for AdamW, L2 for SGD; 0 is none.
        batch_size: Examples a step.
        local_epochs: Passes over a vehicle's own training examples in one round.
        proximal_mu: FedProx (Li et al., MLSys 2020): strength of the pull to the global model;
            0 is none.
        gradient_clip_norm: Bound on the 2-norm of a step's gradient; 0 is none.
        class_weighted: Weigh rare steering classes up, by this vehicle's own shares.
        class_weight_limit: Largest weight of a class; the mean over examples is about 1.
        label_smoothing: Probability given to all classes alike in the steering target; 0 is none.
        mirror: Mirror half of the frames and negate their steering.
        brightness: Largest relative change of a frame's brightness; 0 is none.
        shift: Largest sideways shift as a share of the frame's width; 0 is none.
        shift_steering: Steering that a shift by the whole width calls for.
        mixed_precision: "auto" computes in bfloat16 on a device that is fast at it.
        channels_last: "auto" keeps activations channels-last where that is faster.
        freeze: Parameters whose name starts with one of these stay as they are.
        initial_checkpoint: safetensors file to start from (transfer learning); None starts from
            the seed.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 64
    local_epochs: int = 1
    proximal_mu: float = 0.0
    gradient_clip_norm: float = 0.0
    class_weighted: bool = True
    class_weight_limit: float = 5.0
    label_smoothing: float = 0.0
    mirror: bool = True
    brightness: float = 0.0
    shift: float = 0.0
    shift_steering: float = 1.0
    mixed_precision: Literal["auto", "off"] = "auto"
    channels_last: Literal["auto", "off"] = "auto"
    freeze: tuple[str, ...] = ()
    initial_checkpoint: str | None = None

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        for name in ("weight_decay", "proximal_mu", "gradient_clip_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("batch_size", "local_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.class_weight_limit >= 1:
            raise ValueError(
                f"class_weight_limit must be at least 1, got {self.class_weight_limit}"
            )
        for name in ("label_smoothing", "brightness", "shift"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a vehicle did in one round.

    Attributes:
        train_loss: Mean loss over the last epoch.
        example_count: Training examples: the weight of this vehicle's update.
        steps: Optimizer steps taken.
    """

    train_loss: float
    example_count: int
    steps: int


def train(
    model: DrivingModel,
    dataset: DrivingData,
    config: TrainingConfig,
    *,
    seed: int,
    device: str = "cpu",
    global_N: NDArray[np.float32] | None = None,
    epochs: int | None = None,
    augment: bool = True,
    mirror: bool = True,
    on_epoch: Callable[[int, float], None] | None = None,
    between_batches: BetweenBatches | None = None,
    resume: TrainingState | None = None,
) -> TrainingResult:
    """Train the model in place on the dataset's training examples.

    The same arguments give the same parameters, bit for bit, on one machine with one number of
    torch threads; nothing is drawn from a process-wide generator. Training that goes on from a
    state ends with the same bits as if it had never stopped.

    Args:
        model: Where to start from; holds the result.
        dataset: A vehicle's examples, or several vehicles' pooled.
        config: How.
        seed: Of order, augmentation and dropout; see `vehicle_seed`.
        device: Torch's name of it.
        global_N: The global model, for the proximal term; None means where `model` starts.
        epochs: Passes; None means config.local_epochs.
        augment: False switches every augmentation off, for a vehicle that wants none.
        mirror: False never mirrors, for a vehicle that drives on one side of the road.
        on_epoch: Called with the number of epochs done and the epoch's mean loss.
        between_batches: See BetweenBatches.
        resume: Where training with the same arguments stood; `model` takes its parameters.

    Raises:
        ValueError: A prefix in config.freeze names no parameter, there is nothing to train on, or
            `resume` is of another model.
    """
    if not len(dataset.train_indices):
        raise ValueError("there are no training examples")
    changes = _Changes(
        mirror=augment and mirror and config.mirror,
        brightness=config.brightness if augment else 0.0,
        shift=config.shift if augment else 0.0,
        shift_steering=config.shift_steering,
    )
    model.to(device)
    with _frozen(model, config.freeze):
        step = _Stepper(
            model,
            dataset,
            config,
            changes=changes,
            seed=seed,
            device=device,
            global_N=global_N,
        )
        rng = np.random.default_rng(seed)
        weights_N = example_weights(dataset, config, mirrored=changes.mirror)
        first, steps, losses = 0, 0, list[float]()
        if resume is not None:
            first, steps = resume.epoch, resume.steps
            rng.bit_generator.state = resume.epoch_rng
        for epoch in range(first, epochs if epochs is not None else config.local_epochs):
            epoch_rng = rng.bit_generator.state
            order = rng.permutation(dataset.train_indices)
            losses = []
            if resume is not None:
                losses = step.restore(resume)
                rng.bit_generator.state = resume.rng
                resume = None
            for start in range(len(losses) * config.batch_size, len(order), config.batch_size):
                if between_batches is not None:
                    between_batches(
                        functools.partial(step.state, rng, epoch_rng, epoch, losses, steps)
                    )
                indices_B = order[start : start + config.batch_size]
                losses.append(step(_batch(dataset, indices_B, weights_N, changes, rng)))
            steps += len(losses)
            if on_epoch is not None:
                on_epoch(epoch + 1, math.fsum(losses) / len(losses))
    return TrainingResult(
        train_loss=math.fsum(losses) / len(losses) if losses else math.nan,
        example_count=len(dataset.train_indices),
        steps=steps,
    )


def vehicle_seed(run_seed: int, round_number: int, vehicle_id: str) -> int:
    """A vehicle's own seed for a round, in [0, 2**63): the same in every process."""
    text = f"convoy.vehicle_seed/1\n{run_seed}\n{round_number}\n{vehicle_id}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def example_weights(
    dataset: DrivingData, config: TrainingConfig, *, mirrored: bool
) -> NDArray[np.float32]:
    """Weight of every example: examples / (3 * examples of its class), clamped.

    Mirroring half of the frames makes left and right equally frequent, so they are counted so.
    Weighing the rarer side up all the same was tried once on seven real cars (one seed, round 12):
    balanced accuracy 0.657 instead of 0.692.
    """
    classes_N = dataset.steering_classes()
    if not config.class_weighted:
        return np.ones(len(classes_N), np.float32)
    counts_3 = np.bincount(classes_N[dataset.train_indices], minlength=3)
    if mirrored:
        counts_3 = counts_3 + counts_3[::-1]
    weights_3 = counts_3.sum() / (3 * np.maximum(counts_3, 1))
    limited_3 = np.minimum(weights_3, config.class_weight_limit).astype(np.float32)
    weights_N: NDArray[np.float32] = limited_3[classes_N]
    return weights_N


def driving_loss(
    controls: Controls,
    targets_B: Tensor,
    throttle_B: Tensor,
    weights_B: Tensor,
    *,
    form: SteeringForm,
    label_smoothing: float = 0.0,
) -> Tensor:
    """0.9 * steering error + 0.1 * squared throttle error, a scalar.

    Args:
        controls: What the network said.
        targets_B: Class or bin numbers (int64), or angles for a regression.
        throttle_B: Recorded throttle.
        weights_B: Weight of each example's steering error; the mean is taken by weight.
        form: What the steering head means.
        label_smoothing: Probability spread over all classes; ignored by a regression.
    """
    if form == "regression":
        steering_error_B = (controls.steering_BS[:, 0] - targets_B).square()
    else:
        steering_error_B = nn.functional.cross_entropy(
            controls.steering_BS, targets_B, reduction="none", label_smoothing=label_smoothing
        )
    steering_error = (weights_B * steering_error_B).sum() / weights_B.sum()
    throttle_error = nn.functional.mse_loss(controls.throttle_B, throttle_B)
    return STEERING_SHARE * steering_error + (1 - STEERING_SHARE) * throttle_error


def fast_at_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 in hardware at a rate that pays."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device == "cpu" and bool(torch.cpu.get_capabilities().get("amx_bf16", False))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Changes:
    """Which augmentations this vehicle gets."""

    mirror: bool
    brightness: float
    shift: float
    shift_steering: float


def _batch(
    dataset: DrivingData,
    indices_B: NDArray[np.int64],
    weights_N: NDArray[np.float32],
    changes: _Changes,
    rng: np.random.Generator,
) -> Batch:
    return _augmented(
        dataset.frames_at(indices_B),
        dataset.steering_N[indices_B],
        dataset.throttle_N[indices_B],
        weights_N[indices_B],
        changes=changes,
        rng=rng,
    )


def _augmented(
    frames_BHWC: NDArray[np.uint8],
    steering_B: NDArray[np.float32],
    throttle_B: NDArray[np.float32],
    weights_B: NDArray[np.float32],
    *,
    changes: _Changes,
    rng: np.random.Generator,
) -> Batch:
    count, _, width, _ = frames_BHWC.shape
    if changes.shift > 0:
        reach = int(changes.shift * width)
        pixels_B = rng.integers(-reach, reach, size=(count,), endpoint=True)
        frames_BHWC, steering_B = shift(frames_BHWC, steering_B, pixels_B, changes.shift_steering)
    if changes.mirror:
        chosen_B = rng.random((count,)) < 0.5
        frames_BHWC, steering_B = mirror(frames_BHWC, steering_B, chosen_B)
    brightness_B = np.ones(count, np.float32)
    if changes.brightness > 0:
        brightness_B += rng.uniform(-changes.brightness, changes.brightness, (count,))
    return Batch(
        frames_BHWC=frames_BHWC,
        steering_B=steering_B,
        throttle_B=throttle_B,
        brightness_B=brightness_B,
        weights_B=weights_B,
    )


class _Stepper:
    """One optimizer step a batch; everything that stays the same during a round."""

    def __init__(
        self,
        model: DrivingModel,
        dataset: DrivingData,
        config: TrainingConfig,
        *,
        changes: _Changes,
        seed: int,
        device: str,
        global_N: NDArray[np.float32] | None,
    ) -> None:
        self._model = model
        self._config = config
        self._device = device
        self._threshold = dataset.steering_threshold
        self._brightens = changes.brightness > 0
        self._half = config.mixed_precision == "auto" and fast_at_bfloat16(device)
        self._memory_format = (
            torch.channels_last if config.channels_last == "auto" else torch.contiguous_format
        )
        model.train()
        model.to(memory_format=self._memory_format)  # type: ignore[call-overload]  # torch omits it
        self._dropout = torch.Generator(device).manual_seed(seed)
        seed_dropout(model, self._dropout)
        self._trained = [item for item in model.parameters() if item.requires_grad]
        self._anchors = _anchors(model, global_N) if config.proximal_mu > 0 else []
        self._optimizer = _optimizer(self._trained, config)

    def __call__(self, batch: Batch) -> float:
        """Take one step; the batch's mean loss."""
        loss = self._loss(batch)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._pull_to_global()
        if self._config.gradient_clip_norm > 0:
            nn.utils.clip_grad_norm_(self._trained, self._config.gradient_clip_norm)
        self._optimizer.step()
        return loss.item()

    def state(
        self,
        rng: np.random.Generator,
        epoch_rng: Mapping[str, Any],
        epoch: int,
        losses: Sequence[float],
        steps: int,
    ) -> TrainingState:
        """A copy of where training stands; the arguments are those of `TrainingState`."""
        return TrainingState(
            parameters=tuple(item.detach().clone() for item in self._model.parameters()),
            moments=moments_of(self._optimizer, self._trained),
            dropout=self._dropout.get_state(),
            epoch_rng=epoch_rng,
            rng=rng.bit_generator.state,
            epoch=epoch,
            losses=tuple(losses),
            steps=steps,
        )

    def restore(self, state: TrainingState) -> list[float]:
        """Go on from a state; the losses of the batches of its epoch that are done."""
        with torch.no_grad():
            for item, kept in zip(self._model.parameters(), state.parameters, strict=True):
                item.copy_(kept)
        restore_moments(self._optimizer, self._trained, state.moments)
        self._dropout.set_state(state.dropout)
        return list(state.losses)

    def _loss(self, batch: Batch) -> Tensor:
        classes_B = classes_of(batch.steering_B, self._threshold)
        form = self._model.steering_form
        targets_B: NDArray[np.int64] | NDArray[np.float32] = batch.steering_B
        if form == "classes":
            targets_B = classes_B
        elif form == "bins":
            targets_B = bins_of(batch.steering_B)
        with torch.autocast(self._device.split(":")[0], torch.bfloat16, enabled=self._half):
            controls = self._model(self._frames(batch))
        return driving_loss(
            Controls(controls.steering_BS.float(), controls.throttle_B.float()),
            torch.from_numpy(targets_B).to(self._device),
            torch.from_numpy(batch.throttle_B).to(self._device),
            torch.from_numpy(batch.weights_B).to(self._device),
            form=form,
            label_smoothing=self._config.label_smoothing,
        )

    def _frames(self, batch: Batch) -> Tensor:
        """To the device as bytes, and only there to floats in [0, 1]."""
        frames_BHWC = torch.from_numpy(np.ascontiguousarray(batch.frames_BHWC)).to(self._device)
        scale_B = torch.from_numpy(batch.brightness_B / np.float32(255)).to(self._device)
        dtype = torch.bfloat16 if self._half else torch.float32
        frames_BCHW = frames_BHWC.permute(0, 3, 1, 2).to(dtype)
        frames_BCHW *= scale_B.to(dtype)[:, None, None, None]
        if self._brightens:
            frames_BCHW.clamp_(max=1.0)
        return frames_BCHW.contiguous(memory_format=self._memory_format)

    def _pull_to_global(self) -> None:
        """Gradient of mu / 2 * |local - global|^2 (FedProx, equation 2)."""
        for parameter, anchor in zip(self._trained, self._anchors, strict=False):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - anchor, alpha=self._config.proximal_mu)


def _anchors(model: nn.Module, global_N: NDArray[np.float32] | None) -> list[Tensor]:
    """The global model's values of every parameter that is trained."""
    anchors: list[Tensor] = []
    start = 0
    for parameter in model.parameters():
        values = parameter.detach().clone()
        if global_N is not None:
            part = np.array(global_N[start : start + parameter.numel()], np.float32)
            values.copy_(torch.from_numpy(part).reshape(parameter.shape))
        start += parameter.numel()
        if parameter.requires_grad:
            anchors.append(values)
    return anchors


def _optimizer(parameters: list[nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
    return torch.optim.SGD(
        parameters,
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=True,
    )


@contextlib.contextmanager
def _frozen(model: nn.Module, prefixes: tuple[str, ...]) -> Iterator[None]:
    """Parameters under the prefixes take no gradient inside.

    Raises:
        ValueError: A prefix names no parameter, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(f"freeze: no parameter starts with {prefix!r}; there are {names}")
    frozen = [item for name, item in model.named_parameters() if name.startswith(prefixes)]
    if len(frozen) == len(names):
        raise ValueError("freeze leaves no parameter to train")
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
