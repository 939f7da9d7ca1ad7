"""Who watches a run: progress display, TensorBoard. Nothing a watcher does changes the run."""

from collections.abc import Mapping
from typing import Protocol

from convoy_server.round_log import RoundRecord
from convoy_server.run_config import RunConfig


class RunObserver(Protocol):
    """Told what happens, while it happens, from the thread that runs the rounds."""

    def run_started(self, run: RunConfig, vehicles: Mapping[str, int], first_round: int) -> None:
        """The fleet is known: training examples by vehicle id; first_round > 1 after a resume."""

    def round_started(self, number: int, cohort_size: int) -> None:
        """So many vehicles were asked to train."""

    def update_arrived(
        self, round_number: int, vehicle: str, accepted: bool, reason: str | None
    ) -> None:
        """One reply was read."""

    def round_finished(self, record: RoundRecord) -> None:
        """The round is on disk."""

    def phase(self, name: str, done: int, total: int) -> None:
        """Progress of anything else, for example "evaluate"."""


class SilentObserver:
    """Watches nothing; base of observers that care for a part only."""

    def run_started(self, run: RunConfig, vehicles: Mapping[str, int], first_round: int) -> None:
        """Ignored."""

    def round_started(self, number: int, cohort_size: int) -> None:
        """Ignored."""

    def update_arrived(
        self, round_number: int, vehicle: str, accepted: bool, reason: str | None
    ) -> None:
        """Ignored."""

    def round_finished(self, record: RoundRecord) -> None:
        """Ignored."""

    def phase(self, name: str, done: int, total: int) -> None:
        """Ignored."""
