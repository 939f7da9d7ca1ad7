"""Talk to the release service: fetch, listen, report. The vehicle shows who it is by its TLS certificate."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import grpc

from convoy_edge_client.errors import RepositoryDownError
from convoy_edge_client.releases.byte_source import MissingFileError
from convoy_privacy.releases.layout import CHUNK_BYTES, METADATA_FOLDER
from convoy_protos.v1.release_pb2 import (
    FetchRequest,
    ReleaseEvent,
    ReportRequest,
    TelemetryLine,
    TelemetryReply,
    TelemetryRequest,
    WatchRequest,
)
from convoy_protos.v1.release_pb2_grpc import ReleasesStub

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", CHUNK_BYTES + 1024),
    ("grpc.keepalive_time_ms", 120_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """Whom the vehicle believes, and who it is.

    Attributes:
        ca: The fleet's TLS CA, PEM.
        certificate: The vehicle's, for TLS clients, PEM.
        private_key: Its key, PEM.
    """

    ca: bytes
    certificate: bytes
    private_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTimeouts:
    """How long one call may take; each positive.

    Attributes:
        short_s: Of metadata and reports.
        transfer_s: Of a file; one that needs longer goes on with another call.
    """

    short_s: float = 30.0
    transfer_s: float = 300.0

    def __post_init__(self) -> None:
        if self.short_s <= 0 or self.transfer_s <= 0:
            raise ValueError("short_s and transfer_s must be positive")


class ReleaseClient:
    """The service's calls; a ByteSource. What goes wrong becomes one of our errors."""

    def __init__(self, address: str, stub: ReleasesStub, timeouts: CallTimeouts) -> None:
        """Nothing is asked yet; see `release_client`."""
        self._address = address
        self._stub = stub
        self._timeouts = timeouts

    def read(self, path: str, offset: int) -> Iterator[bytes]:
        """See ByteSource."""
        small = path.startswith(f"{METADATA_FOLDER}/")
        call = self._stub.Fetch(
            FetchRequest(path=path, offset=offset),
            timeout=self._timeouts.short_s if small else self._timeouts.transfer_s,
        )
        try:
            for chunk in call:
                yield chunk.data
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise MissingFileError(path) from error
            raise self._down(error) from error
        finally:
            call.cancel()  # whoever stops reading stops the server too

    def hints(self) -> Iterator[int]:
        """A number whenever something may be new, at once the first time; ends now and then.

        A hint is unsigned: it is good for a check at most, and for none if one was made just before.

        Raises:
            RepositoryDownError: Nobody answers, or the link broke.
        """
        call = self._stub.Watch(WatchRequest())
        try:
            for hint in call:
                yield hint.timestamp_version
        except grpc.RpcError as error:
            raise self._down(error) from error
        finally:
            call.cancel()

    def report(self, events: Sequence[ReleaseEvent]) -> int:
        """Say how the vehicle fared.

        Args:
            events: 1 to 64, in the order of their numbers.

        Returns:
            The highest number that the server keeps: up to there the vehicle may forget.

        Raises:
            RepositoryDownError: Nobody answers, or refuses.
        """
        try:
            reply = self._stub.Report(ReportRequest(events=events), timeout=self._timeouts.short_s)
        except grpc.RpcError as error:
            raise self._down(error) from error
        return int(reply.highest_number)

    def telemetry(self, lines: Sequence[TelemetryLine]) -> TelemetryReply:
        """Say how the vehicle drives.

        Args:
            lines: 1 to 64, in the order of their numbers.

        Raises:
            RepositoryDownError: Nobody answers, or refuses.
        """
        try:
            return self._stub.Telemetry(
                TelemetryRequest(lines=lines), timeout=self._timeouts.short_s
            )
        except grpc.RpcError as error:
            raise self._down(error) from error

    def _down(self, error: grpc.RpcError) -> RepositoryDownError:
        details = " ".join((error.details() or "").split())
        if "CERTIFICATE_VERIFY_FAILED" in details or "Hostname Verification" in details:
            return RepositoryDownError(
                f"{self._address}: whoever answers there is not the server of this fleet: its TLS "
                "certificate is not by the CA that is pinned, has ended, or is for another host"
            )
        return RepositoryDownError(
            f"{self._address} ({error.code().name.lower()}: {details}); asked again later"
        )


@contextmanager
def release_client(
    address: str, tls: ClientTls, timeouts: CallTimeouts | None = None
) -> Iterator[ReleaseClient]:
    """A connection to HOST:PORT.

    Args:
        address: Of the service; must be in the certificate that it shows.
        tls: Files of both sides.
        timeouts: Of each call.
    """
    channel = grpc.secure_channel(
        address,
        grpc.ssl_channel_credentials(tls.ca, tls.private_key, tls.certificate),
        options=_OPTIONS,
    )
    try:
        yield ReleaseClient(address, ReleasesStub(channel), timeouts or CallTimeouts())
    finally:
        channel.close()


@dataclass(frozen=True, slots=True)
class HintPace:
    """When hints lead to a check: a flood of them costs one check in a while.

    Attributes:
        least_interval_s: Seconds between checks that hints cause; positive.
    """

    least_interval_s: float = 30.0

    def __post_init__(self) -> None:
        if self.least_interval_s <= 0:
            raise ValueError(f"least_interval_s must be positive, got {self.least_interval_s}")

    def wait_s(self, now_s: float, last_check_s: float | None) -> float:
        """Seconds until the check that a hint asks for; 0: now.

        Args:
            now_s: Of a clock that never goes back.
            last_check_s: When the last check began; None: there was none.
        """
        if last_check_s is None:
            return 0.0
        return max(0.0, last_check_s + self.least_interval_s - now_s)
