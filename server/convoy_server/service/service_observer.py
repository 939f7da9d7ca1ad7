"""Who watches a run of the service: the status file, the log's fields, TensorBoard where installed."""

from collections.abc import Mapping
from pathlib import Path

from convoy_server.observer import RunObserver, SilentObserver, Wait
from convoy_server.observer_group import ObserverGroup
from convoy_server.run_config import RunConfig
from convoy_server.service.status_file import StatusFile
from convoy_server.service.structured_log import bind
from convoy_server.tensorboard import TensorBoardObserver, tensorboard_installed


def service_observer(run_dir: Path) -> RunObserver:
    """For `convoy_server.app.make_server_app`; status.json stands in the run directory when this returns.

    Args:
        run_dir: Made if it is not there; its name is what the log calls the run.

    Raises:
        StorageError: The disk refuses.
    """
    bind(run=run_dir.name)
    observers: list[RunObserver] = [LogFields(run_dir.name), StatusFile(run_dir)]
    if tensorboard_installed():
        observers.append(TensorBoardObserver(run_dir))
    return ObserverGroup(observers)


class LogFields(SilentObserver):
    """Lets every record of the thread that runs the rounds say which round it belongs to."""

    def __init__(self, run: str) -> None:
        self._run = run

    def run_started(self, run: RunConfig, vehicles: Mapping[str, int], first_round: int) -> None:  # noqa: ARG002 - as RunObserver
        """From here on in this thread."""
        bind(run=self._run, round=first_round)

    def waiting(self, wait: Wait) -> None:
        """Another round, maybe."""
        bind(run=self._run, round=wait.round)
