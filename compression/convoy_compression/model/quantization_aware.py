"""Let a network learn while its numbers are rounded as int8 will round them.

Source: Jacob et al., CVPR 2018, section 3: weights per output channel, symmetric; what a layer reads from
the smallest to the largest value of the batch; gradients pass the rounding unchanged.
"""

# Shapes: O output channels of a layer.

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_WEIGHT_LIMIT: Final = 127
_INPUT_LIMIT: Final = 255
_LEAST_SCALE: Final = 1e-8
"""A channel of zeros, or an input that is the same everywhere, has some scale too."""


@contextmanager
def rounded_as_int8(model: nn.Module) -> Iterator[None]:
    """Inside, convolutions and dense layers compute with rounded weights and inputs.

    Optimizers must be made inside. Afterwards the weights are the rounded ones, so that quantization has
    little left to change; the network has its own form again.

    Args:
        model: Changed in place.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    with ExitStack() as stack:
        for layer in layers:
            parametrize.register_parametrization(layer, "weight", _RoundedWeight())
            stack.callback(parametrize.remove_parametrizations, layer, "weight")
            stack.callback(layer.register_forward_pre_hook(_round_input).remove)
        yield


def round_weight(weight: Tensor) -> Tensor:
    """To 255 steps for each output channel (axis 0), symmetric around zero."""
    largest_O = weight.detach().abs().flatten(1).amax(dim=1)
    scale_O = (largest_O / _WEIGHT_LIMIT).clamp(min=_LEAST_SCALE)
    zero_O = torch.zeros(len(scale_O), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(
        weight, scale_O, zero_O, 0, -_WEIGHT_LIMIT, _WEIGHT_LIMIT
    )


def round_input(values: Tensor) -> Tensor:
    """To 256 steps between the smallest and the largest value, zero among them."""
    low = values.detach().amin().clamp(max=0.0)
    high = values.detach().amax().clamp(min=0.0)
    scale = ((high - low) / _INPUT_LIMIT).clamp(min=_LEAST_SCALE)
    zero = (-low / scale).round().to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, _INPUT_LIMIT)


class _RoundedWeight(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return round_weight(weight)


def _round_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # noqa: ARG001 - a hook
    return (round_input(inputs[0].float()), *inputs[1:])
