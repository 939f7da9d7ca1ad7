"""Bound the influence of one vehicle. Source: McMahan et al., ICLR 2018, algorithm 1."""

# Shapes: N parameters.

import math

import numpy as np
from numpy.typing import NDArray

from convoy_privacy.errors import UnboundedUpdateError

Float32Vector = NDArray[np.float32]


def clip(update_N: Float32Vector, clip_norm: float) -> Float32Vector:
    """Scale the update down until its 2-norm is at most clip_norm.

    Args:
        update_N: float32, shape (N,), local minus global parameters; returned itself if short enough.
        clip_norm: Bound on the 2-norm, in parameter units; positive.

    Raises:
        UnboundedUpdateError: An entry is NaN or infinite.
    """
    length = norm(update_N)
    if length <= clip_norm:
        return update_N
    return update_N * np.float32(clip_norm / length)


def norm(update_N: Float32Vector) -> float:
    """The 2-norm of a finite update.

    Raises:
        UnboundedUpdateError: An entry is NaN or infinite.
    """
    # The norm of float32 entries in float64 cannot overflow.
    length = math.sqrt(float(np.einsum("i,i->", update_N, update_N, dtype=np.float64)))
    if not math.isfinite(length):
        raise UnboundedUpdateError(f"the update has norm {length}")
    return length
