"""The vehicle's pass: a TLS certificate of a few days that says who calls the release service.

    pass.pem   the key, then the certificate; private, written whole

The key is made here; the enrolment service certifies it for whoever signs with the vehicle's identity.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from convoy_edge_client.agent.enrolment_client import EnrolmentClient, enrolment_client
from convoy_edge_client.errors import EnrolmentError
from convoy_edge_client.releases.release_client import ClientTls
from convoy_privacy import key_files
from convoy_privacy.certificates import Identity
from convoy_protos.enrolment_token import pass_bytes
from convoy_protos.v1.enrolment_pb2 import PassRequest

Connect = Callable[[str, bytes], AbstractContextManager[EnrolmentClient]]


def service_pass(
    path: Path,
    identity: Identity,
    services: str,
    tls_ca: bytes,
    now: datetime,
    *,
    connect: Connect = enrolment_client,
) -> ClientTls:
    """The pass in a file; a new one if less than a third of its life is left.

    Args:
        path: The file.
        identity: Of the vehicle.
        services: HOST:PORT of the enrolment service.
        tls_ca: Whose certificates the services show, X.509 DER.
        now: With a time zone.
        connect: Opens a connection to an address, trusting a TLS CA.

    Raises:
        EnrolmentError: Refused, nobody answers, or what was issued is not for this key.
        FleetFolderError: The file cannot be written.
    """
    ca = x509.load_der_x509_certificate(tls_ca).public_bytes(Encoding.PEM)
    held = _held(path, now)
    if held is not None:
        return ClientTls(ca=ca, certificate=held[1], private_key=held[0])
    key = ec.generate_private_key(ec.SECP256R1())
    public_key = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    request = PassRequest(
        certificate=identity.certificate,
        tls_public_key=public_key,
        signature=identity.sign(pass_bytes(identity.certificate, public_key)),
    )
    with connect(services, tls_ca) as client:
        issued = client.service_pass(request)
    try:
        certificate = x509.load_der_x509_certificate(issued)
    except ValueError as error:
        raise EnrolmentError(f"{services} issued a pass that is no certificate") from error
    if certificate.public_key() != key.public_key():
        raise EnrolmentError(f"{services} issued a pass for another key")
    private_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate_pem = certificate.public_bytes(Encoding.PEM)
    key_files.write_file(path, private_pem + certificate_pem, private=True)
    return ClientTls(ca=ca, certificate=certificate_pem, private_key=private_pem)


def _held(path: Path, now: datetime) -> tuple[bytes, bytes] | None:
    """Key and certificate, PEM; None: none, none that can be read, or one that ends soon."""
    if not path.exists():
        return None
    data = key_files.read_file(path, private=True)
    start = data.find(b"-----BEGIN CERTIFICATE-----")
    private_pem, certificate_pem = data[:start], data[start:]
    try:
        load_pem_private_key(private_pem, None)
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except ValueError:
        return None  # get another
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return None if end - now < (end - begin) / 3 else (private_pem, certificate_pem)
