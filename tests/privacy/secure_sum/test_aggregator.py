"""The aggregator takes a message or raises a ProtocolError, and never says more than it should."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_sum import (
    COUNTER_COUNT,
    LANE_COUNT,
    NOW,
    POLICY,
    SmallSum,
    authority,
    cuts,
    fixed_random,
    flips,
    identity,
    make_terms,
)

from convoy_privacy.certificates import Role
from convoy_privacy.errors import (
    BadRosterError,
    BadSharesError,
    BadSignatureError,
    LateUploadError,
    OutOfOrderError,
    RefusedTermsError,
    TooFewPeersError,
    UnknownPeerError,
    UntrustedPeerError,
    WrongContextError,
)
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_privacy.secure_sum import vehicle
from convoy_privacy.secure_sum.aggregator import Aggregator, Stage
from convoy_privacy.secure_sum.messages import unmask_signed
from convoy_protos.errors import MalformedMessageError, ProtocolError
from convoy_protos.v1.secure_sum_pb2 import (
    Roster,
    SealedShares,
    UnmaskReply,
    UnmaskRequest,
    VehicleSession,
)

TRUST = authority().trust()


def new_aggregator(**terms):
    return Aggregator(make_terms(**terms), TRUST, NOW)


def check_in_reply(number, terms=None):
    return vehicle.check_in(
        terms or make_terms(), identity(number), POLICY, fixed_random(f"check in {number}")
    )[1]


def state_of(aggregator):
    """Everything that a refused message must leave as it is."""
    return (
        aggregator.stage,
        aggregator.context,
        {name: repr(one) for name, one in aggregator._vehicles.items()},
    )


def refuses(aggregator, call, *arguments):
    before = state_of(aggregator)
    with pytest.raises(ProtocolError) as caught:
        call(*arguments)
    assert state_of(aggregator) == before
    return caught.value


# Tampering and truncation, at every offset of every message.


@pytest.mark.parametrize("damage", [flips, cuts])
def test_a_damaged_check_in_is_refused(damage):
    aggregator = new_aggregator()
    for damaged in damage(check_in_reply(1)):
        refuses(aggregator, aggregator.check_in, identity(1).name, damaged)


@pytest.mark.parametrize("damage", [flips, cuts])
def test_damaged_shares_are_refused(damage):
    shard = SmallSum(3).check_in()
    shard.give_shares(1)
    for damaged in damage(shard.replies[1]):
        refuses(shard.aggregator, shard.aggregator.shares, shard.name(1), damaged)


@pytest.mark.parametrize("damage", [flips, cuts])
def test_a_damaged_upload_is_refused(damage):
    shard = SmallSum(3).check_in().share()
    shard.mask(1)
    verify = shard.aggregator.verify_upload
    for damaged in damage(shard.bodies[1]):
        refuses(shard.aggregator, verify, shard.name(1), damaged, shard.signatures[1])
    for damaged in damage(shard.signatures[1]):
        refuses(shard.aggregator, verify, shard.name(1), shard.bodies[1], damaged)


@pytest.mark.parametrize("damage", [flips, cuts])
def test_a_damaged_unmask_reply_is_refused(damage):
    shard = SmallSum(3).check_in().share().upload()
    shard.answer(1)
    for damaged in damage(shard.replies[1]):
        refuses(shard.aggregator, shard.aggregator.unmask_reply, shard.name(1), damaged)


@given(st.binary(max_size=300), st.sampled_from(list(Stage)))
def test_any_bytes_are_refused_at_any_time(garbage, stage):
    shard = SmallSum(2)
    steps = {Stage.SHARES: "check_in", Stage.UPLOADS: "share", Stage.UNMASK: "upload"}
    for reached, step in steps.items():
        if reached.value <= stage.value:
            getattr(shard, step)()
    aggregator = shard.aggregator
    assert aggregator.stage is stage
    for name in (shard.name(1), "a stranger"):
        refuses(aggregator, aggregator.check_in, name, garbage)
        refuses(aggregator, aggregator.shares, name, garbage)
        refuses(aggregator, aggregator.verify_upload, name, garbage, garbage)
        refuses(aggregator, aggregator.unmask_reply, name, garbage)


def test_a_message_that_is_too_long_is_not_even_parsed():
    aggregator = new_aggregator()
    error = refuses(aggregator, aggregator.check_in, identity(1).name, bytes((1 << 22) + 1))
    assert isinstance(error, MalformedMessageError)


# Check-in.


def test_nobody_checks_in_with_a_certificate_of_another_name():
    aggregator = new_aggregator()
    error = refuses(aggregator, aggregator.check_in, identity(2).name, check_in_reply(1))
    assert isinstance(error, UnknownPeerError)


def test_a_check_in_for_other_terms_is_refused():
    aggregator = new_aggregator()
    replayed = check_in_reply(1, make_terms(round=6))
    error = refuses(aggregator, aggregator.check_in, identity(1).name, replayed)
    assert isinstance(error, BadSignatureError)


def test_a_helper_does_not_check_in_as_a_vehicle():
    helper = identity(1, Role.HELPER)
    _, reply = vehicle.check_in(make_terms(), helper, POLICY, fixed_random("helper"))
    aggregator = new_aggregator()
    error = refuses(aggregator, aggregator.check_in, helper.name, reply)
    assert isinstance(error, UntrustedPeerError)


def test_a_repeated_check_in_counts_once_and_another_is_refused():
    shard = SmallSum(2, make_terms(minimum_cohort=2))
    shard.aggregator.check_in(identity(1).name, check_in_reply(1))
    shard.aggregator.check_in(identity(1).name, check_in_reply(1))
    _, other = vehicle.check_in(shard.terms, identity(1), POLICY, fixed_random("other"))
    refuses(shard.aggregator, shard.aggregator.check_in, identity(1).name, other)
    with pytest.raises(TooFewPeersError):
        shard.aggregator.close_check_in(b"")


def test_keys_that_somebody_else_has_are_refused():
    aggregator = new_aggregator()
    aggregator.check_in(identity(1).name, check_in_reply(1))
    _, copied = vehicle.check_in(make_terms(), identity(2), POLICY, fixed_random("check in 1"))
    error = refuses(aggregator, aggregator.check_in, identity(2).name, copied)
    assert isinstance(error, BadRosterError)


def test_a_full_shard_takes_nobody_else():
    aggregator = new_aggregator()
    for number in range(1, 129):
        aggregator.check_in(identity(number).name, check_in_reply(number))
    error = refuses(aggregator, aggregator.check_in, identity(129).name, check_in_reply(129))
    assert isinstance(error, BadRosterError)
    roster = Roster.FromString(aggregator.close_check_in(b""))
    assert len(roster.members) == 128


def test_who_is_revoked_after_its_check_in_is_left_out():
    original = authority()
    fleet = FleetAuthority(
        original.signing_key, original.certificate, original.revocation_list, tuple(original.issued)
    )
    aggregator = new_aggregator()
    for number in (1, 2, 3):
        aggregator.check_in(identity(number).name, check_in_reply(number))
    fleet.revoke(identity(2).name, NOW)
    roster = Roster.FromString(aggregator.close_check_in(fleet.revocation_list))
    assert [member.certificate for member in roster.members] == [
        identity(1).certificate,
        identity(3).certificate,
    ]
    refuses(aggregator, aggregator.shares, identity(2).name, b"")


def test_with_too_few_check_ins_more_are_still_taken():
    aggregator = new_aggregator(minimum_cohort=2)
    aggregator.check_in(identity(1).name, check_in_reply(1))
    with pytest.raises(TooFewPeersError):
        aggregator.close_check_in(b"")
    aggregator.check_in(identity(2).name, check_in_reply(2))
    aggregator.close_check_in(b"")
    assert aggregator.stage is Stage.SHARES


def test_terms_that_no_vehicle_takes_are_refused_at_once():
    with pytest.raises(RefusedTermsError):
        Aggregator(b"", TRUST, NOW)


# Shares.


def test_who_shares_nothing_is_not_in_the_sum():
    shard = SmallSum(4).check_in().share([1, 2, 3]).upload().unmask()
    assert shard.name(4) not in shard.deliveries
    request = UnmaskRequest.FromString(shard.request)
    assert (list(request.uploaded), list(request.lost)) == ([1, 2, 3], [])
    np.testing.assert_array_equal(shard.total()[0], shard.plain_P)


def test_who_shared_nothing_uploads_nothing():
    shard = SmallSum(4).check_in().share([1, 2, 3])
    error = refuses(
        shard.aggregator, shard.aggregator.verify_upload, shard.name(4), b"body", bytes(64)
    )
    assert isinstance(error, UnknownPeerError)


def test_a_late_share_is_refused():
    shard = SmallSum(4).check_in().share([1, 2, 3])
    shard.give_shares(4)
    error = refuses(shard.aggregator, shard.aggregator.shares, shard.name(4), shard.replies[4])
    assert isinstance(error, OutOfOrderError)


def test_shares_of_somebody_else_are_refused():
    shard = SmallSum(3).check_in()
    shard.give_shares(1)
    refuses(shard.aggregator, shard.aggregator.shares, shard.name(2), shard.replies[1])


def test_shares_of_another_sum_are_refused():
    shard, other = SmallSum(3).check_in(), SmallSum(3, make_terms(round=8)).check_in()
    other.give_shares(1)
    error = refuses(shard.aggregator, shard.aggregator.shares, shard.name(1), other.replies[1])
    assert isinstance(error, WrongContextError)


def test_repeated_shares_count_once():
    shard = SmallSum(3).check_in()
    shard.give_shares(1)
    shard.aggregator.shares(shard.name(1), shard.replies[1])
    shard.aggregator.shares(shard.name(1), shard.replies[1])
    with pytest.raises(TooFewPeersError):
        shard.aggregator.close_shares()


# Uploads.


def test_a_late_upload_of_a_client_declared_lost_is_refused():
    """Its mask key is about to be known; its self mask must stay on."""
    shard = SmallSum(4).check_in().share().upload([1, 2, 3])
    shard.mask(4)
    arguments = shard.name(4), shard.bodies[4], shard.signatures[4]
    error = refuses(shard.aggregator, shard.aggregator.verify_upload, *arguments)
    assert isinstance(error, LateUploadError)
    shard.unmask([1, 2, 3])
    refuses(shard.aggregator, shard.aggregator.verify_upload, *arguments)
    np.testing.assert_array_equal(shard.total()[0], shard.plain_P)


def test_a_lost_client_is_not_asked_and_not_heard():
    shard = SmallSum(4).check_in().share().upload([1, 2, 3])
    shard.mask(4)
    with pytest.raises(BadRosterError):
        shard.answer(4)
    error = refuses(shard.aggregator, shard.aggregator.unmask_reply, shard.name(4), b"")
    assert isinstance(error, UnknownPeerError)


def test_an_upload_is_added_once():
    shard = SmallSum(3).check_in().share()
    shard.mask(1)
    arguments = shard.name(1), shard.bodies[1], shard.signatures[1]
    shard.aggregator.verify_upload(*arguments)
    refuses(shard.aggregator, shard.aggregator.verify_upload, *arguments)


def test_an_upload_signed_for_another_sum_is_refused():
    shard, other = SmallSum(3).check_in().share(), SmallSum(3, make_terms(attempt=2))
    other.check_in().share().mask(1)
    error = refuses(
        shard.aggregator,
        shard.aggregator.verify_upload,
        shard.name(1),
        other.bodies[1],
        other.signatures[1],
    )
    assert isinstance(error, BadSignatureError)


def test_a_client_with_an_invalid_upload_counts_as_lost():
    shard = SmallSum(4).check_in().share()
    shard.mask(4)
    refuses(
        shard.aggregator,
        shard.aggregator.verify_upload,
        shard.name(4),
        b"torn",
        shard.signatures[4],
    )
    shard.upload([1, 2, 3])
    assert list(UnmaskRequest.FromString(shard.request).lost) == [4]
    np.testing.assert_array_equal(shard.unmask([1, 2, 3]).total()[0], shard.plain_P)


def test_with_too_few_uploads_nothing_is_asked():
    shard = SmallSum(4).check_in().share()
    with pytest.raises(TooFewPeersError):
        shard.upload([1, 2])
    assert shard.aggregator.stage is Stage.UPLOADS


# Unmask.


@pytest.mark.parametrize("lost", [(), (2,), (4,)])
def test_never_both_secrets_of_one_vehicle_are_asked_for(lost):
    shard = SmallSum(4).check_in().share().upload([n for n in range(1, 5) if n not in lost])
    request = UnmaskRequest.FromString(shard.request)
    assert not set(request.uploaded) & set(request.lost)
    assert sorted([*request.uploaded, *request.lost]) == [1, 2, 3, 4]
    with pytest.raises(OutOfOrderError):
        shard.aggregator.close_uploads()  # and never a second request


def test_below_the_threshold_nothing_is_removed():
    shard = SmallSum(4).check_in().share().upload().unmask([1, 2])
    assert not shard.aggregator.removable
    with pytest.raises(TooFewPeersError):
        shard.total()
    shard.unmask([4])
    assert shard.aggregator.removable
    np.testing.assert_array_equal(shard.total()[0], shard.plain_P)


def test_a_repeated_answer_counts_once_and_another_is_refused():
    shard = SmallSum(4).check_in().share().upload().unmask([1, 2])
    shard.unmask([2])
    assert not shard.aggregator.removable
    reply = answer_with(shard, 2, {1: bytes(33)})
    error = refuses(shard.aggregator, shard.aggregator.unmask_reply, shard.name(2), reply)
    assert isinstance(error, OutOfOrderError)


def answer_with(shard, number, changes):
    """The vehicle's answer with other shares, signed."""
    if VehicleSession.FromString(shard.sessions[number]).stage != VehicleSession.UNMASKED:
        shard.answer(number)
    genuine = UnmaskReply.FromString(shard.replies[number])
    shares = sorted(({share.slot: share.share for share in genuine.shares} | changes).items())
    return signed_answer(shard, number, shares)


def signed_answer(shard, number, shares):
    signed = unmask_signed(shard.aggregator.context, shard.aggregator._request_digest, shares)
    return UnmaskReply(
        context_digest=shard.aggregator.context,
        shares=[{"slot": slot, "share": share} for slot, share in shares],
        signature=identity(number).sign(signed),
    ).SerializeToString()


@pytest.mark.parametrize(
    ("shares", "error"),
    [
        ([(1, bytes(32))], BadSharesError),  # too short
        ([(1, bytes([255]) * 33)], BadSharesError),  # not below the prime
        ([(5, bytes(33))], BadRosterError),  # nobody's slot
        ([(0, bytes(33))], BadRosterError),
        ([(2, bytes(33)), (1, bytes(33))], BadRosterError),  # out of order
        ([(1, bytes(33)), (1, bytes(33))], BadRosterError),  # twice
    ],
)
def test_an_impossible_answer_is_refused(shares, error):
    shard = SmallSum(4).check_in().share().upload()
    reply = signed_answer(shard, 1, shares)
    assert isinstance(
        refuses(shard.aggregator, shard.aggregator.unmask_reply, shard.name(1), reply), error
    )


def test_one_bad_share_is_found_and_its_sender_named():
    shard = SmallSum(5).check_in().share().upload()
    shard.unmask([2, 3, 4, 5])
    shard.aggregator.unmask_reply(shard.name(1), answer_with(shard, 1, {3: bytes(33)}))
    np.testing.assert_array_equal(shard.total()[0], shard.plain_P)
    assert shard.aggregator.culprits == {shard.name(1)}


@pytest.mark.parametrize("bad", [1, 2, 3])
def test_as_many_bad_shares_as_there_are_to_spare_are_found(bad):
    """Ten members, threshold seven: any three may lie about everything."""
    shard = SmallSum(10).check_in().share().upload()
    liars = [2, 5, 9][:bad]
    shard.unmask([number for number in shard.numbers if number not in liars])
    for liar in liars:
        lies = {slot: fixed_random(f"{liar} {slot}")(32).rjust(33, b"\0") for slot in shard.numbers}
        shard.aggregator.unmask_reply(shard.name(liar), answer_with(shard, liar, lies))
    np.testing.assert_array_equal(shard.total()[0], shard.plain_P)
    assert shard.aggregator.culprits == {shard.name(liar) for liar in liars}


def test_bad_shares_of_a_lost_clients_key_are_found_too():
    shard = SmallSum(7).check_in().share().upload(range(1, 7)).unmask(range(1, 6))
    shard.aggregator.unmask_reply(shard.name(6), answer_with(shard, 6, {7: bytes(33)}))
    np.testing.assert_array_equal(shard.total()[0], shard.plain_P)
    # Five right ones were enough, so nobody had to look at the sixth.
    assert shard.aggregator.culprits == set()


def test_without_a_share_to_spare_a_bad_one_ends_the_sum_with_names():
    shard = SmallSum(4).check_in().share().upload().unmask([2, 3])
    shard.aggregator.unmask_reply(shard.name(1), answer_with(shard, 1, {4: bytes(33)}))
    with pytest.raises(BadSharesError) as caught:
        shard.total()
    assert caught.value.culprits == (shard.name(4),)  # whose secret nobody can rebuild
    shard.unmask([4])  # one more answer decides who lied
    np.testing.assert_array_equal(shard.total()[0], shard.plain_P)
    assert shard.aggregator.culprits == {shard.name(1)}


def test_a_dealer_of_shares_that_do_not_belong_together_is_named():
    shard = SmallSum(5).check_in()
    nonsense = fixed_random("nonsense")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            vehicle, "split", lambda *_: [nonsense(32).rjust(33, b"\0") for _ in range(5)]
        )
        shard.give_shares(2)
    shard.aggregator.shares(shard.name(2), shard.replies[2])
    shard.share([1, 3, 4, 5]).upload().unmask()
    with pytest.raises(BadSharesError, match=shard.name(2)) as caught:
        shard.total()
    assert caught.value.culprits == (shard.name(2),)


def test_boxes_that_do_not_open_cost_their_sealer_only_its_own_sum():
    """A member that seals garbage for too many cannot be unmasked, and is named."""
    shard = SmallSum(4).check_in()
    shard.give_shares(2)
    shares = SealedShares.FromString(shard.replies[2])
    for place in (0, 2):
        shares.sealed[place] = bytes(82)
    shares.signature = identity(2).sign(
        vehicle.shares_signed(shares.context_digest, shares.self_seed_commitment, shares.sealed)
    )
    shard.aggregator.shares(shard.name(2), shares.SerializeToString())
    shard.share([1, 3, 4]).upload().unmask()
    assert not shard.aggregator.removable
    with pytest.raises(TooFewPeersError):
        shard.aggregator.mask_sum(np.uint8, LANE_COUNT, COUNTER_COUNT)
    assert shard.aggregator.culprits == {shard.name(2)}


def test_nothing_is_computed_before_its_time():
    aggregator = new_aggregator()
    for call in (aggregator.close_shares, aggregator.close_uploads):
        with pytest.raises(OutOfOrderError):
            call()
    with pytest.raises(OutOfOrderError):
        aggregator.mask_sum(np.uint8, LANE_COUNT, COUNTER_COUNT)
    assert not aggregator.removable
