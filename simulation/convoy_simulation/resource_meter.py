"""Seconds and bytes that a run costs: this process and everything it started.

Memory is sampled from /proc (Linux); elsewhere it is unknown and stays None, never a made-up number.
"""

import os
import resource
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Resources:
    """What was used between entering and leaving the meter.

    Attributes:
        wall_s: Seconds on the clock.
        cpu_s: Processor seconds of this process and of its children that have ended.
        peak_rss_bytes: Most resident memory of the whole process tree at one moment; None if unknown.
    """

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int | None


class ResourceMeter:
    """A context manager that samples memory in a thread until it is left."""

    def __init__(self, interval_s: float = 0.25) -> None:
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="resource-meter", daemon=True)
        self._peak_rss_bytes: int | None = None
        self._started_s = 0.0
        self._cpu_before_s = 0.0

    def __enter__(self) -> "ResourceMeter":
        self._started_s = time.monotonic()
        self._cpu_before_s = _cpu_s()
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

    def read(self) -> Resources:
        """What was used so far."""
        return Resources(
            wall_s=time.monotonic() - self._started_s,
            cpu_s=_cpu_s() - self._cpu_before_s,
            peak_rss_bytes=self._peak_rss_bytes,
        )

    def _sample(self) -> None:
        while True:
            now_bytes = tree_rss_bytes(os.getpid())
            if now_bytes is not None:
                self._peak_rss_bytes = max(now_bytes, self._peak_rss_bytes or 0)
            if self._stop.wait(self._interval_s):
                return


def tree_rss_bytes(root_pid: int) -> int | None:
    """Resident bytes of a process and all its descendants; None where there is no /proc."""
    if not _PROC.is_dir():
        return None
    rss: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The command in parentheses may hold blanks: the fields after it are counted from its end.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # the process has just ended
            continue
        pid = int(entry.name)
        children.setdefault(int(fields[1]), []).append(pid)
        rss[pid] = int(fields[21]) * _PAGE_BYTES
    total, queue = 0, [root_pid]
    while queue:
        pid = queue.pop()
        total += rss.get(pid, 0)
        queue.extend(children.get(pid, ()))
    return total


def _cpu_s() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
