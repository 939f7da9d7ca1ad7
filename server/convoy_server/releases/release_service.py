"""The release service: gRPC with mutual TLS, for vehicles that fetch, listen and report.

One thread serves all: a listening vehicle costs a coroutine. What a vehicle can make it do is bounded:
bytes of a request, calls a minute, transfers at once, seconds of a transfer. The repository is read as it
lies on the disk; nothing secret is in it.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Final, NoReturn

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from convoy_privacy import key_files
from convoy_privacy.errors import FleetFolderError, ReleaseFormatError
from convoy_privacy.releases.layout import CHUNK_BYTES, check_name, check_path
from convoy_privacy.tls_authority import read_client
from convoy_protos.errors import ConvoyError, JobFailedError, MalformedMessageError
from convoy_protos.v1.release_pb2 import (
    DESCRIPTOR,
    Chunk,
    FetchRequest,
    Hint,
    ReleaseEvent,
    ReportReply,
    ReportRequest,
    TelemetryReply,
    TelemetryRequest,
    WatchRequest,
)
from convoy_server.errors import ReleaseFolderError
from convoy_server.releases.channels import ReleaseChannels
from convoy_server.releases.key_rotation import server_keys
from convoy_server.releases.publication import renew
from convoy_server.releases.report_book import BOOK_FILE, ReportBook
from convoy_server.releases.repository import REPOSITORY_FOLDER, Lifetimes, load_state, locked
from convoy_server.releases.rollout import Outcome, RolloutBounds, VehicleReport
from convoy_server.releases.telemetry_book import (
    MAX_LINES,
    PAUSE_S,
    TELEMETRY_FILE,
    TelemetryBook,
)
from convoy_server.service.rate_limit import RateLimit

logger = logging.getLogger(__name__)

MAX_REQUEST_BYTES: Final = 64 * 1024
MAX_EVENTS: Final = 64
MAX_REASON_BYTES: Final = 500

IsMember = Callable[[str, int], bool]
"""Whether a party, by its name and the serial number of its certificate, belongs to the fleet now."""

_SERVICE: Final = DESCRIPTOR.services_by_name["Releases"]
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_metadata_size", 8192),
    ("grpc.max_concurrent_streams", 8),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.max_connection_age_ms", 3_600_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.so_reuseport", 0),
)
_OUTCOMES: Final = {
    ReleaseEvent.OUTCOME_STARTED: Outcome.STARTED,
    ReleaseEvent.OUTCOME_COMMITTED: Outcome.COMMITTED,
    ReleaseEvent.OUTCOME_FAILED: Outcome.FAILED,
    ReleaseEvent.OUTCOME_ROLLED_BACK: Outcome.ROLLED_BACK,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """What one vehicle, known by its certificate, may ask.

    Attributes:
        calls_per_minute: In the long run; as many may come at once.
        streams_at_once: Transfers and watches together.
        transfer_s: Seconds of one transfer; the vehicle goes on with another.
        watch_s: Seconds of one watch.
        calls_at_once: Of all vehicles.
        tend_s: Seconds between looks at what was published, reported and is about to expire.
    """

    calls_per_minute: float = 120.0
    streams_at_once: int = 4
    transfer_s: float = 600.0
    watch_s: float = 3600.0
    calls_at_once: int = 2048
    tend_s: float = 2.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


class RequestRefusedError(ConvoyError):
    """A vehicle asks for something that it does not get.

    Attributes:
        code: The call's status.
        why: One line, for the vehicle.
    """

    def __init__(self, code: grpc.StatusCode, why: str) -> None:
        super().__init__(code, why)
        self.code = code
        self.why = why

    def __str__(self) -> str:
        return self.why


class Callers:
    """Who may call how often; memory does not grow with the number of calls."""

    def __init__(self, limits: ServiceLimits, is_member: IsMember) -> None:
        """Nobody has called.

        Args:
            limits: Of each vehicle.
            is_member: Who belongs to the fleet.
        """
        self._limits = limits
        self._is_member = is_member
        self._rate = RateLimit(limits.calls_per_minute)
        self._streams: Counter[str] = Counter()

    def admit(self, certificates_pem: Sequence[bytes], now_s: float) -> str:
        """The vehicle that calls; the call counts.

        Args:
            certificates_pem: That TLS has verified: one.
            now_s: Of a clock that never goes back.

        Raises:
            RequestRefusedError: No member, or too many calls.
            FleetFolderError: The server's own list of revocations is broken.
        """
        try:
            (certificate,) = certificates_pem
            name, membership = read_client(certificate)
        except ValueError as error:
            raise RequestRefusedError(
                grpc.StatusCode.UNAUTHENTICATED, "the certificate is no pass"
            ) from error
        if not self._is_member(name, membership):
            raise RequestRefusedError(
                grpc.StatusCode.PERMISSION_DENIED, f"{name} is no member of this fleet any more"
            )
        if not self._rate.allows(name, now_s):
            raise RequestRefusedError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls: wait a minute"
            )
        return name

    @contextlib.contextmanager
    def stream(self, vehicle: str) -> Iterator[None]:
        """Count a stream of a vehicle while it lasts.

        Raises:
            RequestRefusedError: It has as many as it may.
        """
        if self._streams[vehicle] >= self._limits.streams_at_once:
            raise RequestRefusedError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self._limits.streams_at_once} streams are open already: close one",
            )
        self._streams[vehicle] += 1
        try:
            yield
        finally:
            self._streams[vehicle] -= 1
            if not self._streams[vehicle]:
                del self._streams[vehicle]


class ReleaseDesk:
    """What is answered, without the network."""

    def __init__(self, releases: Path) -> None:
        """Nothing is read yet.

        Args:
            releases: RELEASES.
        """
        self._folder = releases / REPOSITORY_FOLDER
        self._book = ReportBook(releases / BOOK_FILE)
        self._telemetry = TelemetryBook(releases / TELEMETRY_FILE)

    def timestamp_version(self) -> int:
        """What a hint says.

        Raises:
            ReleaseFolderError: The repository is broken.
        """
        return load_state(self._folder).timestamp.signed.version

    def chunks(self, request: FetchRequest) -> Generator[bytes]:
        """A file from an offset on.

        Raises:
            RequestRefusedError: No such file, or an offset beyond its end.
        """
        try:
            path = (self._folder / check_path(request.path)).resolve()
        except ReleaseFormatError as error:
            raise RequestRefusedError(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error
        if not path.is_relative_to(self._folder.resolve()) or not path.is_file():
            raise RequestRefusedError(grpc.StatusCode.NOT_FOUND, request.path)
        try:
            file = path.open("rb")
        except OSError as error:
            raise RequestRefusedError(grpc.StatusCode.NOT_FOUND, request.path) from error
        with file:
            if request.offset > path.stat().st_size:
                raise RequestRefusedError(
                    grpc.StatusCode.OUT_OF_RANGE, f"{request.path} ends before {request.offset}"
                )
            file.seek(request.offset)
            while data := file.read(CHUNK_BYTES):
                yield data

    def report(self, vehicle: str, request: ReportRequest) -> ReportReply:
        """Keep what a vehicle says.

        Raises:
            RequestRefusedError: An event is none; nothing of the request is kept.
            ReleaseFolderError: The disk refuses.
        """
        if not 1 <= len(request.events) <= MAX_EVENTS:
            raise RequestRefusedError(
                grpc.StatusCode.INVALID_ARGUMENT, f"a report has 1 to {MAX_EVENTS} events"
            )
        reports = [(_report(vehicle, event), event.reason) for event in request.events]
        for report, reason in reports:
            if self._book.add(report, reason):
                logger.info("%s: %s %s", vehicle, report.release, report.outcome.value)
        return ReportReply(highest_number=max(report.number for report, _ in reports))

    def telemetry(self, vehicle: str, request: TelemetryRequest) -> TelemetryReply:
        """Keep how a vehicle drives.

        Raises:
            RequestRefusedError: A line is none; nothing of the request is kept.
            ReleaseFolderError: The disk refuses.
        """
        try:
            highest = self._telemetry.add(vehicle, request.lines)
        except MalformedMessageError as error:
            raise RequestRefusedError(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error
        # A full batch means that more waits: it may come at once, as far as the rate of calls allows.
        more = len(request.lines) == MAX_LINES
        return TelemetryReply(highest_number=highest, next_interval_s=0.0 if more else PAUSE_S)


class ReleaseCalls:
    """The network's side of the desk.

    Requests come as bytes and are parsed here: after the rate is checked, and with an answer of ours where
    they are garbage.
    """

    def __init__(
        self,
        desk: ReleaseDesk,
        callers: Callers,
        limits: ServiceLimits,
        now_s: Callable[[], float] = monotonic,
    ) -> None:
        """Nobody has called.

        Args:
            desk: Answers.
            callers: Who may.
            limits: Of each call.
            now_s: Clock of the rate.
        """
        self._desk = desk
        self._callers = callers
        self._limits = limits
        self._now_s = now_s
        self._version = 0
        self._changed = asyncio.Event()
        self.reported = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        """What a gRPC server is given."""
        return grpc.method_handlers_generic_handler(
            _SERVICE.full_name,
            {
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
                "Fetch": grpc.unary_stream_rpc_method_handler(self._fetch),
                "Report": grpc.unary_unary_rpc_method_handler(self._report),
                "Telemetry": grpc.unary_unary_rpc_method_handler(self._telemetry),
            },
        )

    def publish_hint(self, version: int) -> None:
        """Wake who listens, if there is something new."""
        if version != self._version:
            self._version = version
            self._changed.set()
            self._changed = asyncio.Event()

    async def _watch(self, data: bytes, context: aio.ServicerContext[bytes, bytes]) -> None:
        async with self._answering(context) as vehicle:
            WatchRequest.FromString(data)
            with self._callers.stream(vehicle), contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.watch_s):
                    while True:
                        changed = self._changed
                        hint = Hint(timestamp_version=self._version)
                        await context.write(hint.SerializeToString())
                        await changed.wait()

    async def _fetch(self, data: bytes, context: aio.ServicerContext[bytes, bytes]) -> None:
        async with self._answering(context) as vehicle:
            request = FetchRequest.FromString(data)
            chunks = contextlib.closing(self._desk.chunks(request))
            with self._callers.stream(vehicle), chunks as content:
                async with asyncio.timeout(self._limits.transfer_s):
                    for chunk in content:
                        await context.write(Chunk(data=chunk).SerializeToString())

    async def _report(self, data: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
        async with self._answering(context) as vehicle:
            request = ReportRequest.FromString(data)
            reply = await asyncio.to_thread(self._desk.report, vehicle, request)
            self.reported.set()
            return reply.SerializeToString()

    async def _telemetry(self, data: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
        async with self._answering(context) as vehicle:
            request = TelemetryRequest.FromString(data)
            reply = await asyncio.to_thread(self._desk.telemetry, vehicle, request)
            return reply.SerializeToString()

    @contextlib.asynccontextmanager
    async def _answering(self, context: aio.ServicerContext[bytes, bytes]) -> AsyncIterator[str]:
        """Who calls; and what goes wrong becomes a status."""
        try:
            certificates = context.auth_context().get("x509_pem_cert", ())
            yield self._callers.admit(list(certificates), self._now_s())
        except RequestRefusedError as error:
            await _abort(context, error.code, error.why)
        except DecodeError:
            await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, "this is no request")
        except TimeoutError:
            await _abort(
                context, grpc.StatusCode.DEADLINE_EXCEEDED, "too slow: go on with a new call"
            )
        except (ReleaseFolderError, FleetFolderError, OSError) as error:
            # What is wrong with the server's own files is not for the network to read.
            logger.error("a call could not be answered: %s", error)  # noqa: TRY400 - one line
            await _abort(
                context, grpc.StatusCode.UNAVAILABLE, "the server cannot answer now: see its log"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """What the service shows, and whom it believes.

    Attributes:
        certificate: PEM, as `convoy fleet add --role server` makes it.
        private_key: PEM.
        ca: PEM of the CA that signs passes, see service/passes.py.
    """

    certificate: Path
    private_key: Path
    ca: Path


async def serve(
    releases: Path,
    address: str,
    tls: TlsFiles,
    is_member: IsMember,
    *,
    limits: ServiceLimits,
    lifetimes: Lifetimes,
    bounds: RolloutBounds,
    stop: asyncio.Event,
    on_port: Callable[[int], None] = lambda _port: None,
) -> None:
    """Answer until told to stop; keep the repository fresh and pause what fails meanwhile.

    Args:
        releases: RELEASES.
        address: HOST:PORT to listen on; port 0 takes a free one.
        tls: Files.
        is_member: Who belongs to the fleet.
        limits: Of each vehicle.
        lifetimes: Of the roles that the server signs.
        bounds: When a rollout pauses.
        stop: Set to end.
        on_port: Told the port.

    Raises:
        FleetFolderError: A TLS file or an online key is missing, broken or readable by others.
        ReleaseFolderError: The repository is broken.
        JobFailedError: The address is taken or none of this machine's.
    """
    key_files.read_tls_key(tls.private_key)
    pair = (
        key_files.read_file(tls.private_key, private=True),
        key_files.read_file(tls.certificate),
    )
    credentials = grpc.ssl_server_credentials(
        [pair], key_files.read_file(tls.ca), require_client_auth=True
    )
    desk = ReleaseDesk(releases)
    calls = ReleaseCalls(desk, Callers(limits, is_member), limits)
    calls.publish_hint(desk.timestamp_version())
    server = aio.server(options=_OPTIONS, maximum_concurrent_rpcs=limits.calls_at_once)
    server.add_generic_rpc_handlers((calls.handler(),))
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise JobFailedError(f"{address}: cannot listen there: {error}") from error
    await server.start()
    on_port(port)
    try:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), limits.tend_s)
            reported = calls.reported.is_set()
            calls.reported.clear()
            try:
                await asyncio.to_thread(_tend, releases, lifetimes, bounds, reported=reported)
                calls.publish_hint(await asyncio.to_thread(desk.timestamp_version))
            except ConvoyError as error:
                logger.warning("releases: %s; tried again in %.0f s", error, limits.tend_s)
                if reported:
                    calls.reported.set()
    finally:
        await server.stop(grace=2.0)


def _tend(releases: Path, lifetimes: Lifetimes, bounds: RolloutBounds, *, reported: bool) -> None:
    now = datetime.now(UTC)
    with locked(releases):
        keys = server_keys(releases)
        renew(releases / REPOSITORY_FOLDER, keys, now, lifetimes)
        if reported:
            ReleaseChannels(releases, keys, lifetimes, bounds).pause_failing(now)


def _report(vehicle: str, event: ReleaseEvent) -> VehicleReport:
    try:
        check_name(event.release)
    except ReleaseFormatError as error:
        raise RequestRefusedError(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error
    if event.number >= 1 << 63:
        raise RequestRefusedError(grpc.StatusCode.INVALID_ARGUMENT, "number must be below 2^63")
    if event.outcome not in _OUTCOMES:
        raise RequestRefusedError(grpc.StatusCode.INVALID_ARGUMENT, "outcome must be specified")
    if len(event.reason.encode()) > MAX_REASON_BYTES or not event.reason.isprintable():
        raise RequestRefusedError(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"reason must be one line of at most {MAX_REASON_BYTES} bytes",
        )
    return VehicleReport(
        vehicle=vehicle,
        number=event.number,
        release=event.release,
        outcome=_OUTCOMES[event.outcome],
    )


async def _abort(
    context: aio.ServicerContext[bytes, bytes], code: grpc.StatusCode, why: str
) -> NoReturn:
    abort: Awaitable[None] = context.abort(code, why)
    await abort
    raise AssertionError("abort always raises")
