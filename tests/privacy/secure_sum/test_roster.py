"""Every vehicle checks the roster for itself: nobody is swapped, invented, doubled or hidden."""

from datetime import timedelta

import pytest
from small_sum import (
    NOW,
    POLICY,
    SmallSum,
    authority,
    cuts,
    fixed_random,
    flips,
    identity,
    make_terms,
    new_authority,
)

from convoy_privacy.certificates import Role, Trust
from convoy_privacy.errors import (
    BadKeyError,
    BadRosterError,
    BadSignatureError,
    RevocationListError,
    TooFewPeersError,
    UntrustedPeerError,
    WrongContextError,
)
from convoy_privacy.secure_sum import vehicle
from convoy_privacy.secure_sum.aggregator import Aggregator
from convoy_protos.errors import ProtocolError
from convoy_protos.v1.secure_sum_pb2 import CheckIn, Roster, VehicleSession

SMALL_ORDER = [bytes(32), (1).to_bytes(32, "little"), (2**255 - 20).to_bytes(32, "little")]


@pytest.fixture
def shard():
    return SmallSum(3).check_in()


def give(shard, roster, number=1, trust=None, now=NOW):
    encoded = roster if isinstance(roster, bytes) else roster.SerializeToString()
    return vehicle.share(
        shard.sessions[number],
        encoded,
        identity(number),
        trust or shard.trust,
        now,
        fixed_random("shares"),
    )


def check_in_of(who, terms=None, label="invented"):
    return CheckIn.FromString(
        vehicle.check_in(terms or make_terms(), who, POLICY, fixed_random(label))[1]
    )


def test_the_genuine_roster_is_taken(shard):
    session, _ = give(shard, shard.roster)
    assert VehicleSession.FromString(session).slot == 1


@pytest.mark.slow
def test_a_roster_with_any_changed_bit_is_refused(shard):
    for changed in flips(shard.roster):
        with pytest.raises(ProtocolError):
            give(shard, changed)


def test_a_roster_cut_anywhere_is_refused_or_another_sum(shard):
    """Without its list of revocations, or its last member, it is a roster still: of another context."""
    taken = 0
    for cut in cuts(shard.roster):
        try:
            _, reply = give(shard, cut)
        except ProtocolError:
            continue
        taken += 1
        with pytest.raises(WrongContextError):
            shard.aggregator.shares(shard.name(1), reply)
    assert taken == 2


@pytest.mark.parametrize("key", ["mask_key", "share_key"])
def test_a_swapped_key_is_refused(shard, key):
    """The man in the middle's own key for somebody else's."""
    roster = Roster.FromString(shard.roster)
    setattr(roster.members[1], key, bytes(range(32)))
    with pytest.raises(BadSignatureError):
        give(shard, roster)


def test_two_keys_of_one_member_exchanged_are_refused(shard):
    roster = Roster.FromString(shard.roster)
    member = roster.members[1]
    member.mask_key, member.share_key = member.share_key, member.mask_key
    with pytest.raises(BadSignatureError):
        give(shard, roster)


def test_a_client_invented_by_the_server_is_refused(shard):
    stranger = new_authority("another fleet").issue("vehicle 004", Role.VEHICLE, NOW)
    roster = Roster.FromString(shard.roster)
    roster.members.append(check_in_of(stranger))
    with pytest.raises(UntrustedPeerError):
        give(shard, roster)


@pytest.mark.parametrize("role", [Role.AGGREGATOR, Role.HELPER])
def test_only_vehicles_are_members(shard, role):
    roster = Roster.FromString(shard.roster)
    roster.members.append(check_in_of(identity(9, role)))
    roster.members.sort(key=lambda member: member.certificate != identity(9, role).certificate)
    with pytest.raises(UntrustedPeerError):
        give(shard, roster)


def test_keys_for_other_terms_are_refused(shard):
    """Replay of a check-in of another round, shard or attempt."""
    roster = Roster.FromString(shard.roster)
    roster.members[1].CopyFrom(check_in_of(identity(2), make_terms(round=6)))
    with pytest.raises(BadSignatureError):
        give(shard, roster)


def test_a_member_twice_is_refused(shard):
    roster = Roster.FromString(shard.roster)
    roster.members.insert(1, roster.members[1])
    with pytest.raises(BadRosterError):
        give(shard, roster)


def test_a_member_twice_with_different_keys_is_refused(shard):
    """A vehicle that answers two check-ins of one set of terms would count twice."""
    roster = Roster.FromString(shard.roster)
    roster.members.insert(1, check_in_of(identity(2)))
    with pytest.raises(BadRosterError):
        give(shard, roster)


def test_one_key_under_two_names_is_refused(shard):
    """Two names of one vehicle, or a vehicle that copies a peer's public key."""
    roster = Roster.FromString(shard.roster)
    copied = check_in_of(identity(4), label="same")
    roster.members.append(copied)
    roster.members.append(check_in_of(identity(5), label="same"))
    assert copied.mask_key == roster.members[-1].mask_key
    with pytest.raises(BadRosterError, match="key twice"):
        give(shard, roster)


def test_an_unsorted_roster_is_refused(shard):
    """Two orders of the same members would be two contexts."""
    roster = Roster.FromString(shard.roster)
    roster.members.sort(key=lambda member: member.mask_key)
    if roster == Roster.FromString(shard.roster):
        roster.members.reverse()
    with pytest.raises(BadRosterError):
        give(shard, roster)


def test_a_roster_without_us_is_refused(shard):
    roster = Roster.FromString(shard.roster)
    del roster.members[0]
    with pytest.raises(BadRosterError):
        give(shard, roster)


def test_a_roster_with_older_keys_of_ours_is_refused(shard):
    roster = Roster.FromString(shard.roster)
    roster.members[0].CopyFrom(check_in_of(identity(1), label="an older session"))
    with pytest.raises(BadRosterError):
        give(shard, roster)


def test_fewer_than_the_minimum_are_refused():
    shard = SmallSum(3, make_terms(minimum_cohort=3)).check_in()
    roster = Roster.FromString(shard.roster)
    del roster.members[2]
    with pytest.raises(TooFewPeersError) as caught:
        give(shard, roster)
    assert (caught.value.present, caught.value.needed) == (2, 3)


def test_more_than_128_are_refused(shard):
    roster = Roster.FromString(shard.roster)
    while len(roster.members) < 129:
        roster.members.append(roster.members[2])
    with pytest.raises(BadRosterError, match="129"):
        give(shard, roster)


def test_a_revoked_member_is_refused(shard):
    """The list that the roster carries counts, although the vehicle had not seen it yet."""
    roster = Roster.FromString(shard.roster)
    roster.revocations = revoke("vehicle 002")
    with pytest.raises(UntrustedPeerError, match="revoked"):
        give(shard, roster)


def revoke(name):
    """The list of `authority()` after this revocation, which `authority()` itself never sees."""
    original = authority()
    fleet = type(original)(
        original.signing_key, original.certificate, original.revocation_list, tuple(original.issued)
    )
    fleet.revoke(name, NOW)
    return fleet.revocation_list


def test_a_member_revoked_on_the_vehicles_own_list_is_refused(shard):
    newer = shard.trust.with_revocations(revoke("vehicle 002"), NOW)
    roster = Roster.FromString(shard.roster)
    roster.revocations = b""  # the server keeps the news to itself
    with pytest.raises(UntrustedPeerError, match="revoked"):
        give(shard, roster, trust=newer)


def test_an_older_list_than_ours_is_refused(shard):
    newer = shard.trust.with_revocations(revoke("vehicle 003"), NOW)
    with pytest.raises(RevocationListError):
        give(shard, shard.roster, trust=newer)


def test_expired_members_are_refused(shard):
    roster = Roster.FromString(shard.roster)
    roster.revocations = b""
    holds_no_list = Trust(authority().public_key)
    with pytest.raises(UntrustedPeerError, match="expired"):
        give(shard, roster, trust=holds_no_list, now=NOW + timedelta(days=366))


def test_silence_does_not_get_around_the_end_of_the_list_held(shard):
    roster = Roster.FromString(shard.roster)
    roster.revocations = b""
    with pytest.raises(RevocationListError, match="ended"):
        give(shard, roster, now=NOW + timedelta(days=100))


@pytest.mark.parametrize("key", SMALL_ORDER)
@pytest.mark.parametrize("place", ["mask_key", "share_key"])
def test_a_key_of_small_order_never_gets_into_a_roster(key, place):
    """Every vehicle would refuse the roster: one could stop all."""
    aggregator = Aggregator(make_terms(), authority().trust(), NOW)
    keys = {"mask_key": bytes([9]) + bytes(31), "share_key": bytes(range(32))} | {place: key}
    check_in = CheckIn(certificate=identity(1).certificate, **keys)
    check_in.signature = identity(1).sign(
        vehicle.check_in_signed(aggregator.terms.digest, keys["mask_key"], keys["share_key"])
    )
    with pytest.raises(BadKeyError):
        aggregator.check_in(identity(1).name, check_in.SerializeToString())


def test_a_vehicle_does_not_share_with_a_key_of_small_order(shard):
    roster = Roster.FromString(shard.roster)
    member = roster.members[1]
    member.share_key = SMALL_ORDER[1]
    terms_digest = Aggregator(shard.terms, shard.trust, NOW).terms.digest
    member.signature = identity(2).sign(
        vehicle.check_in_signed(terms_digest, member.mask_key, member.share_key)
    )
    with pytest.raises(BadKeyError):
        give(shard, roster)
