"""Who is in a sum, as every vehicle checks it for itself: the aggregator may lie about everybody."""

from datetime import datetime

from convoy_privacy.certificates import Member, Role, Trust
from convoy_privacy.errors import BadRosterError, TooFewPeersError
from convoy_privacy.secure_sum.messages import (
    KEY_BYTES,
    SIGNATURE_BYTES,
    check_in_signed,
    check_length,
    parse,
)
from convoy_privacy.secure_sum.terms import MAX_MEMBERS, Terms
from convoy_protos.v1.secure_sum_pb2 import CheckIn, Roster


def check_check_in(check_in: CheckIn, terms: Terms, trust: Trust, now: datetime) -> Member:
    """The vehicle behind two fresh keys.

    Raises:
        ProtocolError: The certificate is not trusted, a length is wrong, a signature does not fit.
    """
    check_length("a mask key", check_in.mask_key, KEY_BYTES)
    check_length("a share key", check_in.share_key, KEY_BYTES)
    check_length("a signature", check_in.signature, SIGNATURE_BYTES)
    member = trust.verify(check_in.certificate, Role.VEHICLE, now)
    signed = check_in_signed(terms.digest, check_in.mask_key, check_in.share_key)
    member.check_signature(check_in.signature, signed)
    return member


def check_roster(
    encoded: bytes, own: CheckIn, terms: Terms, trust: Trust, now: datetime
) -> tuple[Roster, int]:
    """The roster and our slot in it.

    Raises:
        BadRosterError: Not sorted, somebody or some key twice, more than 128, or we are not in it
            with our own keys.
        TooFewPeersError: Fewer than the terms promise.
        ProtocolError: A member is not trusted, or its signature does not fit.
    """
    roster = parse(Roster, encoded)
    members = roster.members
    if len(members) < terms.fields.minimum_cohort:
        raise TooFewPeersError("members", len(members), terms.fields.minimum_cohort)
    if len(members) > MAX_MEMBERS:
        raise BadRosterError(f"a roster of {len(members)}, at most {MAX_MEMBERS}")
    # Also where the aggregator sends no list: silence must not get around the end of the one held.
    trust = trust.with_revocations(roster.revocations, now)
    names = [check_check_in(member, terms, trust, now).name for member in members]
    if names != sorted(set(names)):
        raise BadRosterError("the roster is not sorted by name, or has a name twice")
    # One vehicle under two names would count twice towards the threshold.
    keys = [key for member in members for key in (member.mask_key, member.share_key)]
    if len(set(keys)) != len(keys):
        raise BadRosterError("the roster has a key twice")
    slots = [slot for slot, member in enumerate(members, start=1) if member == own]
    if not slots:
        raise BadRosterError("the roster leaves us out, or has other keys for us")
    return roster, slots[0]
