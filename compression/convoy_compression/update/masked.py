"""The masked codec's numbers: an update as integers modulo 2**m, of which only the sum must fit.

    update -> rotate -> / step -> + public dither -> floor -> modulo 2**m

A single update may wrap around; the sum of a shard must not, beyond a rare tail. So the step follows
from the expected sum (range_control) and not from one update, which saves the bits that a bound on
every update would take.

The dither is public and shifted from vehicle to vehicle along the golden ratio: u = frac(U + slot *
0.618...), U uniform for each coordinate. Over the vehicles of a shard the u are spread evenly, so
that rounding errors cancel (a relative of correlated quantization: Suresh et al., ICML 2022), nothing
private is drawn, and the same update always becomes the same integers: a retry repeats its bytes.

No keys here: masks are added to the lanes between `quantize` and `pack` (convoy_privacy.secure_sum).
"""

# Shapes: N parameters, P padded lanes.

import functools
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from convoy_compression.errors import InvalidUpdateError
from convoy_compression.update.bit_packing import Lanes, lane_type, pack, packed_bytes, unpack
from convoy_compression.update.public_bytes import public_bytes
from convoy_compression.update.rotation import layout_of, rotate, rotate_back
from convoy_compression.update.vector import Float32Vector
from convoy_protos.v1.secure_sum_pb2 import SumTerms

OVERFLOW_WRAP_RATIO: Final = 0.30
"""A sum whose spread fills more than this of the range has wrapped: right is 1 / z = .24, uniform .577.
Where rounding alone takes much of the range the limit is higher: `overflow_limit`."""
_HOPELESS_WRAP_RATIO: Final = 0.50
"""Less than half of the sum is left."""

_GOLDEN: Final = 40_503
"""Of 65,536: the golden ratio's fraction; odd, so that 65,536 slots all get another shift."""
_LARGEST_LANE: Final = 2.0**30


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedSum:
    """What a sum of lanes says.

    Attributes:
        sum_N: float32, shape (N,), in parameter units.
        rms: Of a rotated coordinate of the sum, in parameter units, rounding errors included.
        wrap_ratio: Spread over range.
        limit: Of that; above it the sum is of no use.
    """

    sum_N: Float32Vector
    rms: float
    wrap_ratio: float
    limit: float

    @property
    def overflowed(self) -> bool:
        """Whether the sum has wrapped too often to be applied."""
        return not self.wrap_ratio <= self.limit


def overflow_limit(modulus_bits: int, vehicles: int) -> float:
    """Spread over range above which a sum is of less use than one made again with twice the range.

    In squared steps, a coordinate that wraps is off by (2**m)**2; a fraction 2 Q(1 / ratio) of them do,
    Q being the tail of the normal distribution. Twice the range takes that away and adds three times
    the rounding error of all vehicles, 1/12 each. With few bits and many vehicles that is the worse.
    """
    worth_it = vehicles / 4.0 / (2.0 * float(1 << 2 * modulus_bits))
    if not worth_it < 0.5:
        return _HOPELESS_WRAP_RATIO
    even = 1.0 / NormalDist().inv_cdf(1.0 - worth_it)
    return min(_HOPELESS_WRAP_RATIO, max(OVERFLOW_WRAP_RATIO, even))


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedFormat:
    """How the updates of one sum become lanes.

    Attributes:
        parameter_count: N; 0 where counters are summed alone.
        modulus_bits: m, in 1..16.
        step: Of the quantizer, in parameter units; positive.
        seed: 32 public bytes, for signs and dither.
    """

    parameter_count: int
    modulus_bits: int
    step: float
    seed: bytes

    @classmethod
    def of(cls, terms: SumTerms) -> "MaskedFormat":
        """As the terms of a sum have it; who calls has checked them."""
        return cls(
            parameter_count=terms.parameter_count,
            modulus_bits=terms.modulus_bits,
            step=terms.step,
            seed=terms.codec_seed,
        )

    def __post_init__(self) -> None:
        lane_type(self.modulus_bits)
        if self.parameter_count:
            layout_of(self.parameter_count)
        if not 0.0 < self.step < math.inf:
            raise ValueError(f"step must be positive and finite, got {self.step}")
        if len(self.seed) != 32:
            raise ValueError(f"seed must have 32 bytes, got {len(self.seed)}")

    @property
    def padded_count(self) -> int:
        """P, lanes."""
        return self.parameter_count and layout_of(self.parameter_count).padded_count

    @property
    def lane_type(self) -> type[np.uint8 | np.uint16]:
        """The type whose overflow adds modulo a multiple of 2**m."""
        return lane_type(self.modulus_bits)

    @property
    def payload_bytes(self) -> int:
        """Length of packed lanes, exactly."""
        return packed_bytes(self.padded_count, self.modulus_bits)

    def quantize(self, update_N: Float32Vector, slot: int) -> Lanes:
        """Lanes of an update, shape (P,); only their low m bits count.

        Args:
            update_N: float32, shape (N,); already clipped and weighted.
            slot: The vehicle's place in the shard, from 1; another one for each.

        Raises:
            InvalidUpdateError: An entry is NaN, infinite or absurdly large for the step.
        """
        if update_N.shape != (self.parameter_count,):
            raise ValueError(f"expected shape ({self.parameter_count},), got {update_N.shape}")
        if not np.isfinite(update_N).all():
            raise InvalidUpdateError("the update holds NaN or infinite values")
        if not self.parameter_count:
            return np.zeros(0, self.lane_type)
        scaled_P = rotate(np.ascontiguousarray(update_N, np.float32), self.seed)
        with np.errstate(over="ignore", invalid="ignore"):
            scaled_P *= np.float32(1.0 / self.step)
            scaled_P += self._dither(slot)
        np.floor(scaled_P, out=scaled_P)
        # NaN fails the comparison too: infinities may cancel in the rotation.
        if not max(-float(scaled_P.min()), float(scaled_P.max())) < _LARGEST_LANE:
            raise InvalidUpdateError(f"the update is absurdly large for a step of {self.step:g}")
        lanes: Lanes = scaled_P.astype(np.int32).astype(self.lane_type)
        return lanes

    def pack(self, lanes_P: Lanes) -> bytes:
        """The low m bits of every lane."""
        return pack(lanes_P, self.modulus_bits)

    def unpack(self, payload: memoryview | bytes) -> Lanes:
        """Lanes from an untrusted payload; may be a read-only view.

        Raises:
            PayloadLengthError: Its length is not `payload_bytes`.
        """
        return unpack(payload, self.padded_count, self.modulus_bits)

    def decode(self, sum_P: Lanes, vehicles: int) -> DecodedSum:
        """The sum of so many updates behind a sum of lanes without masks."""
        limit = overflow_limit(self.modulus_bits, vehicles)
        if not self.parameter_count:
            return DecodedSum(sum_N=np.zeros(0, np.float32), rms=0.0, wrap_ratio=0.0, limit=limit)
        modulus = 1 << self.modulus_bits
        half = modulus // 2
        lanes_P = sum_P.astype(np.int32)
        centred_P = ((lanes_P + half) & (modulus - 1)) - half
        values_P = centred_P.astype(np.float32)
        rms = math.sqrt(
            float(np.einsum("i,i->", values_P, values_P, dtype=np.float64)) / values_P.size
        )
        values_P *= np.float32(self.step)
        return DecodedSum(
            sum_N=rotate_back(values_P, self.parameter_count, self.seed),
            rms=rms * self.step,
            wrap_ratio=rms / half,
            limit=limit,
        )

    def _dither(self, slot: int) -> Float32Vector:
        """In (0, 1), shape (P,)."""
        shift = np.uint16(slot * _GOLDEN % 65_536)
        shifted_P = _uniform_16(self.seed, self.padded_count) + shift
        dither_P: Float32Vector = shifted_P.astype(np.float32)
        dither_P += np.float32(0.5)
        dither_P *= np.float32(2.0**-16)
        return dither_P


class LaneSum:
    """The running sum of a shard, one upload in memory at a time; no order changes a byte of it."""

    def __init__(self, lanes: MaskedFormat) -> None:
        self._sum_P: Lanes = np.zeros(lanes.padded_count, lanes.lane_type)

    @property
    def lanes_P(self) -> Lanes:  # noqa: N802 - its axes
        """The sum, modulo the size of the lane type."""
        return self._sum_P

    def add(self, lanes_P: Lanes) -> None:
        """Add one upload."""
        np.add(self._sum_P, lanes_P, out=self._sum_P)

    def subtract(self, lanes_P: Lanes) -> None:
        """Take masks out."""
        np.subtract(self._sum_P, lanes_P, out=self._sum_P)


@functools.lru_cache(maxsize=2)
def _uniform_16(seed: bytes, padded_count: int) -> NDArray[np.uint16]:
    """U for each coordinate, uint16, shape (P,); every vehicle of a shard has the same."""
    return public_bytes(seed, "convoy dither/1", 2 * padded_count).view("<u2")
