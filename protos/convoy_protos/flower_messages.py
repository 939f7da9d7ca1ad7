"""Where our messages sit inside Flower's records; the only agreement between server and vehicle.

message type     content, server to vehicle             content, vehicle to server
query.profile    -                                      "profile": VehicleProfile
train            "instructions", "model"                "update": envelope
evaluate         "instructions", "model"                "evaluation": Evaluation

Protobuf messages ride as bytes in a ConfigRecord under the key "protobuf"; the model and the update
as one Array of an own serialization type, which no stock Flower code can misread as weights.
"""

from typing import TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage
from numpy.typing import NDArray

from convoy_protos.errors import MalformedMessageError
from convoy_protos.v1.federation_pb2 import Evaluation, RoundInstructions, VehicleProfile

M = TypeVar("M", bound=ProtobufMessage)

QUERY_PROFILE = "query.profile"
TRAIN = "train"
EVALUATE = "evaluate"

MODEL_STYPE = "convoy.model/1"
"""float32 little-endian, the global model's parameters in schema order."""
UPDATE_STYPE = "convoy.update/1"
"""An update envelope; see convoy_protos.envelope."""


def instructions_content(instructions: RoundInstructions, model: Array) -> RecordDict:
    """What goes down for `train` and `evaluate`; `model` comes from `model_array`."""
    return RecordDict(
        {"instructions": _protobuf_record(instructions), "model": ArrayRecord({"packed": model})}
    )


def read_instructions(content: RecordDict) -> tuple[RoundInstructions, NDArray[np.float32]]:
    """The instructions and the global model, float32, shape (N,), a read-only view.

    Raises:
        MalformedMessageError: A record is missing or does not parse.
    """
    instructions = _read_protobuf(content, "instructions", RoundInstructions)
    packed = _read_array(content, "model", "packed", MODEL_STYPE)
    if len(packed) % 4:
        raise MalformedMessageError(f"a float32 model cannot have {len(packed)} bytes")
    return instructions, np.frombuffer(packed, "<f4")


def model_array(model_N: NDArray[np.float32]) -> Array:
    """The global model as one packed array; build it once a round and share it."""
    data = np.ascontiguousarray(model_N, "<f4").tobytes()
    return Array("float32", (model_N.size,), MODEL_STYPE, data)


def update_content(envelope: bytes) -> RecordDict:
    """What comes back from `train`."""
    array = Array("uint8", (len(envelope),), UPDATE_STYPE, envelope)
    return RecordDict({"update": ArrayRecord({"envelope": array})})


def read_update(content: RecordDict) -> bytes:
    """The envelope as it was sent, unread.

    Raises:
        MalformedMessageError: The record is missing or of another type.
    """
    return _read_array(content, "update", "envelope", UPDATE_STYPE)


def evaluation_content(evaluation: Evaluation) -> RecordDict:
    """What comes back from `evaluate`."""
    return RecordDict({"evaluation": _protobuf_record(evaluation)})


def read_evaluation(content: RecordDict) -> Evaluation:
    """Parse; the numbers are not checked here.

    Raises:
        MalformedMessageError: The record is missing or does not parse.
    """
    return _read_protobuf(content, "evaluation", Evaluation)


def profile_content(profile: VehicleProfile) -> RecordDict:
    """What comes back from `query.profile`."""
    return RecordDict({"profile": _protobuf_record(profile)})


def read_profile(content: RecordDict) -> VehicleProfile:
    """Parse; the numbers are not checked here.

    Raises:
        MalformedMessageError: The record is missing or does not parse.
    """
    return _read_protobuf(content, "profile", VehicleProfile)


def content_bytes(content: RecordDict) -> int:
    """Bytes of a message's content on the wire: array data and protobuf, without Flower's framing."""
    total = 0
    for record in content.values():
        if isinstance(record, ArrayRecord):
            total += sum(len(array.data) for array in record.values())
        elif isinstance(record, ConfigRecord):
            total += sum(len(value) for value in record.values() if isinstance(value, bytes))
    return total


def _protobuf_record(message: ProtobufMessage) -> ConfigRecord:
    return ConfigRecord({"protobuf": message.SerializeToString(deterministic=True)})


def _read_protobuf(content: RecordDict, name: str, kind: type[M]) -> M:
    record = content.get(name)
    encoded = record.get("protobuf") if isinstance(record, ConfigRecord) else None
    if not isinstance(encoded, bytes):
        raise MalformedMessageError(f"the message has no {name!r} record")
    message = kind()
    try:
        message.ParseFromString(encoded)
    except DecodeError as error:
        raise MalformedMessageError(f"the {name!r} record does not parse") from error
    return message


def _read_array(content: RecordDict, name: str, key: str, stype: str) -> bytes:
    record = content.get(name)
    array = record.get(key) if isinstance(record, ArrayRecord) else None
    if not isinstance(array, Array) or array.stype != stype:
        raise MalformedMessageError(f"the message has no {name!r} record of type {stype}")
    return array.data
