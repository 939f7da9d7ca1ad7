"""status.json in a run directory: what the run does right now and what it waits for.

Replaced as a whole at every event, so that whoever reads it sees one moment: `convoy runs show`, the
metrics, a person with `cat`. It is a picture and no record: losing it to a crash costs nothing, so it is
not synced to the disk. What has happened is in rounds.jsonl.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from convoy_protos.errors import SettingsError
from convoy_protos.settings import from_table, to_table
from convoy_server.audit import Clock, utc_now
from convoy_server.errors import StorageError
from convoy_server.observer import SilentObserver, Wait
from convoy_server.round_log import RoundRecord
from convoy_server.storage import TEMPORARY_PREFIX

if TYPE_CHECKING:  # torch comes with it
    from convoy_server.run_config import RunConfig

STATUS_FILE: Final = "status.json"
MAX_NAMES: Final = 50
"""Vehicles that are named at most; the others are counted."""

STOPPED_BY_OPERATOR: Final = "by `convoy runs stop`"

RunState = Literal["queued", "waiting", "running", "finished", "failed", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What the run waits for.

    Attributes:
        wanted: Answers that end the wait; 0: the server itself is at work.
        answered: Of those asked, who answered so far; in "invite" who is connected.
        quorum: Answers without which it was in vain; 0: there is no such number.
        until: UTC, ISO 8601: then the run goes on without those missing; empty: nobody is waited for.
        missing: Names of those asked that have not answered, the first MAX_NAMES of them.
        missing_count: All of them.
    """

    wanted: int = 0
    answered: int = 0
    quorum: int = 0
    until: str = ""
    missing: tuple[str, ...] = ()
    missing_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleCounts:
    """Vehicles by state.

    Attributes:
        connected: To the server, when the round began.
        introduced: That have said who they are.
        asked: In this phase.
        answered: In this phase.
        accepted: Updates of this round.
        refused: Updates of this round.
        lost: In the last round that ended.
    """

    connected: int = 0
    introduced: int = 0
    asked: int = 0
    answered: int = 0
    accepted: int = 0
    refused: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRound:
    """The round that ended last.

    Attributes:
        round: Its number.
        outcome: "done" or "abandoned".
        wall_s: Seconds it took.
        phase_s: Of these, seconds by phase, "invite" included.
    """

    round: int
    outcome: Literal["done", "abandoned"]
    wall_s: float
    phase_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """status.json.

    Attributes:
        run: Name of the run.
        state: "queued" until its turn comes, "waiting" until the first round began.
        why: Why the run failed or was stopped; empty otherwise.
        time: Of this picture, UTC, ISO 8601.
        round: That goes on; 0 before the first.
        rounds: Of the whole run; 0 while that is not known.
        phase: Of the round; empty between rounds.
        since: When the phase began, UTC, ISO 8601.
        waiting: What for.
        vehicles: By state.
        last_round: The one that ended last; None before.
        phase_s_total: Seconds by phase over all rounds since the process started.
    """

    run: str
    state: RunState = "waiting"
    why: str = ""
    time: str = ""
    round: int = 0
    rounds: int = 0
    phase: str = ""
    since: str = ""
    waiting: Waiting = field(default_factory=Waiting)
    vehicles: VehicleCounts = field(default_factory=VehicleCounts)
    last_round: LastRound | None = None
    phase_s_total: Mapping[str, float] = field(default_factory=dict)


class StatusFile(SilentObserver):
    """Keeps status.json of one run directory."""

    def __init__(
        self,
        run_dir: Path,
        *,
        now: Clock = utc_now,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing has been written yet.

        Args:
            run_dir: Made if it is not there.
            now: Clock of the file.
            now_s: Clock of durations.
        """
        self._path = run_dir / STATUS_FILE
        self._now = now
        self._now_s = now_s
        self._status = Status(run=run_dir.name)
        self._missing: dict[str, None] = {}
        self._phase_s: dict[str, float] = {}
        self._phase_began_s = now_s()

    def run_started(self, run: "RunConfig", vehicles: Mapping[str, int], first_round: int) -> None:  # noqa: ARG002 - as RunObserver
        """The fleet is known."""
        self._count(introduced=len(vehicles))
        self._write(run=run.name, rounds=run.round.rounds)

    def round_started(self, number: int, cohort_size: int) -> None:  # noqa: ARG002 - as RunObserver
        """A cohort was drawn."""
        self._count(accepted=0, refused=0)
        self._write(state="running", round=number)

    def waiting(self, wait: Wait) -> None:
        """A phase begins."""
        self._end_phase()
        self._missing = dict.fromkeys(wait.vehicles)
        self._count(asked=len(wait.vehicles), answered=0)
        now = self._now()
        until = now + timedelta(seconds=wait.deadline_s)
        self._write(
            round=wait.round,
            phase=wait.phase,
            since=_iso(now),
            waiting=Waiting(
                wanted=wait.wanted,
                quorum=wait.quorum,
                until=_iso(until) if wait.deadline_s else "",
                missing=wait.vehicles[:MAX_NAMES],
                missing_count=len(wait.vehicles),
            ),
        )

    def connected(self, vehicles: int) -> None:
        """More or fewer vehicles are there."""
        self._count(connected=vehicles)
        self._write(waiting=dataclasses.replace(self._status.waiting, answered=vehicles))

    def answered(self, vehicle: str) -> None:
        """One answer less to wait for; a stranger's or a second one does not count."""
        if vehicle not in self._missing:
            return
        del self._missing[vehicle]
        answered = self._status.vehicles.answered + 1
        self._count(answered=answered)
        names = [name for name, _ in zip(self._missing, range(MAX_NAMES), strict=False)]
        self._write(
            waiting=dataclasses.replace(
                self._status.waiting,
                answered=answered,
                missing=tuple(names),
                missing_count=len(self._missing),
            )
        )

    def update_arrived(
        self,
        round_number: int,  # noqa: ARG002 - as RunObserver
        vehicle: str,  # noqa: ARG002 - as RunObserver
        accepted: bool,
        reason: str | None,  # noqa: ARG002 - as RunObserver
    ) -> None:
        """One update is in or refused."""
        counts = self._status.vehicles
        if accepted:
            self._count(accepted=counts.accepted + 1)
        else:
            self._count(refused=counts.refused + 1)
        self._write()

    def round_finished(self, record: RoundRecord) -> None:
        """The round is on disk."""
        self._end_phase()
        last = LastRound(
            round=record.round,
            outcome=record.outcome,
            wall_s=record.wall_s,
            phase_s={name: round(seconds, 3) for name, seconds in self._phase_s.items()},
        )
        self._phase_s = {}
        self._missing = {}
        self._count(lost=record.lost, asked=0, answered=0)
        self._write(phase="", since="", waiting=Waiting(), last_round=last)

    def _end_phase(self) -> None:
        """Add the time since the last phase began to what that phase took."""
        now_s = self._now_s()
        name = self._status.phase
        if name:
            seconds = now_s - self._phase_began_s
            self._phase_s[name] = self._phase_s.get(name, 0.0) + seconds
            total = dict(self._status.phase_s_total)
            total[name] = round(total.get(name, 0.0) + seconds, 3)
            self._status = dataclasses.replace(self._status, phase_s_total=total)
        self._phase_began_s = now_s

    def _count(self, **changes: int) -> None:
        counts = dataclasses.replace(self._status.vehicles, **changes)
        self._status = dataclasses.replace(self._status, vehicles=counts)

    def _write(self, **changes: Any) -> None:
        self._status = dataclasses.replace(self._status, **changes, time=_iso(self._now()))
        write_status(self._path.parent, self._status)


def write_status(run_dir: Path, status: Status) -> None:
    """Replace the file as a whole.

    Raises:
        StorageError: The disk refuses.
    """
    path = run_dir / STATUS_FILE
    temporary = path.with_name(TEMPORARY_PREFIX + STATUS_FILE)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(to_table(status), indent=1) + "\n", "utf-8")
        os.replace(temporary, path)  # noqa: PTH105 - says that it replaces
    except OSError as error:
        raise StorageError(path, error) from error


def read_status(run_dir: Path) -> Status | None:
    """The last picture; None where there is none yet.

    Raises:
        SettingsError: The file is not one that `write_status` writes.
    """
    path = run_dir / STATUS_FILE
    try:
        table = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    if not isinstance(table, dict):
        raise SettingsError(f"{path}: expected an object, got {table!r}")
    return from_table(Status, table, str(path))


def end_status(run_dir: Path, state: RunState, why: str = "", *, now: Clock = utc_now) -> None:
    """Say how a run ended; for whoever ran it.

    Args:
        run_dir: Of the run.
        state: "finished", "failed" or "stopped".
        why: One line; empty for a run that finished.
        now: Clock of the file.
    """
    before = read_status(run_dir) or Status(run=run_dir.name)
    write_status(
        run_dir,
        dataclasses.replace(
            before,
            state=state,
            why=why,
            time=_iso(now()),
            phase="",
            since="",
            waiting=Waiting(),
        ),
    )


def status_line(status: Status) -> str:
    """One line for people: what goes on and what is waited for."""
    if status.state in {"queued", "finished", "failed", "stopped"}:
        return f"{status.run}: {status.state}" + (f": {status.why}" if status.why else "")
    of = f" of {status.rounds}" if status.rounds else ""
    line = f"{status.run}: round {status.round}{of}"
    if not status.phase:
        return line
    line += f", {status.phase}"
    waiting = status.waiting
    if not waiting.wanted:
        return line
    line += f": {waiting.answered} of {waiting.wanted} vehicles"
    if waiting.quorum:
        line += f", quorum {waiting.quorum}"
    if waiting.missing:
        more = waiting.missing_count - len(waiting.missing)
        names = ", ".join(waiting.missing) + (f" and {more} more" if more else "")
        line += f"; not yet: {names}"
    return f"{line}; until {waiting.until}"


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
