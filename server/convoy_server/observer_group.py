"""Several watchers of one run."""

from collections.abc import Mapping, Sequence

from convoy_server.observer import RunObserver, Wait
from convoy_server.round_log import RoundRecord
from convoy_server.run_config import RunConfig


class ObserverGroup:
    """Tells each of them everything, in order."""

    def __init__(self, observers: Sequence[RunObserver]) -> None:
        self._observers = tuple(observers)

    def run_started(self, run: RunConfig, vehicles: Mapping[str, int], first_round: int) -> None:
        """Passed on."""
        for observer in self._observers:
            observer.run_started(run, vehicles, first_round)

    def round_started(self, number: int, cohort_size: int) -> None:
        """Passed on."""
        for observer in self._observers:
            observer.round_started(number, cohort_size)

    def update_arrived(
        self, round_number: int, vehicle: str, accepted: bool, reason: str | None
    ) -> None:
        """Passed on."""
        for observer in self._observers:
            observer.update_arrived(round_number, vehicle, accepted, reason)

    def round_finished(self, record: RoundRecord) -> None:
        """Passed on."""
        for observer in self._observers:
            observer.round_finished(record)

    def phase(self, name: str, done: int, total: int) -> None:
        """Passed on."""
        for observer in self._observers:
            observer.phase(name, done, total)

    def waiting(self, wait: Wait) -> None:
        """Passed on."""
        for observer in self._observers:
            observer.waiting(wait)

    def connected(self, vehicles: int) -> None:
        """Passed on."""
        for observer in self._observers:
            observer.connected(vehicles)

    def answered(self, vehicle: str) -> None:
        """Passed on."""
        for observer in self._observers:
            observer.answered(vehicle)
