"""Listens for the server's call, so that the agent need not ask again and again whether there is work.

A thread waits at the fleet door (convoy_protos.door_bell). Where the server has no bell, or the link is
down, nobody is listening and the agent asks at its own pace.
"""

import logging
import random
import threading
import time
from typing import Final, Protocol

from convoy_edge_client.agent.link_pace import BackOff
from convoy_protos.errors import LinkError

logger = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 0.25
_TOO_SOON_S: Final = 1.0
"""A wait that ends sooner without a call: the server has no place for us to wait."""


class Door(Protocol):
    """What listening needs of convoy_protos.flower_internals.FleetConnection."""

    def wait_for_call(self, heard: str) -> str | None:
        """What has been heard by now; None: there is no bell."""
        ...


class Calls:
    """What the thread has heard.

    Attributes:
        listening: Whether a call would be heard now.
    """

    def __init__(self, door: Door, stop: threading.Event) -> None:
        """Listen to nothing yet.

        Args:
            door: Its call is made in a thread of ours.
            stop: Set from outside.
        """
        self.listening = False
        self._door = door
        self._stop = stop
        self._came = threading.Event()

    def listen(self) -> None:
        """From now on until asked to stop; the thread ends with the process."""
        threading.Thread(target=self._listen, name="calls", daemon=True).start()

    def wait(self, longest_s: float) -> None:
        """Until a call comes, so long at most, or until asked to stop."""
        end_s = time.monotonic() + longest_s
        while not self._stop.is_set() and (left_s := end_s - time.monotonic()) > 0.0:
            if self._came.wait(min(left_s, _LOOK_EVERY_S)):
                self._came.clear()
                return

    def _listen(self) -> None:
        heard, back_off = "", BackOff()
        while not self._stop.is_set():
            began_s = time.monotonic()
            try:
                now = self._door.wait_for_call(heard)
            except LinkError as error:
                self.listening = False
                back_off = back_off.failed()
                logger.info("no bell to hear: %s", error)
                self._stop.wait(back_off.wait_s(random.random()))  # noqa: S311
                continue
            if now is None:
                logger.info("the server has no bell: asks for work at its own pace")
                return
            self.listening, back_off = True, BackOff()
            if now != heard:
                self._came.set()
            elif time.monotonic() - began_s < _TOO_SOON_S:
                self._stop.wait(_TOO_SOON_S)
            heard = now
        self.listening = False
