"""A network's parameters as one vector, and that vector as a file.

The file is safetensors (https://github.com/huggingface/safetensors): an 8-byte little-endian
header length, a JSON header, the tensors back to back in little-endian float32. The header is
written here because the library's own writer orders metadata by a random hash, and the same model
must give the same bytes.
"""

# Shapes: N parameters of the whole network.

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import nn

from convoy_driving.errors import ModelFileError

Float32Vector = NDArray[np.float32]

_HEADER_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class ParameterSchema:
    """Names and shapes of a network's parameters, in the order they have in the vector."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.shapes):
            raise ValueError(f"{len(self.names)} names but {len(self.shapes)} shapes")

    @property
    def parameter_count(self) -> int:
        """Length N of the vector."""
        return sum(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers in each parameter."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def digest(self) -> bytes:
        """SHA-256 over one line `name:dim,dim` per parameter, each ended by a newline."""
        lines = (
            f"{name}:{','.join(map(str, shape))}\n"
            for name, shape in zip(self.names, self.shapes, strict=True)
        )
        return hashlib.sha256("".join(lines).encode()).digest()


def schema_of(model: nn.Module) -> ParameterSchema:
    """The schema of a network.

    Raises:
        ValueError: The network has buffers: state that averaging parameters would lose.
    """
    buffers = [name for name, _ in model.named_buffers()]
    if buffers:
        raise ValueError(f"a federated network must not have buffers, got {', '.join(buffers)}")
    parameters = list(model.named_parameters())
    return ParameterSchema(
        names=tuple(name for name, _ in parameters),
        shapes=tuple(tuple(parameter.shape) for _, parameter in parameters),
    )


def flatten(model: nn.Module) -> Float32Vector:
    """A copy of all parameters, float32, shape (N,)."""
    parts = [parameter.detach().reshape(-1) for parameter in model.parameters()]
    vector_N: Float32Vector = torch.cat(parts).to("cpu", torch.float32).numpy()
    return vector_N


def unflatten(vector_N: Float32Vector, model: nn.Module) -> None:
    """Copy the vector into the network's parameters.

    Raises:
        ValueError: The vector has another length than the network has parameters.
    """
    expected = sum(parameter.numel() for parameter in model.parameters())
    if vector_N.shape != (expected,):
        raise ValueError(f"expected a vector of {expected} parameters, got shape {vector_N.shape}")
    start = 0
    with torch.no_grad():
        for parameter in model.parameters():
            part = np.array(vector_N[start : start + parameter.numel()], np.float32)
            parameter.copy_(torch.from_numpy(part).reshape(parameter.shape))
            start += parameter.numel()


def save_parameters(
    vector_N: Float32Vector, schema: ParameterSchema, path: Path, metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file; the same arguments give the same bytes.

    The caller sees to atomicity: write beside the target, then replace.
    """
    if vector_N.shape != (schema.parameter_count,):
        raise ValueError(
            f"expected {schema.parameter_count} parameters, got shape {vector_N.shape}"
        )
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    start = 0
    for name, shape, size in zip(schema.names, schema.shapes, schema.sizes, strict=True):
        stop = start + 4 * size
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % _HEADER_ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        file.write(np.ascontiguousarray(vector_N, "<f4").data)


def load_parameters(path: Path) -> tuple[Float32Vector, ParameterSchema]:
    """Read a safetensors file of float32 tensors, in the order in which they stand in it.

    Raises:
        ModelFileError: No such file, not safetensors, or a tensor is not float32.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            names = tuple(file.offset_keys())
            tensors = [file.get_tensor(name) for name in names]
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"{path}: not a readable safetensors file ({error})") from error
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.dtype != np.float32:
            raise ModelFileError(f"{path}: {name} is {tensor.dtype}, expected float32")
    schema = ParameterSchema(names, tuple(tuple(tensor.shape) for tensor in tensors))
    parts = [tensor.reshape(-1) for tensor in tensors]
    return np.concatenate([np.empty(0, np.float32), *parts]), schema


def load_metadata(path: Path) -> dict[str, str]:
    """The strings saved beside the parameters.

    Raises:
        ModelFileError: No such file or not safetensors.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"{path}: not a readable safetensors file ({error})") from error
