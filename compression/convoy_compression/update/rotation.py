"""A public random rotation: spreads an update evenly over all coordinates before it is rounded.

Random signs, then cosine transforms (DCT-II) across the rows of a super-block and a Hadamard
transform inside each row: the randomized Hadamard transform of Suresh et al., ICML 2017, section 4,
with rows of 4096 so that padding stays below one row for each super-block, where one transform over
the next power of two would pad up to half of the vector.

R rows stand as A times B, with a transform along each side: a third of the time that one of length R
takes. (A prime R is its own transform.) Unlike Hadamard's, the entries of a cosine transform are not
all of one size: were each row a part of one layer, some coordinates would spread more widely than
others and leave the range early (on updates of SGD: a fifth more error with 8 bits). So the vector is
dealt out like cards, 16 parameters at a time, first to the super-blocks and then to their rows: each
gets its share of every layer.

The rotation need not be the same to the last bit on two machines: what must be exact is drawn from
bytes (the signs) or rounded afterwards.
"""

# Shapes: N parameters, P padded, S super-blocks of R = A * B rows of L coordinates; L is 2**(a + b),
# or D hands of C parameters.

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from convoy_compression.update.one_thread import one_thread
from convoy_compression.update.public_bytes import public_bytes
from convoy_compression.update.vector import Float32Vector

_LONGEST_ROW: Final = 4096
_SHORTEST_ROW: Final = 64
_MOST_ROWS: Final = 256
_DEALT: Final = 16


@dataclass(frozen=True, slots=True)
class Layout:
    """How N parameters lie in S super-blocks of R rows of L coordinates."""

    super_blocks: int
    rows: int
    row_length: int

    @property
    def padded_count(self) -> int:
        """P."""
        return self.super_blocks * self.rows * self.row_length


def layout_of(parameter_count: int) -> Layout:
    """The layout for N parameters, at least 1."""
    if parameter_count < 1:
        raise ValueError(f"parameter_count must be at least 1, got {parameter_count}")
    row_length = min(_LONGEST_ROW, max(_SHORTEST_ROW, 1 << (parameter_count - 1).bit_length()))
    rows = math.ceil(parameter_count / row_length)
    super_blocks = math.ceil(rows / _MOST_ROWS)
    return Layout(super_blocks, math.ceil(rows / super_blocks), row_length)


def rotate(vector_N: Float32Vector, seed: bytes) -> Float32Vector:
    """The rotated vector, float32, shape (P,), of the same 2-norm."""
    layout = layout_of(vector_N.size)
    padded_P = torch.zeros(layout.padded_count)
    padded_P[: vector_N.size] = torch.from_numpy(vector_N)
    with one_thread():
        padded_P *= _signs(seed, layout.padded_count)
        across_SRL = _across_rows(_deal(padded_P, layout), _cosine)
        rotated_P: Float32Vector = _hadamard_rows(across_SRL).reshape(-1).numpy()
    return rotated_P


def rotate_back(rotated_P: Float32Vector, parameter_count: int, seed: bytes) -> Float32Vector:
    """The inverse of `rotate`, float32, shape (N,)."""
    layout = layout_of(parameter_count)
    if rotated_P.shape != (layout.padded_count,):
        raise ValueError(f"expected shape ({layout.padded_count},), got {rotated_P.shape}")
    with one_thread():
        rows_SRL = torch.from_numpy(rotated_P).view(
            layout.super_blocks, layout.rows, layout.row_length
        )
        across_SRL = _hadamard_rows(rows_SRL)
        padded_P = _collect(_across_rows(across_SRL, _inverse_cosine), layout)
        padded_P *= _signs(seed, layout.padded_count)
        vector_N: Float32Vector = padded_P[:parameter_count].numpy()
    return vector_N


def _deal(padded_P: torch.Tensor, layout: Layout) -> torch.Tensor:
    """To super-blocks and rows, shape (S, R, L)."""
    dealt_DRSC = padded_P.view(-1, layout.rows, layout.super_blocks, _DEALT)
    return dealt_DRSC.permute(2, 1, 0, 3).reshape(
        layout.super_blocks, layout.rows, layout.row_length
    )


def _collect(rows_SRL: torch.Tensor, layout: Layout) -> torch.Tensor:
    """The inverse of `_deal`, shape (P,)."""
    dealt_SRDC = rows_SRL.view(layout.super_blocks, layout.rows, -1, _DEALT)
    return dealt_SRDC.permute(2, 1, 0, 3).reshape(-1)


def _across_rows(rows_SRL: torch.Tensor, transform: Callable[[int], torch.Tensor]) -> torch.Tensor:
    """One transform along A and one along B of the rows, which stand as A times B."""
    _, rows, length = rows_SRL.shape
    outer = next(size for size in range(math.isqrt(rows), 0, -1) if rows % size == 0)
    inner = rows // outer
    along_inner = torch.matmul(transform(inner), rows_SRL.reshape(-1, inner, length))
    along_both = torch.matmul(transform(outer), along_inner.view(-1, outer, inner * length))
    return along_both.view(rows_SRL.shape)


def _hadamard_rows(rows_SRL: torch.Tensor) -> torch.Tensor:
    """Hadamard inside every row, by two matrix products: H of length 2**(a+b) is H_a (x) H_b."""
    exponent = rows_SRL.shape[-1].bit_length() - 1
    outer, inner = exponent // 2, exponent - exponent // 2
    squares = rows_SRL.reshape(-1, 1 << outer, 1 << inner)
    product = torch.matmul(_hadamard(outer), torch.matmul(squares, _hadamard(inner)))
    return product.view(rows_SRL.shape)


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


def _inverse_cosine(rows: int) -> torch.Tensor:
    return _cosine(rows).T


@functools.lru_cache(maxsize=4)
def _signs(seed: bytes, padded_count: int) -> torch.Tensor:
    """+1 and -1, shape (P,); every vehicle of a shard has the same."""
    drawn = public_bytes(seed, "convoy rotation/1", -(-padded_count // 8))
    bits: NDArray[np.uint8] = np.unpackbits(drawn)[:padded_count]
    return torch.from_numpy(1.0 - 2.0 * bits.astype(np.float32)).to(torch.float32)
