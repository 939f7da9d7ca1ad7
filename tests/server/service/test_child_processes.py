"""Processes of the service end with the one that has started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convoy_server.service import child_processes
from convoy_server.service.child_processes import start_child

PARENT = """
import sys, time
from pathlib import Path
from convoy_server.service.child_processes import start_child

child = start_child("two_doors", Path(sys.argv[1]))
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_child_is_gone_when_its_parent_was_killed(tmp_path):
    # A configuration that nobody writes to: the child waits in open() for as long as it lives.
    os.mkfifo(tmp_path / "server.toml")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "server.toml")], stdout=subprocess.PIPE
    )
    with parent:
        child = int(parent.stdout.readline())
        assert runs(child)
        parent.send_signal(signal.SIGKILL)
    end_s = time.monotonic() + 30
    while runs(child):
        assert time.monotonic() < end_s, "it has outlived its parent"
        time.sleep(0.01)


def test_a_child_whose_parent_has_died_already_does_not_begin(tmp_path, monkeypatch):
    """Killed between fork and the child's wish to die with it: nobody would ever end the child."""
    monkeypatch.setattr(child_processes.os, "getpid", lambda: 0)
    child = start_child("two_doors", tmp_path / "server.toml")
    assert child.wait(timeout=30) == child_processes.ORPHANED


def runs(pid):
    """Neither gone nor a zombie that nobody has collected."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
