"""The seam between an update as numbers and an update as bytes: what every update codec offers.

A codec encodes on the vehicle; on the server its accumulator takes payloads one at a time into a
sum, without ever holding more than one. Codecs whose payloads can be added before they are decoded
(masked, quantized) decode once, in `mean`.
"""

# Shapes: N parameters.

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from convoy_compression.update.float32 import Float32Codec
from convoy_compression.update.vector import Float32Vector


class UpdateAccumulator(Protocol):
    """The running weighted sum of one round."""

    @property
    def count(self) -> int:
        """Updates in the sum."""

    @property
    def total_weight(self) -> float:
        """Sum of their weights."""

    def add(self, payload: memoryview, weight: float) -> None:
        """Add weight times the update, or leave the sum as it is, to the last bit.

        Args:
            payload: What `encode` wrote, from an untrusted peer; not kept.
            weight: Positive and finite.

        Raises:
            CorruptPayloadError: The payload is not what this codec writes.
            InvalidUpdateError: The update holds NaN, infinite or absurdly large values.
        """

    def mean(self) -> Float32Vector:
        """The weighted mean, float32, shape (N,); ends the accumulator's life.

        Raises:
            ValueError: Nothing was added.
        """


class UpdateCodec(Protocol):
    """One way to write an update."""

    @property
    def name(self) -> str:
        """Name and version on the wire, for example "float32/1"."""

    def encode(self, update_N: Float32Vector) -> bytes:
        """The payload for a finite update, float32, shape (N,)."""

    def payload_limit(self, parameter_count: int) -> int:
        """The most bytes a payload for so many parameters may have."""

    def accumulator(self, parameter_count: int) -> UpdateAccumulator:
        """An empty sum."""


CODECS: Final[Mapping[str, UpdateCodec]] = MappingProxyType({"float32": Float32Codec()})
"""By the name used in scenarios; `UpdateCodec.name` is the one on the wire."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateConfig:
    """How updates travel; section [update].

    Attributes:
        codec: "float32" sends them as they are, four bytes a parameter.
    """

    codec: str = "float32"

    def __post_init__(self) -> None:
        codec_for(self.codec)


def codec_for(name: str) -> UpdateCodec:
    """The codec a scenario names, for example "float32".

    Raises:
        ValueError: There is none of that name.
    """
    if name not in CODECS:
        raise ValueError(f"codec must be one of {', '.join(CODECS)}, got {name!r}")
    return CODECS[name]


def codec_on_wire(name: str) -> UpdateCodec:
    """The codec that round instructions name, for example "float32/1".

    Raises:
        ValueError: There is none of that name.
    """
    for codec in CODECS.values():
        if codec.name == name:
            return codec
    known = ", ".join(codec.name for codec in CODECS.values())
    raise ValueError(f"codec must be one of {known}, got {name!r}")
