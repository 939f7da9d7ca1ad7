"""Training that gives way: between two batches it stops while the guard says so, then goes on.

What it has learned so far is put into the state folder when it stops, and now and then while it runs, so
that a reboot costs little. It goes on to the same bits as if it had never stopped.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from convoy_driving.errors import ModelFileError
from convoy_driving.training_state import TrainingState, read_state, write_state
from convoy_edge_client.agent.watch import Guard, GuardWatch
from convoy_edge_client.errors import AgentStoppedError, NotNowError
from convoy_edge_client.training_breaks import GiveWay, TrainingBreak
from convoy_privacy.errors import FleetFolderError
from convoy_privacy.key_files import write_file

logger = logging.getLogger(__name__)

SAVE_EVERY_S: Final = 30.0
"""What a crash may cost."""
_LOOK_UP_S: Final = 0.5
"""How long a request to stop may go unheard while training waits."""


class TrainingShelf:
    """A folder that holds one training that had to stop, under the digest of its work."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, work: bytes, state: TrainingState) -> None:
        """Keep the state, crash-safe, in place of any other; a full disk is logged and no more."""
        path = self._path(work)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_file(path, write_state(state), private=True)
            self._clear_but(path)
        except (OSError, FleetFolderError) as error:
            logger.warning("training cannot be kept for later: %s", error)

    def get(self, work: bytes) -> TrainingState | None:
        """Where this work stood; None: it was never stopped, or the file is damaged."""
        path = self._path(work)
        try:
            return read_state(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ModelFileError) as error:
            logger.warning("%s: training starts anew: %s", path, error)
            return None

    def clear(self) -> None:
        """Keep nothing."""
        self._clear_but(None)

    def _clear_but(self, kept: Path | None) -> None:
        for path in self._folder.glob("*.training"):
            if path != kept:
                path.unlink(missing_ok=True)

    def _path(self, work: bytes) -> Path:
        return self._folder / f"{work.hex()}.training"


class PausedTraining:
    """The breaks that a guard asks for; see `TrainingBreaks`."""

    def __init__(
        self,
        guard: Guard,
        shelf: TrainingShelf,
        check_every_s: float,
        *,
        unix_s: Callable[[], float] = time.time,
        save_every_s: float = SAVE_EVERY_S,
        stop: threading.Event | None = None,
    ) -> None:
        """Watch nothing yet.

        Args:
            guard: Says whether the machine may work.
            shelf: Where training is kept that had to stop.
            check_every_s: Seconds from one look at the machine to the next.
            unix_s: The clock.
            save_every_s: Seconds from one save to the next while nothing stops it.
            stop: Set from outside to end it; None: nobody does.
        """
        self._guard = guard
        self._shelf = shelf
        self._check_every_s = check_every_s
        self._unix_s = unix_s
        self._save_every_s = save_every_s
        self._stop = stop or threading.Event()

    @contextlib.contextmanager
    def during(self, work: bytes, deadline_s: float) -> Iterator[TrainingBreak]:
        """Watch the machine for one training.

        Raises:
            NotNowError: Inside, from between_batches: the deadline passed while training waited.
            AgentStoppedError: Inside, from between_batches: the agent was asked to stop.
        """
        with GuardWatch(self._guard, self._check_every_s) as watch:
            saved_s = self._unix_s()

            def between_batches(snapshot: Callable[[], TrainingState]) -> None:
                nonlocal saved_s
                may_work = watch.verdict.may_work and not self._stop.is_set()
                if not may_work or self._unix_s() - saved_s >= self._save_every_s:
                    self._shelf.put(work, snapshot())
                    saved_s = self._unix_s()
                if not may_work:
                    self._wait(watch, deadline_s)

            yield TrainingBreak(resume=self._shelf.get(work), between_batches=between_batches)
        self._shelf.clear()

    @contextlib.contextmanager
    def giving_way(self, deadline_s: float) -> Iterator[GiveWay]:
        """Watch the machine for work that begins anew if it is refused; from its first piece on.

        Raises:
            NotNowError: Inside, from the callback: the deadline passed while work waited.
            AgentStoppedError: Inside, from the callback: the agent was asked to stop.
        """
        with contextlib.ExitStack() as stack:
            watch: GuardWatch | None = None

            def give_way() -> None:
                nonlocal watch
                if watch is None:  # what is in the cache costs no look at the machine
                    watch = stack.enter_context(GuardWatch(self._guard, self._check_every_s))
                if self._stop.is_set() or not watch.verdict.may_work:
                    self._wait(watch, deadline_s)

            yield give_way

    def _wait(self, watch: GuardWatch, deadline_s: float) -> None:
        started_s = self._unix_s()
        verdict = watch.verdict
        if not self._stop.is_set():
            logger.info("work pauses: %s", verdict.reason)
        while not verdict.may_work and not self._stop.is_set() and self._unix_s() < deadline_s:
            verdict = watch.wait_until_clear(min(_LOOK_UP_S, deadline_s - self._unix_s()))
        if self._stop.is_set():
            raise AgentStoppedError("the agent was asked to stop; work goes on at its next start")
        if not verdict.may_work:
            raise NotNowError(verdict.reason, verdict.retry_after_s)
        logger.info("work goes on after %.1f s", self._unix_s() - started_s)
