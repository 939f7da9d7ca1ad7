"""One reply of one vehicle: an update that may enter the sum, or a refusal with its reason.

Every byte is hostile. What belongs to another round is told apart by the header alone, so that a
restarted server judges as the one before it did.
"""

import math
from dataclasses import dataclass
from typing import Final

from flwr.app import Message

from convoy_compression.update.codec import UpdateCodec
from convoy_protos.envelope import UPDATE_METRICS, envelope_limit, unpack
from convoy_protos.errors import MalformedMessageError
from convoy_protos.flower_messages import read_update
from convoy_protos.v1.federation_pb2 import UpdateHeader
from convoy_server.errors import RefusedReplyError

REASONS: Final = (
    "client_error",  # the client raised, or its process or connection died
    "malformed",  # not our records at all
    "oversized",  # more bytes than any update of this model can have
    "truncated",  # the envelope does not parse or is not as long as it says
    "wrong_run",
    "wrong_round",  # of a round that has not begun
    "replayed",  # of an earlier round, or the second one of this round
    "wrong_vehicle",  # another vehicle's name
    "wrong_codec",
    "wrong_schema",
    "wrong_length",
    "bad_example_count",
    "wrong_metrics",
    "not_finite",
)

_MAX_METRIC: Final = 1e9
_MAX_DETAIL: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What every update of this round must say about itself.

    Attributes:
        run_id: Of this run.
        round_number: Of this round.
        schema_digest: Of the global model.
        parameter_count: N.
        codec: In which updates are encoded.
        max_examples: Claiming more is refused.
    """

    run_id: str
    round_number: int
    schema_digest: bytes
    parameter_count: int
    codec: UpdateCodec
    max_examples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmittedUpdate:
    """An update whose header is right; its payload has not been looked at.

    Attributes:
        payload: A view into the reply.
        example_count: Training examples behind it, at least 1.
        train_loss: Mean loss of the vehicle's last epoch, finite.
    """

    payload: memoryview
    example_count: int
    train_loss: float


def envelope_of(reply: Message) -> bytes:
    """The envelope in a reply to `train`, unread.

    Raises:
        RefusedReplyError: The client failed, or the reply holds no envelope.
    """
    refuse_failed(reply)
    try:
        return read_update(reply.content)
    except MalformedMessageError as error:
        raise RefusedReplyError("malformed", str(error)) from error


def refuse_failed(reply: Message) -> None:
    """Refuse a reply that says that the client failed.

    Raises:
        RefusedReplyError: With what the client or Flower says about it, shortened.
    """
    if reply.has_error():
        raise RefusedReplyError("client_error", one_line(reply.error.reason or "no reason given"))
    if not reply.has_content():
        raise RefusedReplyError("malformed", "the reply is empty")


def admit(blob: bytes, vehicle: str, expected: Expectation) -> AdmittedUpdate:
    """Check everything that the header says.

    Args:
        blob: The envelope.
        vehicle: Who sent it, as the server knows it.
        expected: What this round needs.

    Raises:
        RefusedReplyError: With the first reason that applies.
    """
    limit = envelope_limit(expected.codec.payload_limit(expected.parameter_count))
    if len(blob) > limit:
        raise RefusedReplyError("oversized", f"expected at most {limit} bytes, got {len(blob)}")
    try:
        header, payload = unpack(blob)
    except MalformedMessageError as error:
        raise RefusedReplyError("truncated", str(error)) from error
    refuse_foreign(header.run_id, header.round, header.vehicle_id, vehicle, expected)
    _check_header(header, expected)
    return AdmittedUpdate(
        payload=payload,
        example_count=header.example_count,
        train_loss=header.metrics["train_loss"],
    )


def refuse_foreign(
    run_id: str, round_number: int, claimed: str, vehicle: str, expected: Expectation
) -> None:
    """Refuse what belongs to another run, round or vehicle.

    Raises:
        RefusedReplyError: wrong_run, replayed, wrong_round or wrong_vehicle.
    """
    if run_id != expected.run_id:
        _refuse("wrong_run", expected.run_id, run_id)
    if 1 <= round_number < expected.round_number:
        _refuse("replayed", expected.round_number, round_number)
    if round_number != expected.round_number:
        _refuse("wrong_round", expected.round_number, round_number)
    if claimed != vehicle:
        _refuse("wrong_vehicle", vehicle, claimed)


def one_line(text: str) -> str:
    """A peer's text, fit for a log: printable, one line, at most 200 characters."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text[:1000])
    short = " ".join(printable.split())
    return short if len(short) <= _MAX_DETAIL else f"{short[: _MAX_DETAIL - 1]}…"


def _check_header(header: UpdateHeader, expected: Expectation) -> None:
    if header.codec != expected.codec.name:
        _refuse("wrong_codec", expected.codec.name, header.codec)
    if header.schema_digest != expected.schema_digest:
        _refuse("wrong_schema", expected.schema_digest.hex(), header.schema_digest.hex())
    if header.parameter_count != expected.parameter_count:
        _refuse("wrong_length", expected.parameter_count, header.parameter_count)
    if not 1 <= header.example_count <= expected.max_examples:
        _refuse("bad_example_count", f"1..{expected.max_examples}", header.example_count)
    if set(header.metrics) != UPDATE_METRICS:
        _refuse("wrong_metrics", sorted(UPDATE_METRICS), sorted(header.metrics))
    for name, value in header.metrics.items():
        if not math.isfinite(value) or abs(value) > _MAX_METRIC:
            _refuse("wrong_metrics", f"a finite {name}", value)


def _refuse(reason: str, expected: object, got: object) -> None:
    raise RefusedReplyError(reason, one_line(f"expected {expected}, got {got}"))
