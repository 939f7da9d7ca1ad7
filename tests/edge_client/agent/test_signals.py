"""The plug-in that knows the vehicle: what it may print, and what happens when it fails."""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_edge_client.agent.guards import Signals
from convoy_edge_client.agent.signals import parse_signals, read_signals
from convoy_edge_client.errors import SignalsError


def plug_in(code):
    return (sys.executable, "-c", code)


def test_a_plug_in_is_run_and_read():
    code = 'print(\'{"driving": true, "battery_percent": 80, "network": "wifi"}\')'
    assert read_signals(plug_in(code), 30) == Signals(
        driving=True, battery_percent=80.0, network="wifi"
    )


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        (b"", "something else than JSON"),
        (b"{", "something else than JSON"),
        (b"\xff", "something else than JSON"),
        (b"[]", "something else than one JSON object"),
        (b'{"drivin": true}', "unknown key 'drivin'; did you mean 'driving'"),
        (b'{"driving": 1}', "driving: expected bool, got 1"),
        (b'{"network": "lte"}', "expected one of ethernet, wifi, cellular"),
        (b'{"battery_percent": 180}', "battery_percent 180, expected 0..100"),
        (b'{"battery_percent": NaN}', "expected 0..100"),
    ],
)
def test_what_is_no_signal_is_refused(printed, words):
    with pytest.raises(SignalsError, match=words):
        parse_signals(printed)


@given(st.binary(max_size=60))
def test_whatever_is_printed_ends_in_signals_or_in_the_documented_error(printed):
    with contextlib.suppress(SignalsError):
        parse_signals(printed)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("/nowhere/signals",), r"cannot be run \(No such file or directory\): /nowhere/signals"),
        (plug_in("raise SystemExit(3)"), "ended with code 3"),
    ],
)
def test_a_plug_in_that_fails_says_how(command, words):
    with pytest.raises(SignalsError, match=words):
        read_signals(command, 30)


def test_a_plug_in_that_hangs_is_killed_with_all_that_it_started(tmp_path):
    """A shell's child holds the pipe open: waiting for the pipe's end would stop the guard."""
    pid_file = tmp_path / "pid"
    command = ("/bin/sh", "-c", f"sleep 600 & echo $! > {pid_file}; wait")

    for timeout_s in (0.2, 1.0, 5.0, 30.0):  # a busy machine may take a while to start a shell
        with pytest.raises(SignalsError, match="took longer than"):
            read_signals(command, timeout_s)
        if pid_file.exists():
            break

    child = int(pid_file.read_text())
    for _ in range(1000):
        if not is_alive(child):
            break
        time.sleep(0.01)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("the plug-in's child is still there")


def is_alive(pid):
    """Neither gone nor a zombie that nobody has collected."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
