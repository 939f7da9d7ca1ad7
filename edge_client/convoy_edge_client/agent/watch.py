"""Look at the machine while work is under way, and say at once when it has to stop."""

import threading
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Self

from convoy_edge_client.agent.agent_config import AgentConfig
from convoy_edge_client.agent.guards import Readings, Situation, Verdict, judge


class Guard:
    """Whether this machine may work; any thread may ask."""

    def __init__(
        self,
        config: AgentConfig,
        read: Callable[[], Readings],
        used_megabytes: Callable[[], float],
        local_time: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        """Look at nothing yet.

        Args:
            config: What the owner asks for.
            read: Measures the machine, for example `Probes(config).read`.
            used_megabytes: Sent and received in this calendar month, in 10^6 bytes.
            local_time: Of the vehicle.
        """
        self._config = config
        self._read = read
        self._used_megabytes = used_megabytes
        self._local_time = local_time
        self._hot = False
        self._lock = threading.Lock()

    def verdict(self, *, working: bool = False) -> Verdict:
        """Look at the machine now.

        Args:
            working: Whether work is under way.
        """
        with self._lock:
            situation = Situation(
                local_time=self._local_time(),
                used_megabytes=self._used_megabytes(),
                working=working,
                was_hot=self._hot,
            )
            found = judge(self._read(), self._config.guards, self._config.work, situation)
            self._hot = found.hot
            return found


class GuardWatch:
    """A thread that asks the guard every `check_every_s`, inside a `with`."""

    def __init__(self, guard: Guard, check_every_s: float) -> None:
        self._guard = guard
        self._check_every_s = check_every_s
        self._verdict = Verdict(may_work=True, reason="", retry_after_s=0.0, hot=False)
        self._failure: BaseException | None = None
        self._paused = False
        self._news = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="convoy-guard", daemon=True)

    def __enter__(self) -> Self:
        self._verdict = self._guard.verdict(working=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def verdict(self) -> Verdict:
        """The newest; costs nothing.

        Raises:
            Exception: What went wrong in looking at the machine.
        """
        with self._news:
            return self._newest()

    def wait_until_clear(self, timeout_s: float) -> Verdict:
        """Wait, using no processor, until work may go on or the time is over; the newest verdict.

        Raises:
            Exception: What went wrong in looking at the machine.
        """
        self._paused = True
        try:
            with self._news:
                self._news.wait_for(
                    lambda: self._failure is not None or self._verdict.may_work, timeout_s
                )
                return self._newest()
        finally:
            self._paused = False

    def _newest(self) -> Verdict:
        if self._failure is not None:
            raise self._failure
        return self._verdict

    def _run(self) -> None:
        while not self._stop.wait(self._check_every_s):
            try:
                found = self._guard.verdict(working=not self._paused)
            except Exception as error:  # noqa: BLE001 - handed to the thread that trains, and raised there
                with self._news:
                    self._failure = error
                    self._news.notify_all()
                return
            with self._news:
                self._verdict = found
                self._news.notify_all()
