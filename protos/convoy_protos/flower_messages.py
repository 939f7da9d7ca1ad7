"""Where our messages sit inside Flower's records; the only agreement between server and vehicle.

message type     content, server to vehicle             content, vehicle to server
query.profile    -                                      "profile": VehicleProfile
query.ranges     "calibration": CalibrationRequest      "ranges": CalibrationRanges
query.certainty  "instructions", "model"                "certainty": CertaintyCounts
train            "instructions", "model"                "update": envelope, or "trained": Trained
train.check_in   "request": SumTerms                    "answer": CheckIn
train.share      "request": Roster                      "answer": SealedShares
train.upload     "request": ShareDelivery               "update": envelope
train.unmask     "request": UnmaskRequest               "answer": UnmaskReply
train.helped     "request": SumTerms                    "update": envelope, "answer": HelperSeeds
query.mask_sum   "request": HelperRequest               "answer": HelperReply
evaluate         "instructions", "model"                "evaluation": Evaluation

Updates that are summed under masks take the way of `trained` and the four exchanges after it; or, with
mask helpers, `train.helped` alone, and then every helper gets `query.mask_sum`. All others come with the
reply to `train`. The model is whole, or the difference to one the vehicle has.

Protobuf messages ride as bytes in a ConfigRecord under the key "protobuf"; the model and the update
as one Array of an own serialization type, which no stock Flower code can misread as weights.
"""

import hashlib
from typing import TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage
from numpy.typing import NDArray

from convoy_protos.errors import MalformedMessageError
from convoy_protos.v1.federation_pb2 import (
    CalibrationRanges,
    CalibrationRequest,
    CertaintyCounts,
    Evaluation,
    RoundInstructions,
    Trained,
    VehicleProfile,
)

M = TypeVar("M", bound=ProtobufMessage)

NOT_NOW = "not now: "
"""How the reason of a device begins that declines; its own choice, no failure."""

QUERY_PROFILE = "query.profile"
QUERY_RANGES = "query.ranges"
QUERY_CERTAINTY = "query.certainty"
TRAIN = "train"
CHECK_IN = "train.check_in"
SHARE = "train.share"
UPLOAD = "train.upload"
UNMASK = "train.unmask"
HELPED_UPLOAD = "train.helped"
MASK_SUM = "query.mask_sum"
EVALUATE = "evaluate"

MODEL_STYPE = "convoy.model/1"
"""float32 little-endian, the global model's parameters in schema order."""
MODEL_DELTA_STYPE = "convoy.model-delta/1"
"""What convoy_compression.update.model_delta writes; empty where the vehicle has the model already."""
UPDATE_STYPE = "convoy.update/1"
"""An update envelope; see convoy_protos.envelope."""


def instructions_content(instructions: RoundInstructions, model: Array) -> RecordDict:
    """What goes down for `train` and `evaluate`; `model` comes from `model_array`."""
    return RecordDict(
        {"instructions": _protobuf_record(instructions), "model": ArrayRecord({"packed": model})}
    )


def read_instructions(content: RecordDict) -> RoundInstructions:
    """What to do in this round.

    Raises:
        MalformedMessageError: The record is missing or does not parse.
    """
    return _read_protobuf(content, "instructions", RoundInstructions)


def instructions_digest(content: RecordDict) -> bytes:
    """SHA-256 of the instructions as they travelled.

    Raises:
        MalformedMessageError: The record is missing.
    """
    return hashlib.sha256(_read_bytes(content, "instructions")).digest()


def read_model(content: RecordDict) -> NDArray[np.float32]:
    """The whole global model, float32, shape (N,), a read-only view.

    Raises:
        MalformedMessageError: The record is missing, or holds a difference.
    """
    packed = _read_array(content, "model", "packed", MODEL_STYPE)
    if len(packed) % 4:
        raise MalformedMessageError(f"a float32 model cannot have {len(packed)} bytes")
    return np.frombuffer(packed, "<f4")


def read_model_delta(content: RecordDict) -> bytes:
    """The difference to the model that the instructions call the base; empty where it is that model.

    Raises:
        MalformedMessageError: The record is missing, or holds a whole model.
    """
    return _read_array(content, "model", "packed", MODEL_DELTA_STYPE)


def model_array(model_N: NDArray[np.float32]) -> Array:
    """The global model as one packed array; build it once a round and share it."""
    data = np.ascontiguousarray(model_N, "<f4").tobytes()
    return Array("float32", (model_N.size,), MODEL_STYPE, data)


def model_delta_array(delta: bytes) -> Array:
    """The way to the global model from one that the vehicle has."""
    return Array("uint8", (len(delta),), MODEL_DELTA_STYPE, delta)


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


def trained_content(trained: Trained) -> RecordDict:
    """What comes back from `train` when the update will be summed under masks."""
    return RecordDict({"trained": _protobuf_record(trained)})


def read_trained(content: RecordDict) -> Trained:
    """Parse; the numbers are not checked here.

    Raises:
        MalformedMessageError: The record is missing or does not parse.
    """
    return _read_protobuf(content, "trained", Trained)


def helped_upload_content(envelope: bytes, seeds: bytes) -> RecordDict:
    """What a vehicle sends in a secure sum with mask helpers, and nothing before or after it.

    Args:
        envelope: With the masked update.
        seeds: HelperSeeds.
    """
    return RecordDict({**update_content(envelope), **answer_content(seeds)})


def request_content(message: bytes) -> RecordDict:
    """What the aggregator sends in one exchange of a secure sum: bytes, so that they can be hashed."""
    return RecordDict({"request": ConfigRecord({"protobuf": message})})


def read_request(content: RecordDict) -> bytes:
    """The request as it was sent, unread.

    Raises:
        MalformedMessageError: The record is missing.
    """
    return _read_bytes(content, "request")


def answer_content(message: bytes) -> RecordDict:
    """What a vehicle answers in one exchange of a secure sum."""
    return RecordDict({"answer": ConfigRecord({"protobuf": message})})


def read_answer(content: RecordDict) -> bytes:
    """The answer as it was sent, unread.

    Raises:
        MalformedMessageError: The record is missing.
    """
    return _read_bytes(content, "answer")


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


def calibration_content(request: CalibrationRequest) -> RecordDict:
    """What goes down for `query.ranges`."""
    return RecordDict({"calibration": _protobuf_record(request)})


def read_calibration(content: RecordDict) -> CalibrationRequest:
    """Parse; the network is not looked at here.

    Raises:
        MalformedMessageError: The record is missing or does not parse.
    """
    return _read_protobuf(content, "calibration", CalibrationRequest)


def ranges_content(ranges: CalibrationRanges) -> RecordDict:
    """What comes back from `query.ranges`."""
    return RecordDict({"ranges": _protobuf_record(ranges)})


def read_ranges(content: RecordDict) -> CalibrationRanges:
    """Parse; the numbers are not checked here.

    Raises:
        MalformedMessageError: The record is missing or does not parse.
    """
    return _read_protobuf(content, "ranges", CalibrationRanges)


def certainty_content(counts: CertaintyCounts) -> RecordDict:
    """What comes back from `query.certainty`; `instructions_content` makes the question."""
    return RecordDict({"certainty": _protobuf_record(counts)})


def read_certainty(content: RecordDict) -> CertaintyCounts:
    """Parse; the numbers are not checked here.

    Raises:
        MalformedMessageError: The record is missing or does not parse.
    """
    return _read_protobuf(content, "certainty", CertaintyCounts)


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
    message = kind()
    try:
        message.ParseFromString(_read_bytes(content, name))
    except DecodeError as error:
        raise MalformedMessageError(f"the {name!r} record does not parse") from error
    return message


def _read_bytes(content: RecordDict, name: str) -> bytes:
    record = content.get(name)
    encoded = record.get("protobuf") if isinstance(record, ConfigRecord) else None
    if not isinstance(encoded, bytes):
        raise MalformedMessageError(f"the message has no {name!r} record")
    return encoded


def _read_array(content: RecordDict, name: str, key: str, stype: str) -> bytes:
    record = content.get(name)
    array = record.get(key) if isinstance(record, ArrayRecord) else None
    if not isinstance(array, Array) or array.stype != stype:
        raise MalformedMessageError(f"the message has no {name!r} record of type {stype}")
    return array.data
