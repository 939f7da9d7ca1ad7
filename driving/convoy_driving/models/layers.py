"""Layers that take their randomness from a generator, so that threads do not disturb each other."""

import math

import torch
from torch import Tensor, nn


class SeededDropout(nn.Module):
    """Dropout (Srivastava et al., JMLR 2014) whose noise comes from a generator handed in.

    torch.nn.Dropout draws from the process-wide generator: two vehicles trained in two threads
    would get other masks on every run.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.generator: torch.Generator | None = None

    def forward(self, features: Tensor) -> Tensor:
        """Drop entries while training, scale the others up; do nothing otherwise.

        Raises:
            RuntimeError: Training without a generator: nothing would be repeatable.
        """
        if not self.training or self.probability == 0:
            return features
        if self.generator is None:
            raise RuntimeError("SeededDropout needs a generator to train: see seed_dropout")
        kept = torch.empty_like(features).bernoulli_(1 - self.probability, generator=self.generator)
        return features * kept / (1 - self.probability)


def seed_dropout(model: nn.Module, generator: torch.Generator | None) -> None:
    """Let every SeededDropout of the model draw from this generator."""
    for module in model.modules():
        if isinstance(module, SeededDropout):
            module.generator = generator


class AlignedConv2d(nn.Conv2d):
    """A convolution that computes the same and trains fast in bfloat16 on a CPU.

    oneDNN has no fast input gradient for strided convolutions of, say, 24 channels: 19 ms a batch
    of 64 against 3 ms for 32 channels (AMX, one thread, channels-last). So the channels are padded
    with zeros while training; everything else, an export too, sees an ordinary convolution.
    """

    CHANNELS = 16

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """As nn.Conv2d."""
        missing = -self.in_channels % self.CHANNELS
        if not (self.training and missing and torch.is_autocast_enabled("cpu")):
            return super().forward(features_BCHW)
        zeros = (0, 0, 0, 0, 0, missing)
        return nn.functional.conv2d(
            nn.functional.pad(features_BCHW, zeros),
            nn.functional.pad(self.weight, zeros),
            self.bias,
            self.stride,
            self.padding,
        )


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Set every parameter from the seed alone: He et al. (ICCV 2015) for weights, zero for biases.

    Layers that start a head (attribute `gain`) get smaller weights; normalisation starts as
    the identity.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            deviation = float(getattr(module, "gain", math.sqrt(2.0))) / math.sqrt(fan_in)
            module.weight.normal_(0.0, deviation, generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.GroupNorm):
            module.weight.fill_(1.0)
            module.bias.zero_()
