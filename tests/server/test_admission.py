"""One reply at the door: every header field wrong in turn, garbage, and what the log may show of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_compression.errors import InvalidUpdateError, PayloadLengthError
from convoy_privacy.errors import (
    BadSharesError,
    BadSignatureError,
    LateUploadError,
    SealedMessageError,
    UnknownPeerError,
    UntrustedPeerError,
    WrongContextError,
)
from convoy_protos import envelope
from convoy_protos.errors import MalformedMessageError
from convoy_protos.v1.federation_pb2 import Trained, UpdateHeader
from convoy_server.admission import (
    REASONS,
    Expectation,
    admit,
    admit_trained,
    check_examples,
    check_metrics,
    one_line,
    refusal_of,
)
from convoy_server.errors import RefusedReplyError

EXPECTED = Expectation(
    run_id="run",
    round_number=5,
    schema_digest=b"s" * 32,
    parameter_count=2,
    codec="float32/1",
    max_examples=1000,
)
PAYLOAD = b"\0" * 8


def blob(payload=PAYLOAD, **changes):
    fields = {
        "run_id": "run",
        "round": 5,
        "vehicle_id": "car0",
        "schema_digest": b"s" * 32,
        "codec": "float32/1",
        "parameter_count": 2,
        "example_count": 30,
        "metrics": {"train_loss": 0.25},
    }
    return envelope.pack(UpdateHeader(**(fields | changes)), payload)


def checked(data, vehicle="car0", expected=EXPECTED):
    """What is checked before an update may be added: header, examples, metrics."""
    update = admit(data, vehicle, expected, payload_limit=len(PAYLOAD))
    check_examples(update.header.example_count, expected)
    check_metrics(update.header.metrics)
    return update


def reason_of(data, expected=EXPECTED, vehicle="car0"):
    with pytest.raises(RefusedReplyError) as error:
        checked(data, vehicle, expected)
    assert error.value.reason in REASONS
    return error.value.reason


def test_what_is_as_expected_is_admitted_unread():
    update = checked(blob())
    assert (bytes(update.payload), update.header.example_count) == (PAYLOAD, 30)
    assert check_metrics(update.header.metrics) == 0.25


def test_a_vehicle_may_withhold_its_metrics_but_not_its_weight():
    assert check_metrics(checked(blob(metrics={})).header.metrics) is None
    assert reason_of(blob(metrics={}, example_count=0)) == "bad_example_count"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"run_id": "other"}, "wrong_run"),
        ({"run_id": "other", "round": 4}, "wrong_run"),  # an old update of another run
        ({"round": 4}, "replayed"),
        ({"round": 1}, "replayed"),
        ({"round": 0}, "wrong_round"),  # there is no round 0
        ({"round": 6}, "wrong_round"),
        ({"round": 4, "vehicle_id": "car1"}, "replayed"),
        ({"vehicle_id": "car1"}, "wrong_vehicle"),
        ({"vehicle_id": ""}, "wrong_vehicle"),
        ({"codec": "float32/2"}, "wrong_codec"),
        ({"schema_digest": b""}, "wrong_schema"),
        ({"parameter_count": 3}, "wrong_length"),
        ({"example_count": 0}, "bad_example_count"),
        ({"example_count": 1001}, "bad_example_count"),
        ({"example_count": 2**64 - 1}, "bad_example_count"),
        ({"metrics": {"train_loss": 1.0, "x": 1.0}}, "wrong_metrics"),
        ({"metrics": {"loss": 1.0}}, "wrong_metrics"),
        ({"metrics": {"train_loss": float("nan")}}, "wrong_metrics"),
        ({"metrics": {"train_loss": float("inf")}}, "wrong_metrics"),
        ({"metrics": {"train_loss": 1e10}}, "wrong_metrics"),
    ],
    ids=str,
)
def test_a_wrong_header_is_refused_with_its_reason(changes, reason):
    assert reason_of(blob(**changes)) == reason


def test_a_limit_is_inclusive():
    assert checked(blob(example_count=1000)).header.example_count == 1000


def test_more_bytes_than_any_update_has_are_not_even_parsed():
    limit = envelope.envelope_limit(8)
    assert reason_of(b"\0" * (limit + 1)) == "oversized"
    assert reason_of(b"\0" * limit) == "truncated"


def test_an_update_cut_anywhere_is_truncated():
    whole = blob()
    for length in range(len(whole)):
        assert reason_of(whole[:length]) == "truncated"


@given(st.binary(max_size=200))
def test_garbage_is_refused(data):
    reason_of(data)


@given(st.data())
def test_a_damaged_update_is_admitted_or_refused_and_nothing_else(data):
    whole = bytearray(blob())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        update = checked(bytes(whole))
    except RefusedReplyError as error:
        assert error.reason in REASONS  # noqa: PT017 - both ends are fine, nothing else is
    else:
        assert 1 <= update.header.example_count <= 1000


@given(st.text(max_size=2000))
def test_what_a_peer_says_fits_a_log(text):
    shown = one_line(text)
    assert len(shown) <= 200
    assert shown.isprintable()


def test_short_text_is_shown_as_it_is():
    assert one_line("the tyre\n is\tflat") == "the tyre is flat"


def notice(**changes):
    fields = {
        "run_id": "run",
        "round": 5,
        "vehicle_id": "car0",
        "schema_digest": b"s" * 32,
        "example_count": 30,
        "metrics": {"train_loss": 0.25},
    }
    return Trained(**(fields | changes))


def test_who_has_trained_says_how_much_or_keeps_it():
    assert admit_trained(notice(), "car0", EXPECTED) == (30, 0.25)
    assert admit_trained(notice(example_count=0, metrics={}), "car0", EXPECTED) == (0, None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"run_id": "other"}, "wrong_run"),
        ({"round": 4}, "replayed"),
        ({"round": 6}, "wrong_round"),
        ({"vehicle_id": "car1"}, "wrong_vehicle"),
        ({"schema_digest": b""}, "wrong_schema"),
        ({"example_count": 1001}, "bad_example_count"),
        ({"metrics": {"loss": 1.0}}, "wrong_metrics"),
        ({"metrics": {"train_loss": float("nan")}}, "wrong_metrics"),
    ],
    ids=str,
)
def test_a_wrong_notice_is_refused_with_its_reason(changes, reason):
    with pytest.raises(RefusedReplyError) as error:
        admit_trained(notice(**changes), "car0", EXPECTED)
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InvalidUpdateError("nan"), "not_finite"),
        (PayloadLengthError(8, 7), "wrong_length"),
        (UntrustedPeerError("car0", "expired"), "untrusted"),
        (UnknownPeerError("car9"), "untrusted"),
        (BadSignatureError("no"), "bad_signature"),
        (WrongContextError("no"), "wrong_context"),
        (SealedMessageError("no"), "unreadable"),
        (LateUploadError("no"), "out_of_order"),
        (BadSharesError("no"), "bad_shares"),
        (MalformedMessageError("no"), "malformed"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_a_peer_causes_has_one_reason(error, reason):
    assert refusal_of(error).reason == reason
    assert reason in REASONS
