"""Which global model each vehicle has, and the shortest way from there to the one it needs.

A model goes down whole, as the difference to the model before, or not at all where the vehicle has it
already. Vehicles that hold the same model get the same bytes, which Flower stores once.

A vehicle counts as having a model once it has answered a message that brought it. One that lost it
says so, sits out, and gets the whole model next time.
"""

# Shapes: N parameters.

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Array, RecordDict
from numpy.typing import NDArray

from convoy_compression.update.model_delta import apply_delta, encode_delta
from convoy_protos.flower_messages import instructions_content, model_array, model_delta_array
from convoy_protos.v1.federation_pb2 import RoundInstructions

Float32Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedModel:
    """A global model and how to get there.

    Attributes:
        model_N: float32, shape (N,).
        digest: Its SHA-256.
        base_digest: Of the model that `delta` starts from; empty where there is no delta.
        delta: As convoy_compression.update.model_delta writes it.
    """

    model_N: Float32Vector
    digest: bytes
    base_digest: bytes = b""
    delta: bytes = b""


def step_to(
    new_N: Float32Vector, base_N: Float32Vector, downlink_step: float
) -> tuple[Float32Vector, bytes]:
    """The next global model, and the difference that leads every vehicle to exactly that.

    The difference is rounded, so the model becomes what base and difference make, to the last bit.

    Returns:
        The model and the delta; `new_N` itself and no delta where that would not be smaller.
    """
    delta = encode_delta(new_N, base_N, downlink_step)
    if delta is None:
        return new_N, b""
    return apply_delta(base_N, memoryview(delta)), delta


@dataclass(slots=True)
class ModelHolders:
    """Which model each vehicle has.

    Attributes:
        held: Digests by vehicle id.
        always_full: Send whole models whatever vehicles have.
    """

    held: dict[str, bytes] = field(default_factory=dict)
    always_full: bool = False

    def contents(
        self, instructions: RoundInstructions, model: PublishedModel, vehicles: Iterable[str]
    ) -> dict[str, RecordDict]:
        """What to send to each vehicle; the same object for all that get the same."""
        by_base: dict[bytes, RecordDict] = {}
        contents = {}
        for vehicle in vehicles:
            base = self._base(vehicle, model)
            if base not in by_base:
                by_base[base] = _content(instructions, model, base)
            contents[vehicle] = by_base[base]
        return contents

    def answered(self, vehicle: str, digest: bytes) -> None:
        """The vehicle has worked with the model."""
        self.held[vehicle] = digest

    def failed(self, vehicle: str) -> None:
        """The vehicle may have lost its model."""
        self.held.pop(vehicle, None)

    def useful(self, model: PublishedModel) -> dict[str, bytes]:
        """What is worth remembering once `model` is the global one."""
        ways = {model.digest, model.base_digest}
        return {name: digest for name, digest in sorted(self.held.items()) if digest in ways}

    def _base(self, vehicle: str, model: PublishedModel) -> bytes:
        held = b"" if self.always_full else self.held.get(vehicle, b"")
        known = held == model.digest or (model.delta and held == model.base_digest)
        return held if known else b""


def hex_digests(held: Mapping[str, bytes]) -> dict[str, str]:
    """For the checkpoint."""
    return {name: digest.hex() for name, digest in held.items()}


def from_hex_digests(table: Mapping[str, str]) -> dict[str, bytes]:
    """The inverse of `hex_digests`."""
    return {name: bytes.fromhex(digest) for name, digest in table.items()}


def _content(instructions: RoundInstructions, model: PublishedModel, base: bytes) -> RecordDict:
    own = RoundInstructions()
    own.CopyFrom(instructions)
    own.base_digest = base
    return instructions_content(own, _array(model, base))


def _array(model: PublishedModel, base: bytes) -> Array:
    if not base:
        return model_array(model.model_N)
    return model_delta_array(b"" if base == model.digest else model.delta)
