"""The fleet's other CA: it signs TLS certificates, and nothing else. Source: RFC 5280, RFC 8446.

A CA of its own, of ECDSA over P-256, for three reasons. gRPC's BoringSSL takes no Ed25519 certificate of
a server. Python from 3.13 on refuses a CA without key identifiers, as the fleet's CAs are. And a vehicle's
certificate can never pass for a server's: one that a vehicle shows when it connects is for clients alone.
"""

import ipaddress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from convoy_privacy.fleet_authority import CLOCK_SLACK, key_usage

TLS_CERTIFICATE_DAYS: Final = 365

_CA_DAYS: Final = 20 * 365
_ISSUER: Final = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Convoy TLS CA")])


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsIdentity:
    """What a server shows to whoever connects.

    Attributes:
        certificate: X.509, DER.
        private_key: Its key, P-256.
    """

    certificate: bytes
    private_key: ec.EllipticCurvePrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsAuthority:
    """The CA.

    Attributes:
        certificate: Its own, DER: what vehicles pin.
        private_key: P-256.
    """

    certificate: bytes
    private_key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def create(cls, now: datetime) -> "TlsAuthority":
        """A new CA.

        Args:
            now: With a time zone.
        """
        private_key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_ISSUER, private_key.public_key(), private_key.public_key(), now, _CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage(ca=True), critical=True)
            .sign(private_key, SHA256())
        )
        return cls(certificate=certificate.public_bytes(Encoding.DER), private_key=private_key)

    def issue(
        self, hosts: tuple[str, ...], now: datetime, days: int = TLS_CERTIFICATE_DAYS
    ) -> TlsIdentity:
        """A certificate for a server, with a new key.

        Args:
            hosts: DNS names and IP addresses under which vehicles reach it, at least one.
            now: With a time zone.
            days: How long, from now.

        Raises:
            ValueError: No hosts, one that is none, or days below 1.
        """
        if not hosts:
            raise ValueError("a server is reached under at least one host name or address")
        if days < 1:
            raise ValueError(f"a certificate lasts at least 1 day, got {days}")
        private_key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(
                x509.Name([]), private_key.public_key(), self.private_key.public_key(), now, days
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            # Critical, as RFC 5280 (4.2.1.6) wants it beside an empty subject.
            .add_extension(x509.SubjectAlternativeName(map(_host, hosts)), critical=True)
            .sign(self.private_key, SHA256())
        )
        return TlsIdentity(
            certificate=certificate.public_bytes(Encoding.DER), private_key=private_key
        )

    def certify_client(
        self,
        name: str,
        membership: int,
        public_key: ec.EllipticCurvePublicKey,
        now: datetime,
        days: int,
    ) -> bytes:
        """A certificate that a party shows when it connects to a service that asks who calls.

        Args:
            name: The party's in the fleet; becomes the common name.
            membership: Serial number of its certificate by the fleet's CA; becomes the subject's serial
                number, so that whoever is revoked there is revoked here.
            public_key: Made by the party, P-256 or P-384.
            now: With a time zone.
            days: How long, from now.

        Returns:
            X.509, DER.

        Raises:
            ValueError: A name that is empty or longer than 64 characters, or days below 1.
        """
        if not 1 <= len(name) <= 64:
            raise ValueError(f"a name has 1 to 64 characters, got {len(name)}")
        if days < 1:
            raise ValueError(f"a certificate lasts at least 1 day, got {days}")
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, name),
                x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{membership:x}"),
            ]
        )
        certificate = (
            _builder(subject, public_key, self.private_key.public_key(), now, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(self.private_key, SHA256())
        )
        return certificate.public_bytes(Encoding.DER)


def read_client(certificate_pem: bytes) -> tuple[str, int]:
    """Name and membership of a client whose certificate TLS has verified.

    Raises:
        ValueError: It is none that `certify_client` made.
    """
    subject = x509.load_pem_x509_certificate(certificate_pem).subject
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    memberships = subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)
    if len(names) != 1 or len(memberships) != 1:
        raise ValueError("the certificate names no party and membership")
    return str(names[0].value), int(str(memberships[0].value), 16)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.split(".")
    if not host.isascii() or len(host) > 253 or not all(map(_is_label, labels)):
        raise ValueError(f"{host!r} is no host: neither a DNS name nor an IP address")
    return x509.DNSName(host)


def _is_label(label: str) -> bool:
    plain = label.replace("-", "").isalnum() and not label.startswith("-")
    return plain and not label.endswith("-") and len(label) <= 63


def _builder(
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(_ISSUER)
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
        )
    )
