"""The part of a parameter vector that training changes; frozen layers are neither sent nor masked."""

# Shapes: N parameters of the network, M of them not frozen.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from convoy_compression.update.vector import Float32Vector


@dataclass(frozen=True, slots=True)
class ChangedPart:
    """Takes the M changing parameters out of a vector of N, and puts them back.

    Attributes:
        parameter_count: N.
        slices: Where they stand, in ascending order, none overlapping another.
    """

    parameter_count: int
    slices: tuple[slice, ...]

    @property
    def size(self) -> int:
        """M."""
        return sum(part.stop - part.start for part in self.slices)

    def gather(self, vector_N: Float32Vector) -> Float32Vector:
        """The changing parameters, shape (M,); the vector itself where nothing is frozen."""
        _check_shape(vector_N, self.parameter_count)
        if self.size == self.parameter_count:
            return vector_N
        return np.concatenate([vector_N[part] for part in self.slices])

    def scatter(self, vector_M: Float32Vector) -> Float32Vector:
        """Shape (N,), zero where frozen; the vector itself where nothing is frozen."""
        _check_shape(vector_M, self.size)
        if self.size == self.parameter_count:
            return vector_M
        vector_N = np.zeros(self.parameter_count, np.float32)
        start = 0
        for part in self.slices:
            stop = start + part.stop - part.start
            vector_N[part] = vector_M[start:stop]
            start = stop
        return vector_N


def changed_part(
    names: Sequence[str], sizes: Sequence[int], frozen_prefixes: Sequence[str] = ()
) -> ChangedPart:
    """The part that is left to train.

    Args:
        names: Parameters in the order of the vector.
        sizes: Numbers in each.
        frozen_prefixes: Parameters whose name starts with one of these are frozen.

    Raises:
        ValueError: Every parameter is frozen, a prefix names none, or the names do not match the sizes.
    """
    if len(names) != len(sizes):
        raise ValueError(f"{len(names)} names but {len(sizes)} sizes")
    for prefix in frozen_prefixes:
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(f"no parameter starts with {prefix!r}; there are {list(names)}")
    part = ChangedPart(sum(sizes), tuple(_slices(names, sizes, tuple(frozen_prefixes))))
    if not part.size:
        raise ValueError(f"no parameter is left to train; frozen are {list(frozen_prefixes)}")
    return part


def _slices(
    names: Sequence[str], sizes: Sequence[int], frozen_prefixes: tuple[str, ...]
) -> Iterator[slice]:
    start = 0
    for name, size in zip(names, sizes, strict=True):
        if not name.startswith(frozen_prefixes):
            yield slice(start, start + size)
        start += size


def _check_shape(vector: Float32Vector, count: int) -> None:
    if vector.shape != (count,):
        raise ValueError(f"expected shape ({count},), got {vector.shape}")
