"""Is the clock right? Certificates, and the node's signature (good for 300 s), depend on it.

Source: adjtimex(2): state TIME_ERROR means that nobody keeps the clock in step.
"""

import ctypes
import os
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final

from convoy_protos.findings import Finding, ok, problem, warning

_TIME_ERROR: Final = 5
_TIMEX_BYTES: Final = 512
"""More than struct timex has anywhere (208 on 64-bit Linux)."""

_WARN_S: Final = 10.0
_WRONG_S: Final = 120.0


def read_clock_state() -> int:
    """The kernel's clock state, without touching it.

    Raises:
        OSError: It does not say.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes = 0: only read
    state = int(libc.adjtimex(buffer))
    if state < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return state


def look_at_clock() -> Finding:
    """Ask the kernel."""
    try:
        return clock_finding(read_clock_state())
    except (OSError, AttributeError) as error:  # no such function outside of Linux
        return warning("clock", f"the system does not say whether it is kept in step ({error})")


def clock_finding(state: int) -> Finding:
    """By the state that adjtimex gives."""
    if state == _TIME_ERROR:
        return warning(
            "clock",
            "nobody keeps it in step: `timedatectl set-ntp true`, or install chrony; a container uses "
            "its host's",
        )
    return ok("clock", "kept in step")


def skew_finding(server_date: str | None, now: datetime) -> list[Finding]:
    """Compare with the server's.

    Args:
        server_date: The Date header of its answer, in whole seconds; None: it sent none.
        now: When the answer came; with a time zone.
    """
    if server_date is None:
        return []
    try:
        server = parsedate_to_datetime(server_date)
    except ValueError:
        return [warning("clock of server", f"sent a date that is none: {server_date[:40]!r}")]
    if server.tzinfo is None:
        return [
            warning("clock of server", f"sent a date without a time zone: {server_date[:40]!r}")
        ]
    seconds = (now - server).total_seconds()
    text = f"this clock is {abs(seconds):.0f} s {'ahead' if seconds > 0 else 'behind'}"
    if abs(seconds) > _WRONG_S:
        return [problem("clock of server", f"{text}: the server refuses the node; set the clock")]
    if abs(seconds) > _WARN_S:
        return [warning("clock of server", f"{text}: `timedatectl set-ntp true`")]
    return [ok("clock of server", "agrees")]
