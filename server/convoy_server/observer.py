"""Who watches a run: progress display, TensorBoard, status file. Nothing a watcher does changes the run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from convoy_server.round_log import RoundRecord

if TYPE_CHECKING:  # torch comes with it
    from convoy_server.run_config import RunConfig

RoundPhase = Literal[
    "invite", "train", "check_in", "share", "upload", "unmask", "aggregate", "evaluate"
]
"""What a round does, in this order; a round without masks has no phases from check_in to unmask, and an
overflow goes back to check_in once. With mask helpers there is no check_in and no share, and in unmask
the helpers are asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """What a run waits for; never for ever.

    Attributes:
        round: From 1; in "invite" the round that is about to begin.
        phase: In which phase of the round.
        wanted: Answers that end the wait; in "invite" vehicles that are connected.
        quorum: Answers without which the round is abandoned or the sum given up; 0: there is no such
            number here.
        deadline_s: Seconds from now on after which the run goes on without those missing; 0: the
            server is at work itself and waits for nobody.
        vehicles: Who was asked; empty where that is not known.
    """

    round: int
    phase: RoundPhase
    wanted: int = 0
    quorum: int = 0
    deadline_s: float = 0.0
    vehicles: tuple[str, ...] = ()


def wait_line(wait: Wait) -> str:
    """One line for people: "round 3, train: waits for 8 of 10 vehicles (quorum 5), at most 120 s"."""
    line = f"round {wait.round}, {wait.phase}"
    if not wait.wanted:
        return line
    asked = f" of {len(wait.vehicles)}" if len(wait.vehicles) > wait.wanted else ""
    quorum = f" (quorum {wait.quorum})" if wait.quorum else ""
    return f"{line}: waits for {wait.wanted}{asked} vehicles{quorum}, at most {wait.deadline_s:g} s"


class RunObserver(Protocol):
    """Told what happens, while it happens, from the thread that runs the rounds."""

    def run_started(self, run: "RunConfig", vehicles: Mapping[str, int], first_round: int) -> None:
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

    def waiting(self, wait: Wait) -> None:
        """A phase of a round begins; the one before is over."""

    def connected(self, vehicles: int) -> None:
        """So many vehicles are connected; told in "invite"."""

    def answered(self, vehicle: str) -> None:
        """One of those waited for has answered, whatever the answer is worth."""


class SilentObserver:
    """Watches nothing; base of observers that care for a part only."""

    def run_started(self, run: "RunConfig", vehicles: Mapping[str, int], first_round: int) -> None:
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

    def waiting(self, wait: Wait) -> None:
        """Ignored."""

    def connected(self, vehicles: int) -> None:
        """Ignored."""

    def answered(self, vehicle: str) -> None:
        """Ignored."""
