"""The seam between an update as numbers and an update as bytes: what every update codec offers.

A codec encodes on the vehicle; on the server its accumulator takes payloads one at a time into a
sum, without ever holding more than one. Masked updates (masked.py) do not pass here: nobody can decode
a single one of them.
"""

# Shapes: N parameters.

from dataclasses import dataclass
from typing import Literal, Protocol

from convoy_compression.update.float16 import Float16Codec
from convoy_compression.update.float32 import Float32Codec
from convoy_compression.update.sealed import SealedCodec
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


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateConfig:
    """How updates and models travel; section [update].

    Attributes:
        codec: "masked" hides every update in the sum of a shard; "sealed" is smaller and shows single
            updates to the aggregator; "float16" and "float32" hide nothing.
        modulus_bits: Bits that a parameter takes in a masked update, in 2..16; a parameter of the
            sum is as exact as they allow. With shards of 50, 5 or more.
        helpers: Mask helpers of every masked sum, at most 8: vehicles then mask for them and upload once,
            and a vehicle that is lost costs nothing, but a helper that is lost costs the sum. 0: vehicles
            mask pairwise with each other.
        shard_size: Most vehicles whose masked updates are summed together, at most 128; with helpers at
            most 4096.
        minimum_cohort: Vehicles in a masked sum, at least 2; a sum of fewer is not made.
        exchange_deadline_s: Seconds for each exchange of a masked sum: four, or two with helpers. A stock
            SuperNode starts a process for every message, 10 to 20 s each: behind these, 60 or more.
        range_slack: Room in a masked sum over what the sum before it took, at least 1.
        max_attempts: Times that a masked sum is tried, each with twice the range of the one before; at
            most 4, what vehicles agree to.
        sealed_step: Rounding of a sealed update, in units of its root mean square.
        sealing_suite: Key exchange of sealed updates; "mlkem768-x25519" also withstands quantum
            computers, for 1.1 kB more.
        downlink: "delta" sends the difference to the model that a vehicle has; "full" all of it.
        downlink_step: Rounding of that difference, in units of its root mean square.
    """

    codec: Literal["masked", "sealed", "float16", "float32"] = "masked"
    modulus_bits: int = 5
    helpers: int = 0
    shard_size: int = 50
    minimum_cohort: int = 3
    exchange_deadline_s: float = 20.0
    range_slack: float = 1.3
    max_attempts: int = 4
    sealed_step: float = 2.0
    sealing_suite: Literal["x25519", "mlkem768-x25519"] = "x25519"
    downlink: Literal["delta", "full"] = "delta"
    downlink_step: float = 0.25

    def __post_init__(self) -> None:
        for name, low, high in (
            ("modulus_bits", 2, 16),
            ("helpers", 0, 8),
            ("shard_size", 2, 4096 if self.helpers else 128),
            ("minimum_cohort", 2, 128),
            ("exchange_deadline_s", 1.0, 1e5),
            ("range_slack", 1.0, 100.0),
            ("max_attempts", 1, 4),
            ("sealed_step", 1e-3, 100.0),
            ("downlink_step", 1e-3, 10.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must be in {low}..{high:g}, got {value}")
        if self.minimum_cohort > self.shard_size:
            raise ValueError(
                f"minimum_cohort must be at most shard_size ({self.shard_size}), "
                f"got {self.minimum_cohort}"
            )

        if self.helpers and self.codec != "masked":
            raise ValueError(f"helpers mask updates: codec must be masked, got {self.codec}")

    @property
    def mask_source(self) -> Literal["peers", "helpers"] | None:
        """With whom vehicles agree on masks; None where nothing is masked."""
        if self.codec != "masked":
            return None
        return "helpers" if self.helpers else "peers"

    @property
    def wire_name(self) -> str:
        """The codec's name on the wire, for example "masked/1"."""
        return f"{self.codec}/1"


def codec_on_wire(name: str, settings: UpdateConfig) -> UpdateCodec:
    """The codec of updates that travel one by one, by its name on the wire, for example "sealed/1".

    Raises:
        ValueError: There is none of that name.
    """
    codecs: tuple[UpdateCodec, ...] = (
        SealedCodec(settings.sealed_step),
        Float16Codec(),
        Float32Codec(),
    )
    for codec in codecs:
        if codec.name == name:
            return codec
    known = ", ".join(codec.name for codec in codecs)
    raise ValueError(f"codec must be one of {known}, got {name!r}")
