"""Any Flower grid, read one reply at a time.

Flower's own grids return a list that holds every reply of the cohort, and look for replies every
three seconds. This one takes one message at a time, often while replies come and seldom while
none do, and hands each over before it takes the next. A reply is found late by a tenth of the time
since the one before, so that looking for it costs little beside waiting for it.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 2.0
CLOCK_SLACK_S: Final = 120.0
"""How far a vehicle's clock may be off: its reply is dated by it and must not seem older than its message."""
_LATE_SHARE: Final = 0.1


class PollingGrid(Grid):
    """Wraps a grid; `send_and_receive` is a generator."""

    streams_replies = True

    def __init__(
        self,
        grid: Grid,
        *,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._grid = grid
        self._now_s = now_s
        self._sleep = sleep

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Send all, then yield replies as they come, until all came or `timeout` seconds passed.

        A message that could not be sent has no reply. With a timeout messages expire soon after it: else a
        vehicle could come back to work that nobody waits for, within Flower's 12 hours.
        """
        sent = list(messages)
        end_s = None
        if timeout is not None:
            end_s = self._now_s() + timeout
            for message in sent:
                message.metadata.ttl = timeout + CLOCK_SLACK_S
        # Flower's grid puts None in place of what it could not push.
        waiting = [key for key in self._grid.push_messages(sent) if key]
        news_s = self._now_s()
        while waiting and (end_s is None or self._now_s() < end_s):
            begin_s = self._now_s()
            answered: set[str] = set()
            for key, box in self._boxes(waiting):
                answered.add(key)
                # Popped and not named: the next reply must not find this one still held.
                yield box.pop()
            waiting = [key for key in waiting if key not in answered]
            if not waiting:
                return
            if answered:
                # Whoever takes replies needs time as well: what it took says nothing about the next one.
                news_s = self._now_s()
                pause_s = FIRST_PAUSE_S
            else:
                # A sweep over many vehicles takes time itself: never poll more than half of it.
                sweep_s = self._now_s() - begin_s
                quiet_s = self._now_s() - news_s
                pause_s = max(min(_LATE_SHARE * quiet_s, LONGEST_PAUSE_S), FIRST_PAUSE_S, sweep_s)
            left_s = pause_s if end_s is None else max(0.0, end_s - self._now_s())
            self._sleep(min(pause_s, left_s))

    def _boxes(self, waiting: list[str]) -> Iterator[tuple[str, list[Message]]]:
        """Replies that are there, each alone in a list, with the message that it replies to."""
        if getattr(self._grid, "yields_replies", False):
            source = iter(self._grid.pull_messages(waiting))
            while box := list(itertools.islice(source, 1)):
                yield box[0].metadata.reply_to_message_id, box
            return
        for key in waiting:
            if box := list(self._grid.pull_messages([key])):
                yield key, box

    def set_run(self, run: Any) -> None:
        """As the wrapped grid; Flower does not publish the type of a run."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """As the wrapped grid."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """As the wrapped grid."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """As the wrapped grid."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As the wrapped grid."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As the wrapped grid."""
        return self._grid.pull_messages(message_ids)


def streaming(grid: Grid) -> Grid:
    """The grid itself if it hands replies over one by one, else wrapped."""
    return grid if getattr(grid, "streams_replies", False) else PollingGrid(grid)
