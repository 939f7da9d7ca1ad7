"""The enrolment service: gRPC over TLS, as a process of its own.

    python -m convoy_server.service.enrolment server.toml

What anybody on the network can make it do is bounded: bytes of a message, calls at once, calls a minute
from one address, seconds of a handshake and of an idle connection.
"""

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import grpc
from google.protobuf.message import DecodeError, Message

from convoy_privacy import key_files
from convoy_privacy.fleet_authority import CERTIFICATE_DAYS
from convoy_protos.errors import ConvoyError, JobFailedError
from convoy_protos.v1.enrolment_pb2 import (
    DESCRIPTOR,
    JoinRequest,
    PassRequest,
    RenewRequest,
    RevocationsRequest,
)
from convoy_server.errors import EnrolmentRefusedError, Refusal
from convoy_server.service.enrolment_desk import EnrolmentDesk
from convoy_server.service.enrolment_store import ENROLMENTS_FOLDER, EnrolmentStore
from convoy_server.service.flower_nodes import FlowerNodes
from convoy_server.service.passes import MemberList, PassOffice, pass_authority
from convoy_server.service.rate_limit import RateLimit
from convoy_server.service.server_config import ServerConfig, load_server_config
from convoy_server.service.structured_log import set_up_log

logger = logging.getLogger(__name__)

MAX_REQUEST_BYTES: Final = 8192
"""A request holds a certificate of 2 kB at most, a few keys and a name."""

CALLS_PER_MINUTE: Final = 60
"""From one address, behind which a whole garage may be."""

_SERVICE: Final = DESCRIPTOR.services_by_name["Enrolment"]
_THREADS: Final = 4
_CALLS_AT_ONCE: Final = 16
_TEND_S: Final = 2.0
_SLOWEST_TEND_S: Final = 60.0
_LIMITS: Final = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_metadata_size", 8192),
    ("grpc.max_concurrent_streams", 4),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 60_000),
    ("grpc.max_connection_age_ms", 300_000),
    ("grpc.so_reuseport", 0),
)
_STATUS: Final = {
    Refusal.MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
    Refusal.UNKNOWN_TOKEN: grpc.StatusCode.PERMISSION_DENIED,
    Refusal.EXPIRED: grpc.StatusCode.PERMISSION_DENIED,
    Refusal.USED: grpc.StatusCode.PERMISSION_DENIED,
    Refusal.UNTRUSTED: grpc.StatusCode.PERMISSION_DENIED,
    Refusal.EARLY: grpc.StatusCode.FAILED_PRECONDITION,
    Refusal.NOT_SIGNED: grpc.StatusCode.FAILED_PRECONDITION,
}


class EnrolmentCalls:
    """The network's side of the desk.

    Requests come as bytes and are parsed here, not by grpcio: after the rate is checked, and with an
    answer of ours where they are garbage.
    """

    def __init__(
        self,
        desk: EnrolmentDesk,
        calls: RateLimit,
        wake: threading.Event,
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
        now_s: Callable[[], float] = time.monotonic,
        *,
        passes: PassOffice | None = None,
    ) -> None:
        """Nobody has called.

        Args:
            desk: Answers.
            calls: How often one address may.
            wake: Set when there is something to tend.
            utc_now: Clock of tokens and certificates.
            now_s: Clock of the rate.
            passes: Gives passes for the release service; None: there is no such service.
        """
        self._passes = passes
        self._desk = desk
        self._calls = calls
        self._calls_lock = threading.Lock()
        self._wake = wake
        self._utc_now = utc_now
        self._now_s = now_s

    def handler(self) -> grpc.GenericRpcHandler:
        """What a gRPC server is given."""
        answers = {
            "Join": self._join,
            "Renew": self._renew,
            "Revocations": self._revocations,
            "Pass": self._pass,
        }
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            name: grpc.unary_unary_rpc_method_handler(partial(self._answer, answer))
            for name, answer in answers.items()
        }
        return grpc.method_handlers_generic_handler(_SERVICE.full_name, handlers)

    def _join(self, data: bytes) -> Message:
        reply = self._desk.join(JoinRequest.FromString(data), self._utc_now())
        self._wake.set()
        return reply

    def _renew(self, data: bytes) -> Message:
        return self._desk.renew(RenewRequest.FromString(data), self._utc_now())

    def _revocations(self, data: bytes) -> Message:
        RevocationsRequest.FromString(data)
        return self._desk.revocations()

    def _pass(self, data: bytes) -> Message:
        request = PassRequest.FromString(data)
        if self._passes is None:
            raise EnrolmentRefusedError(
                Refusal.NOT_SIGNED, "this server has no release service: no pass is needed"
            )
        return self._passes.issue(request, self._utc_now())

    def _answer(
        self, answer: Callable[[bytes], Message], data: bytes, context: grpc.ServicerContext
    ) -> bytes:
        address = context.peer().rpartition(":")[0]
        with self._calls_lock:
            allowed = self._calls.allows(address, self._now_s())
        if not allowed:
            _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls: wait a minute")
        try:
            return answer(data).SerializeToString()
        except DecodeError:
            _abort(context, grpc.StatusCode.INVALID_ARGUMENT, "this is no request")
        except EnrolmentRefusedError as error:
            logger.warning("%s was refused (%s): %s", address, error.refusal.value, error)
            _abort(context, _STATUS[error.refusal], str(error))
        except ConvoyError as error:
            # What is wrong with the server's own files is not for the network to read.
            logger.error("%s could not be answered: %s", address, error)  # noqa: TRY400 - one line
            _abort(
                context, grpc.StatusCode.UNAVAILABLE, "the server cannot answer now: see its log"
            )


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, why: str) -> NoReturn:
    context.abort(code, why)
    raise AssertionError("abort always raises")


@contextmanager
def serving(
    desk: EnrolmentDesk,
    address: str,
    certificate: Path,
    private_key: Path,
    *,
    wake: threading.Event,
    calls_per_minute: int = CALLS_PER_MINUTE,
    passes: PassOffice | None = None,
) -> Iterator[int]:
    """Answer until the block ends; calls that are under way are answered first.

    Args:
        desk: Answers.
        address: HOST:PORT to listen on; port 0 takes a free one.
        certificate: PEM, as `convoy fleet add --role server` makes it.
        private_key: PEM.
        wake: Set when there is something to tend.
        calls_per_minute: By one address.
        passes: Gives passes for the release service; None: there is no such service.

    Yields:
        The port.

    Raises:
        FleetFolderError: A TLS file is missing, broken or readable by others.
        JobFailedError: The address is taken or none of this machine's.
    """
    key_files.read_tls_key(private_key)
    pair = (key_files.read_file(private_key, private=True), key_files.read_file(certificate))
    server = grpc.server(
        futures.ThreadPoolExecutor(_THREADS, "enrolment"),
        options=_LIMITS,
        maximum_concurrent_rpcs=_CALLS_AT_ONCE,
    )
    calls = EnrolmentCalls(desk, RateLimit(calls_per_minute), wake, passes=passes)
    server.add_generic_rpc_handlers((calls.handler(),))
    try:
        port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    except RuntimeError as error:
        raise JobFailedError(f"{address}: cannot listen there: {error}") from error
    server.start()
    try:
        yield port
    finally:
        server.stop(grace=5.0).wait()


def tend_until(
    stop: threading.Event,
    desk: EnrolmentDesk,
    wake: threading.Event,
    utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Tend every few seconds and after each new member; more slowly while something is not possible.

    Args:
        stop: Set to end; set `wake` as well.
        desk: Tends.
        wake: Set when there is something to tend.
        utc_now: Clock of certificates.
    """
    pause_s = _TEND_S
    while not stop.is_set():
        wake.clear()
        try:
            desk.tend(utc_now())
        except ConvoyError as error:
            logger.warning("enrolment: %s; tried again in %.0f s", error, pause_s)
            stop.wait(pause_s)
            pause_s = min(2 * pause_s, _SLOWEST_TEND_S)
        else:
            pause_s = _TEND_S
            wake.wait(_TEND_S)


def main(config_path: Path) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConvoyError: The configuration, a key or the address cannot be used.
    """
    config = load_server_config(config_path)
    set_up_log(config.log, "enrolment")
    stop, wake = threading.Event(), threading.Event()

    def end(_number: int, _frame: object) -> None:
        stop.set()
        wake.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    desk = desk_of(config)
    with serving(
        desk,
        f"{config.services.host}:{config.services.port}",
        Path(config.fleet_door.certificate),
        Path(config.fleet_door.key),
        wake=wake,
        passes=passes_of(config),
    ) as port:
        logger.info("enrolment listens on %s:%d", config.services.host, port)
        # In this thread: a fault of ours ends the process, and the supervisor starts another.
        tend_until(stop, desk, wake)


def desk_of(config: ServerConfig) -> EnrolmentDesk:
    """The desk that server.toml describes."""
    private = config.private_door.address
    return EnrolmentDesk(
        EnrolmentStore(config.state_folder / ENROLMENTS_FOLDER),
        Path(config.identity.aggregator),
        FlowerNodes(private),
        days=CERTIFICATE_DAYS,
        fleet=Path(config.enrolment.authority) if config.enrolment.authority else None,
    )


def passes_of(config: ServerConfig) -> PassOffice | None:
    """Who gives passes, if server.toml describes a release service."""
    if not config.releases.folder:
        return None
    authority = pass_authority(config.state_folder, datetime.now(UTC))
    return PassOffice(authority, MemberList(Path(config.identity.aggregator)))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except ConvoyError as fault:
        sys.exit(f"enrolment: {fault}")
