"""The line that lets a device join: read whole, or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_protos.enrolment_token import PREFIX, join_bytes, read_token, renewal_bytes, write_token
from convoy_protos.errors import TokenError, UsageError
from convoy_protos.v1.enrolment_pb2 import JoinRequest, JoinToken

TOKEN = JoinToken(
    fleet_address="convoy.example.org:9091",
    services_address="convoy.example.org:9092",
    tls_ca=bytes(range(200)),
    ca_public_key=bytes(32),
    token_id=b"12345678",
    secret=b"0123456789abcdef",
    name="car-07",
    role="vehicle",
)
LINE = write_token(TOKEN)


def test_a_token_is_one_printable_line_that_says_everything():
    assert LINE.isprintable()
    assert " " not in LINE
    assert read_token(LINE) == TOKEN


def test_what_copying_puts_between_the_characters_does_no_harm():
    assert read_token(f"  {LINE[:70]}\n {LINE[70:]}\r\n") == TOKEN


@given(st.integers(len(PREFIX), len(LINE) - 1), st.sampled_from("ABab01-_=.é"))
def test_a_changed_character_is_noticed(place, character):
    changed = LINE[:place] + character + LINE[place + 1 :]
    try:
        # The last character carries bits that nobody reads.
        assert read_token(changed) == TOKEN
    except TokenError:
        assert changed != LINE


@given(st.integers(0, len(LINE) - 1))
def test_a_token_cut_anywhere_is_refused(length):
    with pytest.raises(TokenError):
        read_token(LINE[:length])


@given(st.text() | st.text().map(PREFIX.__add__))
def test_anything_else_is_refused_and_never_quoted(text):
    with pytest.raises(TokenError) as raised:
        read_token(text)
    assert isinstance(raised.value, UsageError)
    assert "copy the" in str(raised.value)


@given(st.binary(max_size=300))
def test_a_whole_line_around_garbage_is_refused(body):
    forged = JoinToken()
    forged.secret = body[:40]
    with pytest.raises(TokenError):
        read_token(write_token(forged))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("secret", b"short"),
        ("token_id", b""),
        ("ca_public_key", bytes(31)),
        ("name", ""),
        ("role", ""),
        ("services_address", ""),
        ("tls_ca", b""),
    ],
)
def test_a_token_that_lacks_something_is_refused(field, value):
    lacking = JoinToken()
    lacking.CopyFrom(TOKEN)
    setattr(lacking, field, value)
    with pytest.raises(TokenError, match="another version"):
        read_token(write_token(lacking))


@pytest.mark.parametrize("field", ["token_id", "name", "identity_key", "node_key"])
def test_what_is_signed_to_join_covers_every_field(field):
    request = JoinRequest(token_id=b"1", name="a", identity_key=b"2", node_key=b"3")
    before = join_bytes(request)
    setattr(request, field, "b" if field == "name" else b"4")
    assert join_bytes(request) != before


def test_no_signature_serves_for_something_else():
    assert not join_bytes(JoinRequest()).startswith(renewal_bytes(b"")[:16])


def test_the_bytes_of_version_1_stay_as_they_are():
    # Fields 1 to 8 of JoinToken in this order, then the start of their SHA-256.
    token = JoinToken(
        fleet_address="a:1",
        services_address="a:2",
        tls_ca=b"\x30",
        ca_public_key=bytes(range(32)),
        token_id=b"12345678",
        secret=b"0123456789abcdef",
        name="car-07",
        role="vehicle",
    )
    assert write_token(token) == (
        "convoy-join-1.CgNhOjESA2E6MhoBMCIgAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8qCD"
        "EyMzQ1Njc4MhAwMTIzNDU2Nzg5YWJjZGVmOgZjYXItMDdCB3ZlaGljbGVDk4Gl"
    )
    request = JoinRequest(
        token_id=b"12345678", name="car-07", identity_key=bytes(32), node_key=b"ecdsa"
    )
    # "convoy join/1", then the SHA-256 of token id, name, identity key and node key.
    assert join_bytes(request).hex() == (
        "636f6e766f79206a6f696e2f31"
        "ef797c8118f02dfb649607dd5d3f8c7623048c9c063d532cc95c5ed7a898a64f"
        "60a8ab19a7c2d2f8316a67aa426f1bac171bdb38f4a9e99238f5b2111a1007b4"
        "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925"
        "318f9f812b9e89ec3bd948c00afc751749a5a275b3a709436288da62f4cb36fb"
    )
    # "convoy renewal/1", then the SHA-256 of the certificate.
    assert renewal_bytes(b"\x30").hex() == (
        "636f6e766f792072656e6577616c2f31"
        "5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9"
    )
