"""One reply of one vehicle: an update that may enter the sum, or a refusal with its reason.

Every byte is hostile. What belongs to another round is told apart by the header alone, so that a
restarted server judges as the one before it did.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from flwr.app import Message

from convoy_compression.errors import InvalidUpdateError, PayloadLengthError
from convoy_privacy.errors import (
    BadSharesError,
    BadSignatureError,
    OutOfOrderError,
    SealedMessageError,
    UnknownPeerError,
    UntrustedPeerError,
    WrongContextError,
)
from convoy_protos.envelope import UPDATE_METRICS, envelope_limit, unpack
from convoy_protos.errors import MalformedMessageError, ProtocolError
from convoy_protos.flower_messages import NOT_NOW, read_update
from convoy_protos.v1.federation_pb2 import Trained, UpdateHeader
from convoy_server.errors import RefusedReplyError

REASONS: Final = (
    "client_error",  # the client raised, or its process or connection died
    "not_now",  # the device will not work now: driving, hot, out of its hours or megabytes
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
    "untrusted",  # no certificate of our fleet, expired, revoked or of another vehicle
    "bad_signature",
    "wrong_context",  # sealed or masked under other instructions
    "unreadable",  # sealed to another key, or altered
    "out_of_order",  # a message of a secure sum that nobody waits for
    "bad_shares",  # shares that are none, or not of one secret
)

_REASON_OF_ERROR: Final[tuple[tuple[type[ProtocolError], str], ...]] = (
    (InvalidUpdateError, "not_finite"),
    (PayloadLengthError, "wrong_length"),
    (UntrustedPeerError, "untrusted"),
    (UnknownPeerError, "untrusted"),
    (BadSignatureError, "bad_signature"),
    (WrongContextError, "wrong_context"),
    (SealedMessageError, "unreadable"),
    (OutOfOrderError, "out_of_order"),
    (BadSharesError, "bad_shares"),
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
        parameter_count: Of the part that is sent.
        codec: In which updates are encoded, as on the wire.
        max_examples: Claiming more is refused.
    """

    run_id: str
    round_number: int
    schema_digest: bytes
    parameter_count: int
    codec: str
    max_examples: int


class AdmittedUpdate(NamedTuple):
    """An update whose header is right; its payload, certificate and signature are not looked at.

    Attributes:
        header: As it came.
        payload: A view into the reply.
    """

    header: UpdateHeader
    payload: memoryview


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
        why = one_line(reply.error.reason or "no reason given")
        if why.startswith(NOT_NOW):
            raise RefusedReplyError("not_now", why.removeprefix(NOT_NOW))
        raise RefusedReplyError("client_error", why)
    if not reply.has_content():
        raise RefusedReplyError("malformed", "the reply is empty")


def admit(blob: bytes, vehicle: str, expected: Expectation, payload_limit: int) -> AdmittedUpdate:
    """Check everything that the header says about the round and the model.

    Args:
        blob: The envelope.
        vehicle: Who sent it, as the server knows it.
        expected: What this round needs.
        payload_limit: The most bytes that an honest payload can have.

    Raises:
        RefusedReplyError: With the first reason that applies.
    """
    limit = envelope_limit(payload_limit)
    if len(blob) > limit:
        raise RefusedReplyError("oversized", f"expected at most {limit} bytes, got {len(blob)}")
    try:
        header, payload = unpack(blob)
    except MalformedMessageError as error:
        raise RefusedReplyError("truncated", str(error)) from error
    refuse_foreign(header.run_id, header.round, header.vehicle_id, vehicle, expected)
    if header.codec != expected.codec:
        _refuse("wrong_codec", expected.codec, header.codec)
    refuse_schema(header.schema_digest, expected)
    if header.parameter_count != expected.parameter_count:
        _refuse("wrong_length", expected.parameter_count, header.parameter_count)
    return AdmittedUpdate(header, payload)


def admit_trained(
    trained: Trained, vehicle: str, expected: Expectation
) -> tuple[int, float | None]:
    """Examples and training loss of a vehicle whose update waits for the secure sum.

    Returns:
        0 and None for what the vehicle keeps to itself.

    Raises:
        RefusedReplyError: With the first reason that applies.
    """
    refuse_foreign(trained.run_id, trained.round, trained.vehicle_id, vehicle, expected)
    refuse_schema(trained.schema_digest, expected)
    if trained.example_count:
        check_examples(trained.example_count, expected)
    return trained.example_count, check_metrics(trained.metrics)


def check_examples(example_count: int, expected: Expectation) -> None:
    """Refuse zero and absurd example counts.

    Raises:
        RefusedReplyError: bad_example_count.
    """
    if not 1 <= example_count <= expected.max_examples:
        _refuse("bad_example_count", f"1..{expected.max_examples}", example_count)


def check_metrics(metrics: Mapping[str, float]) -> float | None:
    """The training loss; None where the vehicle withholds its metrics.

    Raises:
        RefusedReplyError: wrong_metrics.
    """
    if not metrics:
        return None
    if set(metrics) != UPDATE_METRICS:
        _refuse("wrong_metrics", sorted(UPDATE_METRICS), sorted(metrics))
    for name, value in metrics.items():
        if not math.isfinite(value) or abs(value) > _MAX_METRIC:
            _refuse("wrong_metrics", f"a finite {name}", value)
    return metrics["train_loss"]


def refuse_schema(schema_digest: bytes, expected: Expectation) -> None:
    """Refuse an update of another network.

    Raises:
        RefusedReplyError: wrong_schema.
    """
    if schema_digest != expected.schema_digest:
        _refuse("wrong_schema", expected.schema_digest.hex(), schema_digest.hex())


def refusal_of(error: ProtocolError) -> RefusedReplyError:
    """A misbehaving peer's error as one counted reason."""
    if isinstance(error, RefusedReplyError):
        return error
    for kind, reason in _REASON_OF_ERROR:
        if isinstance(error, kind):
            return RefusedReplyError(reason, one_line(str(error)))
    return RefusedReplyError("malformed", one_line(str(error)))


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


def _refuse(reason: str, expected: object, got: object) -> None:
    raise RefusedReplyError(reason, one_line(f"expected {expected}, got {got}"))
