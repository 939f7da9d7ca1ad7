"""Clip, encode, seal, sign, in this order; and what a vehicle refuses to send."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from convoy_compression.update.codec import UpdateConfig
from convoy_compression.update.sealed import decode_sparse
from convoy_edge_client.errors import RefusedInstructionsError, VehicleConfigError
from convoy_edge_client.instructions import RoundSettings
from convoy_edge_client.local_update import LocalUpdate
from convoy_edge_client.update_pipeline import check_protection, single_update
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_privacy.certificates import Role
from convoy_privacy.errors import (
    RevocationListError,
    UnboundedUpdateError,
    UntrustedPeerError,
)
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_privacy.party import REVOCATIONS, save_party
from convoy_privacy.privacy_config import PrivacyConfig
from convoy_privacy.sealed_update import open_update
from convoy_privacy.sealing import generate_sealing_key, sign_sealing_key
from convoy_protos.envelope import unpack
from convoy_protos.v1.federation_pb2 import RoundInstructions

NOW = datetime.now(UTC)
CONTEXT = b"c" * 32
VEHICLE = VehicleConfig(vehicle_id="car3", recordings=("tub",), cache_dir="cache")
INSTRUCTIONS = RoundInstructions(run_id="run", round=4, codec="float32/1")


def random_32(count):
    return bytes(range(count))


def an_update(values=(0.5, -2.0, 3.0)):
    return LocalUpdate(
        run_id="run",
        round_number=4,
        schema_digest=b"s" * 32,
        settings_digest=b"t" * 32,
        model_digest=b"m" * 32,
        update_N=np.array(values, np.float32),
        example_count=10,
        train_loss=0.25,
    )


def settings(clip_norm=None):
    return RoundSettings(
        privacy=PrivacyConfig(clip_norm=clip_norm), update=UpdateConfig(sealed_step=0.01)
    )


def test_an_update_arrives_as_it_was_with_its_header_filled_in():
    header, payload = unpack(single_update(an_update(), INSTRUCTIONS, CONTEXT, settings(), VEHICLE))

    np.testing.assert_array_equal(np.frombuffer(payload, "<f4"), an_update().update_N)
    assert (header.vehicle_id, header.round, header.example_count) == ("car3", 4, 10)
    assert (header.codec, header.parameter_count) == ("float32/1", 3)
    assert dict(header.metrics) == {"train_loss": 0.25}


def test_a_vehicle_that_withholds_its_metrics_sends_none():
    quiet = replace(VEHICLE, metrics="withheld")
    header, _ = unpack(single_update(an_update(), INSTRUCTIONS, CONTEXT, settings(), quiet))
    assert not header.metrics


@pytest.mark.parametrize(
    ("clip_norm", "factor"),
    [
        (1.0, 0.2),  # the norm is 5
        (5.0, 1.0),
        (50.0, 1.0),  # never scaled up
    ],
)
def test_an_update_is_clipped_before_it_is_encoded(clip_norm, factor):
    update = an_update([3.0, 4.0])

    blob = single_update(update, INSTRUCTIONS, CONTEXT, settings(clip_norm), VEHICLE)

    sent_N = np.frombuffer(unpack(blob)[1], "<f4")
    np.testing.assert_allclose(sent_N, update.update_N * factor, rtol=1e-6)


def test_an_update_that_is_not_finite_is_not_clipped_into_one_that_is():
    with pytest.raises(UnboundedUpdateError):
        single_update(an_update([0.0, np.nan]), INSTRUCTIONS, CONTEXT, settings(1.0), VEHICLE)


@pytest.mark.parametrize(
    ("least", "codec", "sent"),
    [
        ("masked", "masked/1", True),
        ("masked", "sealed/1", False),
        ("masked", "float32/1", False),
        ("sealed", "masked/1", True),
        ("sealed", "sealed/1", True),
        ("sealed", "float16/1", False),
        ("none", "float32/1", True),
        ("masked", "morse/1", False),  # what nobody knows protects nothing
    ],
)
def test_the_server_cannot_talk_a_vehicle_out_of_its_protection(least, codec, sent):
    vehicle = replace(VEHICLE, least_protection=least)
    if sent:
        check_protection(vehicle, codec)
        return
    with pytest.raises(RefusedInstructionsError, match=codec):
        check_protection(vehicle, codec)


@pytest.fixture
def sealed(tmp_path):
    """A vehicle with an identity, an aggregator of the same fleet, and instructions to seal to it."""
    authority = FleetAuthority.create(NOW)
    identity = authority.issue("car3", Role.VEHICLE, NOW)
    save_party(tmp_path / "car3", authority, identity.certificate, identity.signing_key)
    key = generate_sealing_key("x25519", random_32)
    aggregator = authority.issue("cloud", Role.AGGREGATOR, NOW)
    instructions = RoundInstructions(
        run_id="run", round=4, codec="sealed/1", aggregator=sign_sealing_key(key, aggregator)
    )
    return replace(VEHICLE, identity=str(tmp_path / "car3")), instructions, authority, key


def test_a_sealed_update_opens_for_the_aggregator_alone(sealed):
    vehicle, instructions, authority, key = sealed

    header, payload = unpack(single_update(an_update(), instructions, CONTEXT, settings(), vehicle))
    opened = open_update(
        payload, header, context_digest=CONTEXT, key=key, trust=authority.trust(), now=NOW
    )

    np.testing.assert_allclose(
        decode_sparse(memoryview(opened), 3), an_update().update_N, atol=0.02
    )


def test_nothing_is_sealed_to_a_key_that_our_fleet_does_not_vouch_for(sealed):
    vehicle, instructions, _, key = sealed
    stranger = FleetAuthority.create(NOW).issue("cloud", Role.AGGREGATOR, NOW)
    instructions.aggregator.CopyFrom(sign_sealing_key(key, stranger))

    with pytest.raises(UntrustedPeerError):
        single_update(an_update(), instructions, CONTEXT, settings(), vehicle)


def test_a_vehicle_of_our_own_fleet_is_no_aggregator(sealed):
    vehicle, instructions, authority, key = sealed
    impostor = authority.issue("car4", Role.VEHICLE, NOW)
    instructions.aggregator.CopyFrom(sign_sealing_key(key, impostor))

    with pytest.raises(UntrustedPeerError):
        single_update(an_update(), instructions, CONTEXT, settings(), vehicle)


def test_a_vehicle_without_an_identity_says_how_to_get_one(sealed):
    _, instructions, _, _ = sealed
    with pytest.raises(VehicleConfigError, match="convoy fleet add"):
        single_update(an_update(), instructions, CONTEXT, settings(), VEHICLE)


def test_a_list_of_revocations_comes_with_the_instructions_and_is_remembered(sealed, tmp_path):
    vehicle, instructions, authority, _ = sealed
    authority.issue("old cloud", Role.AGGREGATOR, NOW)
    authority.revoke("old cloud", NOW)
    instructions.revocations = authority.revocation_list

    single_update(an_update(), instructions, CONTEXT, settings(), vehicle)

    assert (tmp_path / "car3" / REVOCATIONS).read_bytes() == authority.revocation_list


def test_nothing_is_sealed_to_an_aggregator_that_the_list_which_comes_revokes(sealed):
    vehicle, instructions, authority, _ = sealed
    authority.revoke("cloud", NOW)
    instructions.revocations = authority.revocation_list

    with pytest.raises(UntrustedPeerError, match="revoked"):
        single_update(an_update(), instructions, CONTEXT, settings(), vehicle)


def test_an_older_list_than_the_one_held_is_refused(sealed):
    vehicle, instructions, authority, _ = sealed
    old = authority.revocation_list
    authority.issue("car9", Role.VEHICLE, NOW)
    authority.revoke("car9", NOW)
    instructions.revocations = authority.revocation_list
    single_update(an_update(), instructions, CONTEXT, settings(), vehicle)

    instructions.revocations = old
    with pytest.raises(RevocationListError, match="older"):
        single_update(an_update(), instructions, CONTEXT, settings(), vehicle)
