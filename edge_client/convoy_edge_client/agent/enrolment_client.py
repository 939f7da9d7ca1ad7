"""Talk to the enrolment service, trusting one TLS CA and no other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from convoy_edge_client.errors import EnrolmentError, ServerUnreachableError
from convoy_protos.v1.enrolment_pb2 import (
    EnrolmentReply,
    JoinRequest,
    PassRequest,
    RenewRequest,
    RevocationsRequest,
)
from convoy_protos.v1.enrolment_pb2_grpc import EnrolmentStub

Reply = TypeVar("Reply")

_TIMEOUT_S: Final = 30.0
_MAX_REPLY_BYTES: Final = 2 << 20
"""A list of revocations has 1 MiB at most."""

_REFUSED: Final = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
}


class EnrolmentClient:
    """The service's three calls; what goes wrong becomes an EnrolmentError."""

    def __init__(self, address: str, stub: EnrolmentStub) -> None:
        self._address = address
        self._stub = stub

    def join(self, request: JoinRequest) -> EnrolmentReply:
        """Ask for membership.

        Raises:
            EnrolmentError: Refused; or a ServerUnreachableError.
        """
        return self._call(lambda: self._stub.Join(request, timeout=_TIMEOUT_S))

    def renew(self, request: RenewRequest) -> EnrolmentReply:
        """Ask for the next certificate; as `join`."""
        return self._call(lambda: self._stub.Renew(request, timeout=_TIMEOUT_S))

    def revocations(self) -> bytes:
        """The newest list, DER, unchecked; as `join`."""
        request = RevocationsRequest()
        return self._call(lambda: self._stub.Revocations(request, timeout=_TIMEOUT_S)).revocations

    def service_pass(self, request: PassRequest) -> bytes:
        """A TLS certificate for the key in the request, DER, unchecked; as `join`."""
        return self._call(lambda: self._stub.Pass(request, timeout=_TIMEOUT_S)).tls_certificate

    def _call(self, call: Callable[[], Reply]) -> Reply:
        try:
            return call()
        except grpc.RpcError as error:
            raise _translated(error, self._address) from error


@contextmanager
def enrolment_client(address: str, tls_ca: bytes) -> Iterator[EnrolmentClient]:
    """A connection to HOST:PORT.

    Args:
        address: Of the service; must be in the certificate that it shows.
        tls_ca: X.509, DER.

    Raises:
        EnrolmentError: tls_ca is no certificate.
    """
    try:
        pem = x509.load_der_x509_certificate(tls_ca).public_bytes(Encoding.PEM)
    except ValueError as error:
        raise EnrolmentError("the TLS CA that is to be pinned is no certificate") from error
    channel = grpc.secure_channel(
        address,
        grpc.ssl_channel_credentials(pem),
        options=(("grpc.max_receive_message_length", _MAX_REPLY_BYTES),),
    )
    try:
        yield EnrolmentClient(address, EnrolmentStub(channel))
    finally:
        channel.close()


def _translated(error: grpc.RpcError, address: str) -> EnrolmentError:
    code, details = error.code(), error.details() or ""
    if code in _REFUSED:
        return EnrolmentError(f"{address} refuses: {details}")
    if "CERTIFICATE_VERIFY_FAILED" in details or "Hostname Verification" in details:
        return EnrolmentError(
            f"{address}: whoever answers there is not the server of this fleet: its TLS certificate is "
            "not by the CA that is pinned, has ended, or is for another host"
        )
    return ServerUnreachableError(
        f"{address} cannot be asked now ({code.name.lower()}: {details}); try again later"
    )
