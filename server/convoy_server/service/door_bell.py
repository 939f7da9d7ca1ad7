"""Devices need not ask again and again whether there is work: they wait at the fleet door for a ring.

A ring says only that asking is worth it. The message itself is asked for as ever, with a signature, so a
ring that nobody hears costs a device the time until it asks by itself. Who knows the 64-bit id of a node
can hear when it is called, and nothing else.
"""

import asyncio
import secrets
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Final
from urllib.parse import parse_qs

from convoy_protos.door_bell import HOLD_S, MAX_HEARD

MAX_WAITING: Final = 10_000
"""More are answered at once, and ask again after a pause."""

_LONGEST_ID: Final = 20


class DoorBell:
    """Who waits, and who has been called; for threads with event loops of their own."""

    def __init__(self, hold_s: float = HOLD_S, max_waiting: int = MAX_WAITING) -> None:
        """Nobody has been called.

        Args:
            hold_s: Seconds after which a wait ends without a ring.
            max_waiting: Who comes when so many wait is answered at once.
        """
        self._hold_s = hold_s
        self._max_waiting = max_waiting
        # Another process may have rung before this one: whoever waited there asks once.
        self._begun = secrets.token_hex(8)
        self._rings: Counter[int] = Counter()
        self._waiting: dict[int, list[_Waiter]] = defaultdict(list)
        self._count = 0
        self._lock = threading.Lock()

    def ring(self, nodes: Iterable[int]) -> None:
        """There is a message for each of these."""
        with self._lock:
            for node in nodes:
                self._rings[node] += 1
                for waiter in self._waiting.get(node, ()):
                    waiter.wake()

    async def heard(self, node: int, before: str) -> str:
        """What there is to hear for a node: at once where that is not what it heard before."""
        waiter = _Waiter()
        with self._lock:
            now = self._now(node)
            if now != before or self._count >= self._max_waiting:
                return now
            self._count += 1
            self._waiting[node].append(waiter)
        try:
            await waiter.wait(self._hold_s)
        finally:
            with self._lock:
                self._count -= 1
                self._waiting[node].remove(waiter)
                if not self._waiting[node]:
                    del self._waiting[node]
                now = self._now(node)
        return now

    def _now(self, node: int) -> str:
        return f"{self._begun}.{self._rings[node]}" if node in self._rings else self._begun


class _Waiter:
    """One that waits, in the event loop in which it was made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()

    def wake(self) -> None:
        """From any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._rung.set)

    async def wait(self, seconds: float) -> None:
        """Until woken, or so long."""
        try:
            await asyncio.wait_for(self._rung.wait(), seconds)
        except TimeoutError:
            return


def read_query(query: bytes) -> tuple[int, str] | None:
    """Node and what it heard before; None where the query is none of ours."""
    try:
        fields = parse_qs(query.decode("ascii"), keep_blank_values=True, max_num_fields=2)
    except ValueError:
        return None
    (node,) = fields.get("node", [""])[:1]
    (heard,) = fields.get("heard", [""])[:1]
    if not (node.isdecimal() and len(node) <= _LONGEST_ID and len(heard) <= MAX_HEARD):
        return None
    return int(node), heard
