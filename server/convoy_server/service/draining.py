"""Lets the round under way end when a run's process is asked to stop, and begins no other.

Between two rounds, and while vehicles are waited for to begin one, it ends at once. What it raises is
Ctrl-C: a run that is interrupted leaves everything finished on disk.
"""

import signal

from convoy_server.observer import SilentObserver, Wait
from convoy_server.round_log import RoundRecord


class Draining(SilentObserver):
    """Watches the rounds; `ask` is for a signal handler in the thread that runs them."""

    def __init__(self) -> None:
        self._asked = False
        self._in_round = False

    def ask(self) -> None:
        """End as soon as no round is under way; asked again, at once."""
        self._in_round = self._in_round and not self._asked
        self._asked = True
        self._end_if_due()

    def waiting(self, wait: Wait) -> None:
        """A phase begins; in "invite" there is no round yet that could be lost."""
        self._in_round = wait.phase != "invite"
        self._end_if_due()

    def round_finished(self, record: RoundRecord) -> None:  # noqa: ARG002 - as RunObserver
        """The round is on disk."""
        self._in_round = False
        self._end_if_due()

    def _end_if_due(self) -> None:
        if self._asked and not self._in_round:
            signal.raise_signal(signal.SIGINT)
