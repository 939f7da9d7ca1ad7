"""What a person sees while a run goes on: a live display on a terminal, plain lines elsewhere.

Both watch a run as observers (convoy_server.observer). The terminal shows one bar for the rounds, one
for the vehicles of the current round, one for whatever else takes long; refused and lost vehicles
scroll by above them. The lines are one a round, and a few for anything else that lasts.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from convoy_server.observer import RunObserver, SilentObserver
from convoy_server.printable import printable
from convoy_server.round_log import RoundRecord
from convoy_server.run_config import RunConfig

LINE_EVERY_S = 10.0
"""Seconds between two plain lines about one long phase."""

Clock = Callable[[], float]


class ProgressDisplay(RunObserver, Protocol):
    """An observer with a beginning and an end: a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def progress_display(console: Console, now_s: Clock = time.monotonic) -> ProgressDisplay:
    """The display that suits the console."""
    return LiveProgress(console, now_s) if console.is_terminal else LineProgress(console, now_s)


@dataclass(slots=True, kw_only=True)
class Pace:
    """How fast the rounds of this session go.

    Attributes:
        first_round: 1, or the round a resumed run goes on with.
        rounds: Of the whole run.
        started_s: When the first of them began.
    """

    first_round: int
    rounds: int
    started_s: float

    def left_s(self, finished_round: int, now_s: float) -> float:
        """Seconds until the last round ends, if they go on as fast."""
        done = finished_round - self.first_round + 1
        return (now_s - self.started_s) / done * (self.rounds - finished_round)


class LineProgress(SilentObserver):
    """Plain lines, for logs and pipes."""

    def __init__(self, console: Console, now_s: Clock) -> None:
        self._console = console
        self._now_s = now_s
        self._pace = Pace(first_round=1, rounds=0, started_s=now_s())
        self._in_round = False
        self._phase = ""
        self._last_line_s = -LINE_EVERY_S

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing to give back."""

    def run_started(self, run: RunConfig, vehicles: Mapping[str, int], first_round: int) -> None:
        """The fleet, in a line."""
        self._pace = Pace(first_round=first_round, rounds=run.round.rounds, started_s=self._now_s())
        self._say(fleet_line(run, vehicles, first_round))

    def round_started(self, number: int, cohort_size: int) -> None:  # noqa: ARG002 - as RunObserver
        """From here on phases belong to the round, whose line comes at its end."""
        self._in_round = True

    def round_finished(self, record: RoundRecord) -> None:
        """The round, in a line."""
        self._in_round = False
        self._say(round_line(record, self._pace, self._now_s()))

    def phase(self, name: str, done: int, total: int) -> None:
        """The first and the last step of a phase, and one every few seconds in between."""
        now_s = self._now_s()
        first, last = name != self._phase, done >= total
        long_ago = now_s - self._last_line_s >= LINE_EVERY_S
        if long_ago or (not self._in_round and (first or last)):
            self._say(f"{name}: {done} of {total}")
        self._phase = "" if last else name

    def _say(self, line: str) -> None:
        self._last_line_s = self._now_s()
        self._console.print(Text(line), soft_wrap=True)


class LiveProgress(SilentObserver):
    """Bars that move, for a terminal."""

    def __init__(self, console: Console, now_s: Clock) -> None:
        self._now_s = now_s
        self._pace = Pace(first_round=1, rounds=0, started_s=now_s())
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}", table_column=Column(min_width=12)),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False, style="dim"),
            console=console,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def run_started(self, run: RunConfig, vehicles: Mapping[str, int], first_round: int) -> None:
        """A bar for the rounds."""
        self._pace = Pace(first_round=first_round, rounds=run.round.rounds, started_s=self._now_s())
        self._say(fleet_line(run, vehicles, first_round))
        self._show("rounds", first_round - 1, run.round.rounds, "")

    def round_started(self, number: int, cohort_size: int) -> None:
        """A bar for the vehicles of the round."""
        self._drop_all_but("rounds")
        self._show("vehicles", 0, cohort_size, f"round {number}")

    def update_arrived(
        self, round_number: int, vehicle: str, accepted: bool, reason: str | None
    ) -> None:
        """One vehicle more; a refusal scrolls by."""
        if "vehicles" in self._bars:
            self._progress.advance(self._bars["vehicles"])
        if not accepted:
            self._say(f"round {round_number}: {printable(vehicle)} refused: {reason}", "red")

    def round_finished(self, record: RoundRecord) -> None:
        """The figures beside the bar of the rounds; lost vehicles scroll by."""
        for vehicle in record.lost_vehicles:
            self._say(f"round {record.round}: {printable(vehicle)} never answered", "yellow")
        if record.outcome == "abandoned":
            because = printable(record.abandoned_because or "no reason given")
            self._say(f"round {record.round}: abandoned: {because}", "yellow")
        self._drop_all_but("rounds")
        note = ", ".join([*scores(record), *time_left(record, self._pace, self._now_s())])
        self._show("rounds", record.round, self._pace.rounds, note)

    def phase(self, name: str, done: int, total: int) -> None:
        """A bar for it."""
        self._show(name, done, total, "")

    def _say(self, line: str, style: str = "") -> None:
        self._progress.console.print(Text(line, style))

    def _show(self, name: str, done: int, total: int, note: str) -> None:
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, note=note)
        self._progress.update(self._bars[name], completed=done, total=total, note=note)

    def _drop_all_but(self, kept: str) -> None:
        """Inside the rounds only what is under way stays on the screen."""
        for name in [name for name in self._bars if name != kept]:
            self._progress.remove_task(self._bars.pop(name))


def fleet_line(run: RunConfig, vehicles: Mapping[str, int], first_round: int) -> str:
    """Who takes part, and for how long."""
    start = f", from round {first_round}" if first_round > 1 else ""
    examples = sum(vehicles.values())
    return (
        f"{run.name}: {len(vehicles)} vehicles, {examples} training frames, "
        f"{run.round.rounds} rounds{start}"
    )


def round_line(record: RoundRecord, pace: Pace, now_s: float) -> str:
    """One round in a line."""
    parts = [f"round {record.round}/{pace.rounds}: {record.completed}/{record.invited} updates"]
    if record.outcome == "abandoned":
        parts.append(f"abandoned: {printable(record.abandoned_because or 'no reason given')}")
    if record.rejections:
        told = (f"{printable(r.vehicle)} {r.reason}" for r in record.rejections)
        parts.append(f"refused: {', '.join(told)}")
    if record.lost_vehicles:
        parts.append(f"lost: {', '.join(map(printable, record.lost_vehicles))}")
    parts += scores(record)
    parts.append(f"{record.wall_s:.1f} s")
    parts += time_left(record, pace, now_s)
    return ", ".join(parts)


def time_left(record: RoundRecord, pace: Pace, now_s: float) -> list[str]:
    """Nothing after the last round."""
    left_s = pace.left_s(record.round, now_s)
    return [f"{clock(left_s)} left"] if left_s > 0 else []


def scores(record: RoundRecord) -> list[str]:
    """What the round was good for."""
    found = []
    if record.train_loss is not None:
        found.append(f"loss {record.train_loss:.3f}")
    if record.balanced_accuracy is not None:
        found.append(f"balanced accuracy {record.balanced_accuracy:.1%}")
    return found


def clock(seconds: float) -> str:
    """3:41, 1:02:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
