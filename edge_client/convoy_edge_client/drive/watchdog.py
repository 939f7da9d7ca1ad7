"""End the process if a frame waits too long: whoever supervises it starts it anew, which is counted.

A native call that hangs cannot be ended otherwise; updates/states.py goes back after two such starts.
"""

import os
import threading
from collections.abc import Callable
from typing import Final

EXIT_CODE: Final = 75
"""EX_TEMPFAIL: start me again."""


def watch(
    hangs_s: Callable[[], float],
    patience_s: float,
    stop: threading.Event,
    end: Callable[[int], object] = os._exit,
) -> threading.Thread:
    """A thread that looks every quarter of the patience.

    Args:
        hangs_s: For how long the present frame has waited.
        patience_s: For how long it may.
        stop: Ends the thread.
        end: Ends the process.
    """

    def look() -> None:
        while not stop.wait(patience_s / 4):
            if hangs_s() > patience_s:
                end(EXIT_CODE)

    thread = threading.Thread(target=look, name="convoy-watchdog", daemon=True)
    thread.start()
    return thread
