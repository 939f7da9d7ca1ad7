"""The meter counts this process and what it started."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convoy_simulation.resource_meter import ResourceMeter, tree_rss_bytes

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")


@needs_proc
def test_a_child_process_counts_towards_the_tree():
    alone_bytes = tree_rss_bytes(os.getpid())
    hold_30_mb = (
        "import sys; held = bytearray(30_000_000); print('up', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", hold_30_mb],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout.readline() == b"up\n"
        assert tree_rss_bytes(os.getpid()) >= alone_bytes + 30_000_000
    finally:
        child.communicate(b"")


@needs_proc
def test_the_peak_stays_after_the_memory_is_given_back():
    with ResourceMeter(interval_s=0.005) as meter:
        before_bytes = tree_rss_bytes(os.getpid())
        held = bytearray(os.urandom(1)) * 40_000_000
        time.sleep(0.1)
        del held
    assert meter.read().peak_rss_bytes >= before_bytes + 35_000_000


def test_work_shows_as_processor_seconds_and_sleep_does_not():
    with ResourceMeter() as meter:
        time.sleep(0.05)
        idle = meter.read()
        while meter.read().cpu_s < idle.cpu_s + 0.05:
            sum(range(1000))
    assert idle.wall_s >= 0.05
    assert meter.read().cpu_s >= 0.05
