"""One turn of updating: prepare what is offered, tell the server how the vehicle fares."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from convoy_edge_client.errors import ReleaseStoreError, RepositoryDownError
from convoy_edge_client.preflight.preflight_config import PreflightConfig
from convoy_edge_client.releases.byte_source import ByteSource, DepotSource
from convoy_edge_client.releases.release_client import ClientTls, ReleaseClient, release_client
from convoy_edge_client.releases.service_pass import service_pass
from convoy_edge_client.releases.updater import release_updater
from convoy_edge_client.updates import states
from convoy_edge_client.updates.preparing import prepare
from convoy_edge_client.updates.releases_config import ReleasesConfig
from convoy_edge_client.updates.states import Record
from convoy_edge_client.updates.telemetry_ring import TelemetryLine, TelemetryRing
from convoy_edge_client.updates.update_file import UpdateFile
from convoy_privacy.key_files import read_certificate, read_file
from convoy_privacy.party import load_party
from convoy_protos.settings import to_table
from convoy_protos.v1 import release_pb2
from convoy_protos.v1.release_pb2 import ReleaseEvent

logger = logging.getLogger(__name__)

PASS_FILE: Final = "pass.pem"  # noqa: S105 - a name
MAX_LINES: Final = 64
"""Of telemetry, in one request."""
_LONGEST_PAUSE_S: Final = 86_400.0
_NO_BOUND: Final = 1 << 40
"""The process that drives bounds the ring; this one only takes out."""
_OUTCOMES: Final = {
    "started": ReleaseEvent.OUTCOME_STARTED,
    "committed": ReleaseEvent.OUTCOME_COMMITTED,
    "failed": ReleaseEvent.OUTCOME_FAILED,
    "rolled_back": ReleaseEvent.OUTCOME_ROLLED_BACK,
}


class Updating:
    """What a process does that keeps a vehicle's releases fresh; one thread uses it."""

    def __init__(
        self,
        config: ReleasesConfig,
        preflight: PreflightConfig,
        vehicle: str,
        tls: Callable[[], ClientTls],
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked yet.

        Args:
            config: Where releases come from.
            preflight: What a release may ask of this vehicle.
            vehicle: Its name.
            tls: Gives what the vehicle shows to a server; asked anew each turn, for passes end.
            now_s: A clock that never goes back.
        """
        self._config = config
        self._preflight = preflight
        self._vehicle = vehicle
        self._tls = tls
        self._file = UpdateFile(config.folder_path)
        self._ring = TelemetryRing(config.folder_path, _NO_BOUND)
        self._now_s = now_s
        self._telemetry_due_s = 0.0
        self._is_new = True

    def turn(self, now: datetime) -> Record:
        """Everything there is to do now; what cannot be reached is asked again at the next turn.

        Args:
            now: With a time zone.

        Raises:
            ReleaseStoreError: The folder cannot be written, or another process updates from it.
            FleetFolderError: The first root metadata is missing.
        """
        root = read_file(self._config.root_path)
        with (
            self._source() as (source, client),
            release_updater(
                self._config.folder_path, source, root, limits=self._config.transfer
            ) as updater,
        ):
            if self._is_new:
                self._file.step(states.preparing_started)
                self._is_new = False
            record = prepare(
                self._file, updater, self._config, self._preflight, vehicle=self._vehicle, now=now
            )
            if client is not None:
                self._tell(client, record)
        return record

    @contextmanager
    def _source(self) -> Iterator[tuple[ByteSource, ReleaseClient | None]]:
        if self._config.depot:
            yield DepotSource(Path(self._config.depot)), None
            return
        with release_client(self._config.server, self._tls()) as client:
            yield client, client

    def _tell(self, client: ReleaseClient, record: Record) -> None:
        try:
            self._send_reports(client, record)
            self._send_telemetry(client)
        except (RepositoryDownError, ReleaseStoreError) as error:
            logger.warning("releases: reports wait: %s", error)

    def _send_telemetry(self, client: ReleaseClient) -> None:
        """Batch after batch, as long as the server does not ask for a pause."""
        while self._now_s() >= self._telemetry_due_s:
            waiting = self._ring.oldest(MAX_LINES)
            if not waiting:
                return
            reply = client.telemetry([_line(number, line) for number, line in waiting])
            self._ring.forget(reply.highest_number)
            pause_s = min(max(0.0, reply.next_interval_s), _LONGEST_PAUSE_S)
            self._telemetry_due_s = self._now_s() + pause_s
            if reply.highest_number < waiting[0][0]:
                return  # it keeps nothing now

    def _send_reports(self, client: ReleaseClient, record: Record) -> None:
        if not record.reports:
            return
        events = [
            ReleaseEvent(
                number=report.number,
                release=report.release,
                outcome=_OUTCOMES[report.outcome],
                reason=report.reason,
            )
            for report in record.reports
        ]
        highest = client.report(events)
        self._file.step(lambda held: states.reports_sent(held, highest))


def passes(folder: Path, identity: Path, services: str, root_certificates: Path) -> ClientTls:
    """The vehicle's pass, a new one where it ends soon.

    Args:
        folder: The vehicle's folder of releases; the pass is kept there.
        identity: Folder with certificate and key.
        services: HOST:PORT of the enrolment service.
        root_certificates: The TLS CA that is trusted.

    Raises:
        EnrolmentError: Refused, or nobody answers.
        FleetFolderError: The device's own files cannot be used.
    """
    now = datetime.now(timezone.utc)  # noqa: UP017 - Python 3.10 has no UTC
    folder.mkdir(parents=True, exist_ok=True)
    return service_pass(
        folder / PASS_FILE,
        load_party(identity, now).identity,
        services,
        read_certificate(root_certificates),
        now,
    )


def _line(number: int, line: TelemetryLine) -> release_pb2.TelemetryLine:
    return release_pb2.TelemetryLine(number=number, **to_table(line))
