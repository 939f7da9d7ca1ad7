"""The meter counts this process and what it started."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convoy_simulation.resource_meter import ResourceMeter, process_tree

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")


def rss_bytes() -> int:
    return sum(process.rss_bytes for process in process_tree(os.getpid()))


@needs_proc
def test_a_child_process_counts_towards_the_tree():
    alone_bytes = rss_bytes()
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
        assert rss_bytes() >= alone_bytes + 30_000_000
    finally:
        child.communicate(b"")


@needs_proc
def test_the_peak_stays_after_the_memory_is_given_back():
    with ResourceMeter(interval_s=0.005) as meter:
        before_bytes = rss_bytes()
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


@needs_proc
def test_the_time_of_a_grandchild_counts_even_while_its_parent_goes_on():
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    keep = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {burn!r}]); print('up', flush=True); time.sleep(60)"
    with ResourceMeter(interval_s=0.01) as meter:
        child = subprocess.Popen([sys.executable, "-c", keep], stdout=subprocess.PIPE)
        try:
            assert child.stdout.readline() == b"up\n"
            assert meter.read().cpu_s >= 0.4
        finally:
            child.kill()
            child.communicate()
