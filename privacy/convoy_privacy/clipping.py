"""Bound the influence of one vehicle. Source: McMahan et al., ICLR 2018, algorithm 1."""

# Shapes: N parameters.

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convoy_privacy.errors import UnboundedUpdateError

Float32Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyConfig:
    """What a vehicle does to its update before it leaves; section [privacy].

    Attributes:
        clip_norm: Bound on an update's 2-norm, in parameter units, positive; None: no bound.
    """

    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if self.clip_norm is not None and not 0.0 < self.clip_norm < math.inf:
            raise ValueError(f"clip_norm must be positive and finite, got {self.clip_norm}")


def clip(update_N: Float32Vector, clip_norm: float) -> Float32Vector:
    """Scale the update down until its 2-norm is at most clip_norm.

    Args:
        update_N: float32, shape (N,), local minus global parameters; returned itself if short enough.
        clip_norm: Bound on the 2-norm, in parameter units; positive.

    Raises:
        UnboundedUpdateError: An entry is NaN or infinite.
    """
    # The norm of float32 entries in float64 cannot overflow.
    norm = math.sqrt(float(np.einsum("i,i->", update_N, update_N, dtype=np.float64)))
    if not math.isfinite(norm):
        raise UnboundedUpdateError(f"the update has norm {norm}")
    if norm <= clip_norm:
        return update_N
    return update_N * np.float32(clip_norm / norm)
