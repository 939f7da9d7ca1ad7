"""Have the fleet's CA sign what waits: on the server, or wherever its key is, on a copy of the folder.

The CA checks renewals by itself: the certificate held and its key's signature. That a device had a token
it has from the folder, which means from the server: whoever runs the CA elsewhere looks at the names
before they sign.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from convoy_privacy import fleet_store
from convoy_privacy.certificates import certified
from convoy_privacy.errors import FleetFolderError
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_server.errors import EnrolmentRefusedError, Refusal
from convoy_server.service.enrolment_book import Enrolment, check_renewal
from convoy_server.service.enrolment_store import EnrolmentStore, Renewal


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What became of one thing that waited.

    Attributes:
        what: For people: name, role, and the start of the key for a new member.
        refusal: Why it was not signed; empty: it was.
    """

    what: str
    refusal: str = ""


def waiting(store: EnrolmentStore) -> list[Enrolment | Renewal]:
    """What the CA is to sign, those that it refused before included."""
    joins = [one for one in store.enrolments() if one.waits]
    return [*joins, *(one for one in store.renewals() if not one.certificate)]


def sign(
    store: EnrolmentStore,
    fleet: Path,
    wanted: Sequence[Enrolment | Renewal],
    now: datetime,
    *,
    days: int,
    passphrase: bytes | None = None,
) -> list[Signed]:
    """Sign, one after the other.

    A certificate is staged, gets into the CA's book, and is given out then: at whatever point this is
    cut off, the next call neither signs twice nor gives out what the book does not hold.

    Args:
        store: Where they wait.
        fleet: The CA's folder.
        wanted: Of `waiting`.
        now: With a time zone.
        days: How long certificates last.
        passphrase: Of ca.key.

    Raises:
        FleetFolderError: The CA's folder cannot be used, or is that of another fleet.
    """
    places = {store.place(one) for one in wanted}
    with fleet_store.locked(fleet):
        authority = fleet_store.load_fleet(fleet, passphrase)
        if authority.public_key != store.ca_public_key:
            raise FleetFolderError(fleet, f"is the CA of another fleet than {store.folder} is for")
        booked = {one.serial for one in authority.issued}
        outcomes: list[Signed] = []
        staged: list[Enrolment | Renewal] = []
        # Read again: somebody else may have signed since.
        for one in (each for each in waiting(store) if store.place(each) in places):
            left = store.staged(one)
            if left and certified(authority.public_key, left).member.serial in booked:
                staged.append(one)  # cut off after the book was written
                outcomes.append(Signed(what=describe(one)))
                continue
            if left:
                store.unstage(one)
            try:
                certificate = _certificate_for(one, authority, now, days)
            except EnrolmentRefusedError as error:
                store.refuse(one, str(error))
                outcomes.append(Signed(what=describe(one), refusal=str(error)))
                continue
            store.stage(one, certificate)
            staged.append(one)
            outcomes.append(Signed(what=describe(one)))
        # Into the book first: a certificate that is not in it could never be revoked.
        fleet_store.save_fleet(fleet, authority)
        for one in staged:
            store.issue(one)
    return outcomes


def describe(one: Enrolment | Renewal) -> str:
    """One line for people."""
    if isinstance(one, Enrolment):
        key = one.keys.identity_key.hex()[:16] if one.keys else ""
        return f"{one.role.value} {one.name}, new, key {key}"
    return f"renewal of certificate {one.serial:x}"


def _certificate_for(
    one: Enrolment | Renewal, authority: FleetAuthority, now: datetime, days: int
) -> bytes:
    """Sign in memory.

    Raises:
        EnrolmentRefusedError: The name is taken, or the certificate held does not count any more.
    """
    if isinstance(one, Renewal):
        member = check_renewal(one.request, authority.trust(), now).member
        return authority.certify(member.name, member.role, member.public_key, now, days, renew=True)
    assert one.keys is not None  # noqa: S101 - only what waits is signed
    key = Ed25519PublicKey.from_public_bytes(one.keys.identity_key)
    try:
        return authority.certify(one.name, one.role, key, now, days)
    except ValueError as error:
        raise EnrolmentRefusedError(
            Refusal.NOT_SIGNED, f"the CA does not sign: {error}; revoke it or take another name"
        ) from error
