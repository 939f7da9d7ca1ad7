"""The downlink: what changed between two models, rounded and deflated like a sealed update.

The rounding is part of the model: after encoding, the server itself goes on with what `apply_delta`
gives, so that it and every vehicle hold the same float32 values to the last bit. (Decoding takes one
product and one sum of float32 for each parameter, which IEEE 754 defines exactly.)
"""

# Shapes: N parameters.

import numpy as np

from convoy_compression.errors import CorruptPayloadError, InvalidUpdateError
from convoy_compression.update.sealed import decode_sparse, encode_sparse
from convoy_compression.update.vector import Float32Vector


def encode_delta(new_N: Float32Vector, base_N: Float32Vector, step_factor: float) -> bytes | None:
    """The payload that leads from the base to (nearly) the new model, or None: send all of it.

    Nothing at all where the models are the same. None where the delta would not be smaller than the
    model, or the models are too far apart or too large for one.

    Args:
        new_N: float32, shape (N,).
        base_N: float32, shape (N,): what the vehicles have.
        step_factor: Rounding, in units of the root mean square of the difference, in 0.001..100.
    """
    if new_N.shape != base_N.shape:
        raise ValueError(f"expected shape {base_N.shape}, got {new_N.shape}")
    if np.array_equal(new_N, base_N):
        return b""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            payload = encode_sparse(new_N - base_N, step_factor)
        if len(payload) >= 4 * new_N.size:
            return None
        apply_delta(base_N, memoryview(payload))
    except (InvalidUpdateError, CorruptPayloadError):
        return None
    return payload


def apply_delta(base_N: Float32Vector, payload: memoryview) -> Float32Vector:
    """The new model, float32, shape (N,): a vector of its own.

    Args:
        base_N: The model that the payload was made against.
        payload: What `encode_delta` wrote, from an untrusted peer.

    Raises:
        CorruptPayloadError: The payload is not what `encode_delta` writes, or leads to no finite model.
    """
    if not payload.nbytes:
        return base_N.copy()
    model_N = decode_sparse(payload, base_N.size)
    with np.errstate(over="ignore", invalid="ignore"):
        model_N += base_N
    if not np.isfinite(model_N).all():
        raise CorruptPayloadError("the delta leads to a model with infinite values")
    return model_N
