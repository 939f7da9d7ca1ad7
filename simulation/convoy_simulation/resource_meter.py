"""Seconds and bytes that a run costs: this process and everything it started.

Sampled from /proc (Linux): workers are children of a fork server, whose time the kernel adds up
only when they have ended. Elsewhere memory is unknown and stays None, never a made-up number.
"""

import os
import resource
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Resources:
    """What was used between entering and leaving the meter.

    Attributes:
        wall_s: Seconds on the clock.
        cpu_s: Processor seconds of the process tree, up to the last sample of each process.
        peak_rss_bytes: Most resident memory of the whole process tree at one moment, pages that
            processes share counted in each; None if unknown.
    """

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int | None


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """What one process has used since it started.

    Attributes:
        identity: Process number and start time: numbers are used again.
        cpu_s: Processor seconds, its own.
        rss_bytes: Resident memory now.
    """

    identity: tuple[int, int]
    cpu_s: float
    rss_bytes: int


class ResourceMeter:
    """A context manager that samples the process tree in a thread until it is left."""

    def __init__(self, interval_s: float = 0.25) -> None:
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resource-meter", daemon=True)
        self._lock = threading.Lock()
        self._cpu_s: dict[tuple[int, int], float] = {}
        self._peak_rss_bytes: int | None = None
        self._started_s = 0.0
        self._cpu_before_s = 0.0

    def __enter__(self) -> "ResourceMeter":
        self._started_s = time.monotonic()
        self._sample()
        self._cpu_before_s = self._tree_cpu_s()
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
        self._sample()
        return Resources(
            wall_s=time.monotonic() - self._started_s,
            cpu_s=self._tree_cpu_s() - self._cpu_before_s,
            peak_rss_bytes=self._peak_rss_bytes,
        )

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._sample()

    def _sample(self) -> None:
        with self._lock:
            tree = list(process_tree(os.getpid()))
            self._cpu_s |= {process.identity: process.cpu_s for process in tree}
            if tree:
                now_bytes = sum(process.rss_bytes for process in tree)
                self._peak_rss_bytes = max(now_bytes, self._peak_rss_bytes or 0)

    def _tree_cpu_s(self) -> float:
        if self._cpu_s:
            return sum(self._cpu_s.values())
        own = resource.getrusage(resource.RUSAGE_SELF)
        return own.ru_utime + own.ru_stime


def process_tree(root_pid: int) -> Iterator[ProcessUse]:
    """A process and all its descendants; nothing where there is no /proc."""
    if not _PROC.is_dir():
        return
    use: dict[int, ProcessUse] = {}
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
        use[pid] = ProcessUse(
            identity=(pid, int(fields[19])),
            cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
            rss_bytes=int(fields[21]) * _PAGE_BYTES,
        )
    queue = [root_pid]
    while queue:
        pid = queue.pop()
        if pid in use:
            yield use[pid]
        queue.extend(children.get(pid, ()))
