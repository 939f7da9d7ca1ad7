"""A public random rotation: spreads an update evenly over all coordinates before it is rounded.

Random signs, then a cosine transform (DCT-II) along every row of a super-block and a Hadamard
transform down every column: the randomized Hadamard transform of Suresh et al., ICML 2017, section 4,
with columns of 4096 so that padding stays below one column for each super-block, where one transform
over the next power of two would pad up to half of the vector.

Unlike Hadamard's, the entries of a cosine transform are not all of one size. So neighbours in the vector,
which belong to one layer and are alike in size, lie along a row and, before that, are dealt out to the
super-blocks in turn: every column and every super-block gets its share of every layer. With a layer to a
few columns, some coordinates would spread 1.4 times as widely as others and leave the range early.

The rotation need not be the same to the last bit on two machines: what must be exact is drawn from
bytes (the signs) or rounded afterwards.
"""

# Shapes: N parameters, P padded, S super-blocks of L rows of R coordinates; L is 2**(a + b).

import functools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from convoy_compression.update.one_thread import one_thread
from convoy_compression.update.public_bytes import public_bytes
from convoy_compression.update.vector import Float32Vector

_LONGEST_COLUMN: Final = 4096
_SHORTEST_COLUMN: Final = 64
_MOST_COLUMNS: Final = 256


@dataclass(frozen=True, slots=True)
class Layout:
    """How N parameters lie in S super-blocks of R columns of L coordinates."""

    super_blocks: int
    columns: int
    column_length: int

    @property
    def padded_count(self) -> int:
        """P."""
        return self.super_blocks * self.columns * self.column_length


def layout_of(parameter_count: int) -> Layout:
    """The layout for N parameters, at least 1."""
    if parameter_count < 1:
        raise ValueError(f"parameter_count must be at least 1, got {parameter_count}")
    power_of_two = 1 << (parameter_count - 1).bit_length()
    column_length = min(_LONGEST_COLUMN, max(_SHORTEST_COLUMN, power_of_two))
    columns = math.ceil(parameter_count / column_length)
    super_blocks = math.ceil(columns / _MOST_COLUMNS)
    return Layout(super_blocks, math.ceil(columns / super_blocks), column_length)


def rotate(vector_N: Float32Vector, seed: bytes) -> Float32Vector:
    """The rotated vector, float32, shape (P,), of the same 2-norm."""
    layout = layout_of(vector_N.size)
    padded_P = torch.zeros(layout.padded_count)
    padded_P[: vector_N.size] = torch.from_numpy(vector_N)
    with one_thread():
        padded_P *= _signs(seed, layout.padded_count)
        blocks_SLR = padded_P.view(-1, layout.super_blocks).T.reshape(
            layout.super_blocks, layout.column_length, layout.columns
        )
        along_SLR = torch.matmul(blocks_SLR, _cosine(layout.columns).T)
        rotated_P: Float32Vector = _hadamard_columns(along_SLR).reshape(-1).numpy()
    return rotated_P


def rotate_back(rotated_P: Float32Vector, parameter_count: int, seed: bytes) -> Float32Vector:
    """The inverse of `rotate`, float32, shape (N,)."""
    layout = layout_of(parameter_count)
    if rotated_P.shape != (layout.padded_count,):
        raise ValueError(f"expected shape ({layout.padded_count},), got {rotated_P.shape}")
    with one_thread():
        blocks_SLR = torch.from_numpy(rotated_P).view(
            layout.super_blocks, layout.column_length, layout.columns
        )
        along_SLR = _hadamard_columns(blocks_SLR)
        blocks_SLR = torch.matmul(along_SLR, _cosine(layout.columns))
        padded_P = blocks_SLR.view(layout.super_blocks, -1).T.reshape(-1)
        padded_P *= _signs(seed, layout.padded_count)
        vector_N: Float32Vector = padded_P[:parameter_count].numpy()
    return vector_N


def _hadamard_columns(blocks_SLR: torch.Tensor) -> torch.Tensor:
    """Hadamard down every column, by two matrix products: H of length 2**(a+b) is H_a (x) H_b."""
    super_blocks, length, columns = blocks_SLR.shape
    exponent = length.bit_length() - 1
    outer, inner = exponent // 2, exponent - exponent // 2
    low = torch.matmul(_hadamard(inner), blocks_SLR.reshape(-1, 1 << inner, columns))
    return torch.matmul(
        _hadamard(outer), low.view(super_blocks, 1 << outer, (1 << inner) * columns)
    ).view(super_blocks, length, columns)


@functools.lru_cache(maxsize=8)
def _hadamard(exponent: int) -> torch.Tensor:
    """Orthonormal, symmetric, shape (2**exponent, 2**exponent)."""
    matrix = np.ones((1, 1), np.float64)
    for _ in range(exponent):
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return torch.from_numpy((matrix * 2.0 ** (-exponent / 2)).astype(np.float32))


@functools.lru_cache(maxsize=8)
def _cosine(rows: int) -> torch.Tensor:
    """The orthonormal DCT-II, shape (R, R)."""
    k, n = np.arange(rows)[:, None], np.arange(rows)[None, :]
    matrix = np.sqrt(2.0 / rows) * np.cos(np.pi * (2 * n + 1) * k / (2 * rows))
    matrix[0] = np.sqrt(1.0 / rows)
    return torch.from_numpy(matrix.astype(np.float32))


@functools.lru_cache(maxsize=4)
def _signs(seed: bytes, padded_count: int) -> torch.Tensor:
    """+1 and -1, shape (P,); every vehicle of a shard has the same."""
    drawn = public_bytes(seed, "convoy rotation/1", -(-padded_count // 8))
    bits: NDArray[np.uint8] = np.unpackbits(drawn)[:padded_count]
    return torch.from_numpy(1.0 - 2.0 * bits.astype(np.float32)).to(torch.float32)
