"""Any Flower grid, read one reply at a time.

Flower's own grids return a list that holds every reply of the cohort, and look for replies every
three seconds. This one takes one message at a time, often while replies come and seldom while
none do, and hands each over before it takes the next. A reply is found late by a tenth of the time
since the one before, so that looking for it costs little beside waiting for it.

Flower hands a message out once: it is lost if whoever takes it dies before it is kept, the SuperLink or the
vehicle. What a vehicle answers with the same bytes however often it is asked is therefore asked again.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from convoy_protos.flower_internals import set_replied_to
from convoy_protos.flower_messages import (
    CHECK_IN,
    HELPED_UPLOAD,
    MASK_SUM,
    QUERY_PROFILE,
    SHARE,
    UNMASK,
    UPLOAD,
)

FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 2.0
CLOCK_SLACK_S: Final = 120.0
"""How far a vehicle's clock may be off: its reply is dated by it and must not seem older than its message."""
_LATE_SHARE: Final = 0.1


ASKED_AGAIN: Final = frozenset(
    {CHECK_IN, SHARE, UPLOAD, UNMASK, HELPED_UPLOAD, MASK_SUM, QUERY_PROFILE}
)
"""A second question of these kinds gets the bytes of the first answer, and costs next to nothing."""
_AGAIN_SHARE: Final = 1.0 / 3.0


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

        A message that could not be sent has no reply. One of the kinds in ASKED_AGAIN is sent once more to
        who is silent when a third of the time has passed. With a timeout messages expire soon after it: else a
        vehicle could come back to work that nobody waits for, within Flower's 12 hours.
        """
        sent = list(messages)
        end_s = None
        if timeout is not None:
            end_s = self._now_s() + timeout
            for message in sent:
                message.metadata.ttl = timeout + CLOCK_SLACK_S
        # Flower's grid puts None in place of what it could not push.
        keys = [key or "" for key in self._grid.push_messages(sent)]
        # What is waited for, by what was asked first.
        first = {key: key for key in keys if key}
        waiting = list(first)
        news_s = self._now_s()
        again_s = math.inf if timeout is None else news_s + _AGAIN_SHARE * timeout
        while waiting and (end_s is None or self._now_s() < end_s):
            begin_s = self._now_s()
            if begin_s >= again_s:
                again_s = math.inf
                silent = {key: one for key, one in zip(keys, sent, strict=True) if key in waiting}
                waiting += self._ask_again(silent, first)
            answered: set[str] = set()
            for key, box in self._boxes(waiting):
                if first[key] in answered:
                    continue
                answered.add(first[key])
                if first[key] != key:
                    set_replied_to(box[0], first[key])
                # Popped and not named: the next reply must not find this one still held.
                yield box.pop()
            waiting = [key for key in waiting if first[key] not in answered]
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

    def _ask_again(self, silent: Mapping[str, Message], first: dict[str, str]) -> list[str]:
        """New messages for those that may be asked again; notes in `first` what they stand for."""
        lost = {key: one for key, one in silent.items() if one.metadata.message_type in ASKED_AGAIN}
        copies = [_copy_of(one) for one in lost.values()]
        sent = zip(lost, self._grid.push_messages(copies) if copies else (), strict=True)
        again = {new: key for key, new in sent if new}
        first.update(again)
        return list(again)

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


def _copy_of(message: Message) -> Message:
    about = message.metadata
    return Message(
        message.content,
        about.dst_node_id,
        about.message_type,
        ttl=about.ttl,
        group_id=about.group_id,
    )


def streaming(grid: Grid) -> Grid:
    """The grid itself if it hands replies over one by one, else wrapped."""
    return grid if getattr(grid, "streams_replies", False) else PollingGrid(grid)
