"""The plug-in that knows the vehicle: run it, and read the one JSON object that it prints."""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Any, Final

from convoy_edge_client.agent.guards import Signals
from convoy_edge_client.errors import SignalsError
from convoy_protos.errors import SettingsError
from convoy_protos.settings import from_table

_MAX_BYTES: Final = 1 << 16


def read_signals(command: Sequence[str], timeout_s: float) -> Signals:
    """What the vehicle says now.

    Args:
        command: Program and arguments; no shell is asked.
        timeout_s: After which the plug-in is killed.

    Raises:
        SignalsError: It is missing, too slow, ends with a failure, or prints something else.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - the owner of the vehicle names it
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise SignalsError(f"cannot be run ({error.strerror}): {command[0]}") from error
    with process:
        try:
            printed, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            # Its whole group: a child of a script would hold the pipe open, and this thread with it.
            os.killpg(process.pid, signal.SIGKILL)
            raise SignalsError(f"took longer than {timeout_s:g} s") from error
    if process.returncode:
        raise SignalsError(f"ended with code {process.returncode}")
    return parse_signals(printed)


def parse_signals(printed: bytes) -> Signals:
    """The signals in what a plug-in printed.

    Raises:
        SignalsError: It is not one JSON object with keys and values that are known.
    """
    try:
        table: Any = json.loads(printed[:_MAX_BYTES])
    except ValueError as error:
        raise SignalsError("printed something else than JSON") from error
    if not isinstance(table, dict):
        raise SignalsError("printed something else than one JSON object")
    try:
        signals = from_table(Signals, table, "printed")
    except SettingsError as error:
        raise SignalsError(str(error)) from error
    percent = signals.battery_percent
    if percent is not None and not 0 <= percent <= 100:
        raise SignalsError(f"printed battery_percent {percent:g}, expected 0..100")
    return signals
