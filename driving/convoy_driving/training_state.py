"""Training that had to stop between two batches: all that it takes to go on as if it never had.

The file is safetensors: the tensors of model and optimizer, bit for bit, and the dropout generator's
state; numbers and the state of the order's generator stand in its header as JSON.
"""

# Shapes: N parameters, one entry a parameter that is trained in every list.

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from convoy_driving.errors import ModelFileError

FORMAT: Final = "convoy.training/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """Where training stands between two batches.

    Attributes:
        parameters: Of the whole model, in its order.
        moments: What the optimizer keeps of each parameter that is trained, by name.
        dropout: State of the generator that dropout draws from.
        epoch_rng: State of numpy's generator when this epoch began: its order follows from it.
        rng: State of numpy's generator now.
        epoch: Epochs done.
        losses: Of the batches of this epoch that are done.
        steps: Optimizer steps of the epochs that are done.
    """

    parameters: tuple[Tensor, ...]
    moments: tuple[Mapping[str, Tensor], ...]
    dropout: Tensor
    epoch_rng: Mapping[str, Any]
    rng: Mapping[str, Any]
    epoch: int
    losses: tuple[float, ...]
    steps: int


def write_state(state: TrainingState) -> bytes:
    """The file's bytes."""
    tensors = {f"parameter.{index}": value for index, value in enumerate(state.parameters)}
    for index, moments in enumerate(state.moments):
        tensors |= {f"moment.{index}.{name}": value for name, value in moments.items()}
    header = {
        "format": FORMAT,
        "numbers": json.dumps(
            {
                "parameters": len(state.parameters),
                "trained": len(state.moments),
                "epoch_rng": state.epoch_rng,
                "rng": state.rng,
                "epoch": state.epoch,
                "losses": state.losses,
                "steps": state.steps,
            }
        ),
    }
    plain = {name: value.cpu().contiguous() for name, value in tensors.items()}
    return save(plain | {"dropout": state.dropout}, header)


def read_state(data: bytes) -> TrainingState:
    """The inverse of `write_state`.

    Raises:
        ModelFileError: The bytes are not those of a state.
    """
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])["__metadata__"]
        numbers = json.loads(header["numbers"])
        if header["format"] != FORMAT:
            raise ModelFileError(f"training state of format {header['format']}, expected {FORMAT}")
        tensors = load(data)
        return TrainingState(
            parameters=tuple(tensors[f"parameter.{i}"] for i in range(numbers["parameters"])),
            moments=tuple(_under(f"moment.{i}.", tensors) for i in range(numbers["trained"])),
            dropout=tensors["dropout"],
            epoch_rng=numbers["epoch_rng"],
            rng=numbers["rng"],
            epoch=numbers["epoch"],
            losses=tuple(numbers["losses"]),
            steps=numbers["steps"],
        )
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ModelFileError(f"not a training state: {error}") from error


def moments_of(
    optimizer: torch.optim.Optimizer, trained: list[nn.Parameter]
) -> tuple[dict[str, Tensor], ...]:
    """A copy of what the optimizer keeps; empty before its first step."""
    return tuple(
        {
            name: value.detach().clone()
            for name, value in optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }
        for parameter in trained
    )


def restore_moments(
    optimizer: torch.optim.Optimizer,
    trained: list[nn.Parameter],
    moments: tuple[Mapping[str, Tensor], ...],
) -> None:
    """Give the optimizer what it kept, in the memory format of each parameter.

    Fused steps walk parameter and moments in the order of their memory: one that is channels-last and
    one that is not would be mixed up without a word.

    Raises:
        ValueError: Another number of parameters, or of another shape.
    """
    for parameter, kept in zip(trained, moments, strict=True):
        for name, value in kept.items():
            if value.ndim == 0:  # the count of steps
                optimizer.state[parameter][name] = value.to(parameter.device)
                continue
            if value.shape != parameter.shape:
                raise ValueError(
                    f"{name} of shape {tuple(value.shape)}, expected {tuple(parameter.shape)}"
                )
            like = torch.empty_like(parameter, memory_format=torch.preserve_format)
            optimizer.state[parameter][name] = like.detach().copy_(value)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
