"""The fleet's CA: whom it admits, whom it revokes. Source: RFC 5280, profile in certificates.py.

It holds a key and a list; the disk is fleet_store's business. Simulations and tests keep a whole fleet in
memory with it.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from convoy_privacy.certificates import (
    MAX_LIST_BYTES,
    Identity,
    Role,
    Trust,
    check_name,
    read_revocations,
)

CERTIFICATE_DAYS: Final = 365
LIST_DAYS: Final = 90
"""How long a withheld revocation can go unnoticed; as often the CA must be taken out of its drawer."""

CLOCK_SLACK: Final = timedelta(hours=1)
"""A certificate is in force so long before it was issued: vehicles' clocks run late."""

_CA_DAYS: Final = 20 * 365
_ISSUER: Final = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Convoy fleet CA")])

# Short, as every vehicle of a shard downloads all the others' certificates; the 126 random bits are more
# than the 64 that RFC 5280 and the CA/Browser rules ask for.
_SERIAL_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """One line of the CA's book.

    Attributes:
        name: Of the party.
        role: Of the party.
        serial: Of the certificate, unique.
        expires: When it ends by itself.
        revoked: When it was revoked; None: it was not.
    """

    name: str
    role: Role
    serial: int
    expires: datetime
    revoked: datetime | None = None

    def in_force(self, now: datetime) -> bool:
        """Whether a party may still act with it."""
        return self.revoked is None and now <= self.expires


class FleetAuthority:
    """A CA with its book.

    Attributes:
        certificate: Its own, DER: what parties pin.
        issued: Every certificate ever issued, oldest first.
        revocation_list: The newest, DER.
    """

    def __init__(
        self,
        signing_key: Ed25519PrivateKey,
        certificate: bytes,
        revocation_list: bytes,
        issued: tuple[IssuedCertificate, ...] = (),
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.signing_key = signing_key
        self.certificate = certificate
        self.revocation_list = revocation_list
        self.issued = list(issued)
        self._random = random
        self._newest = {one.name: one for one in issued}

    @classmethod
    def create(
        cls,
        now: datetime,
        random: Callable[[int], bytes] = os.urandom,
        list_days: int = LIST_DAYS,
    ) -> "FleetAuthority":
        """A new CA without members.

        Args:
            now: With a time zone.
            random: Gives so many unpredictable bytes.
            list_days: Days until its first list of revocations is too old.
        """
        signing_key = Ed25519PrivateKey.from_private_bytes(random(32))
        builder = (
            _builder(_ISSUER, signing_key.public_key(), _serial(random), now, _CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage(ca=True), critical=True)
        )
        certificate = builder.sign(signing_key, None).public_bytes(Encoding.DER)
        authority = cls(signing_key, certificate, b"", random=random)
        authority.revocation_list = authority._list(1, now, list_days)
        return authority

    @property
    def public_key(self) -> bytes:
        """Raw Ed25519, 32 bytes."""
        return self.signing_key.public_key().public_bytes_raw()

    def trust(self) -> Trust:
        """What a party set up now goes by."""
        return Trust(self.public_key, read_revocations(self.public_key, self.revocation_list))

    def issue(
        self,
        name: str,
        role: Role,
        now: datetime,
        days: int = CERTIFICATE_DAYS,
        *,
        renew: bool = False,
    ) -> Identity:
        """Admit a party, with a new key.

        Args:
            name: As certificates.check_name wants it.
            role: What the party may be.
            now: With a time zone.
            days: How long, from now.
            renew: The name may have a certificate already, which stays in force until it ends.

        Raises:
            ValueError: The name is none, or taken, or the days are below 1.
        """
        signing_key = Ed25519PrivateKey.from_private_bytes(self._random(32))
        certificate = self.certify(name, role, signing_key.public_key(), now, days, renew=renew)
        return Identity(certificate=certificate, signing_key=signing_key, name=name)

    def certify(
        self,
        name: str,
        role: Role,
        public_key: Ed25519PublicKey,
        now: datetime,
        days: int = CERTIFICATE_DAYS,
        *,
        renew: bool = False,
    ) -> bytes:
        """Admit a party that made its own key; otherwise as `issue`. Returns the certificate, DER."""
        check_name(name)
        if days < 1:
            raise ValueError(f"a certificate lasts at least 1 day, got {days}")
        newest = self._newest.get(name)
        if newest and newest.in_force(now) and not renew:
            raise ValueError(f"{name} has a certificate in force until {newest.expires:%Y-%m-%d}")
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role.value),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )
        serial = _serial(self._random)
        builder = (
            _builder(subject, public_key, serial, now, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(ca=False), critical=True)
        )
        certificate = builder.sign(self.signing_key, None)
        entry = IssuedCertificate(
            name=name, role=role, serial=serial, expires=certificate.not_valid_after_utc
        )
        self.issued.append(entry)
        self._newest[name] = entry
        return certificate.public_bytes(Encoding.DER)

    def revoke(self, name: str, now: datetime, list_days: int = LIST_DAYS) -> int:
        """Revoke every certificate of a party and issue a new list.

        Returns:
            How many certificates were in force; 0 where they were revoked before or had expired.

        Raises:
            ValueError: Nobody of this name was ever admitted, or the list gets too long.
        """
        if name not in self._newest:
            raise ValueError(f"nobody called {name!r} was admitted")
        revoked = 0
        for place, one in enumerate(self.issued):
            if one.name == name and one.in_force(now):
                self.issued[place] = self._newest[name] = replace(one, revoked=now)
                revoked += 1
        self.renew_list(now, list_days)
        return revoked

    def renew_list(self, now: datetime, list_days: int = LIST_DAYS) -> None:
        """Issue the list again under the next number, so that it does not end."""
        held = read_revocations(self.public_key, self.revocation_list)
        self.revocation_list = self._list(held.number + 1, now, list_days)

    def _list(self, number: int, now: datetime, days: int) -> bytes:
        revoked = [
            x509.RevokedCertificateBuilder()
            .serial_number(one.serial)
            .revocation_date(one.revoked)
            .build()
            for one in self.issued
            if one.revoked is not None
        ]
        builder = (
            x509.CertificateRevocationListBuilder(revoked_certificates=revoked)
            .issuer_name(_ISSUER)
            .last_update(now)
            .next_update(now + timedelta(days=days))
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        signed = builder.sign(self.signing_key, None).public_bytes(Encoding.DER)
        if len(signed) > MAX_LIST_BYTES:
            raise ValueError(
                f"{len(revoked)} revoked certificates are more than a list holds: start a new fleet"
            )
        return signed


def _serial(random: Callable[[int], bytes]) -> int:
    # The top bits 01 keep it positive and of one length.
    return int.from_bytes(random(_SERIAL_BYTES), "big") >> 2 | 1 << (8 * _SERIAL_BYTES - 2)


def _builder(
    subject: x509.Name, public_key: Ed25519PublicKey, serial: int, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(_ISSUER)
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(now + timedelta(days=days))
    )


def key_usage(*, ca: bool) -> x509.KeyUsage:
    """RFC 5280, 4.2.1.3: a CA signs certificates and lists, anybody else signs messages."""
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
