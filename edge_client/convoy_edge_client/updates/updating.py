"""One turn of updating: prepare what is offered, tell the server how the vehicle fared."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from convoy_edge_client.errors import ReleaseStoreError, RepositoryDownError
from convoy_edge_client.preflight.preflight_config import PreflightConfig
from convoy_edge_client.releases.byte_source import ByteSource, DepotSource
from convoy_edge_client.releases.release_client import ClientTls, ReleaseClient, release_client
from convoy_edge_client.releases.updater import release_updater
from convoy_edge_client.updates import states
from convoy_edge_client.updates.preparing import prepare
from convoy_edge_client.updates.releases_config import ReleasesConfig
from convoy_edge_client.updates.states import Record
from convoy_edge_client.updates.update_file import UpdateFile
from convoy_privacy.key_files import read_file
from convoy_protos.v1.release_pb2 import ReleaseEvent

logger = logging.getLogger(__name__)

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
    ) -> None:
        """Nothing is asked yet.

        Args:
            config: Where releases come from.
            preflight: What a release may ask of this vehicle.
            vehicle: Its name.
            tls: Gives what the vehicle shows to a server; asked anew each turn, for passes end.
        """
        self._config = config
        self._preflight = preflight
        self._vehicle = vehicle
        self._tls = tls
        self._file = UpdateFile(config.folder_path)
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
            record = prepare(self._file, updater, self._config, self._preflight, self._vehicle, now)
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
        try:
            highest = client.report(events)
            self._file.step(lambda held: states.reports_sent(held, highest))
        except (RepositoryDownError, ReleaseStoreError) as error:
            logger.warning("releases: reports wait: %s", error)
