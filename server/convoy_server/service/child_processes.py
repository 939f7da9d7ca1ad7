"""Processes of the service: started with Flower kept quiet, never outliving who started them."""

import ctypes
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Final

ORPHANED: Final = 4
"""Exit code of a process whose parent died before it could ask to die with it."""

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None)
"""Loaded here: between fork and exec nothing may be loaded."""

_QUIET_FLOWER: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_ENABLE_EVENT_LOG": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
}
"""Flower reads these when it is imported, so they must be there when a process starts."""


def start_child(module: str, config_path: Path) -> subprocess.Popen[bytes]:
    """Start a process of the service that does not outlive this one."""
    return subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", f"convoy_server.service.{module}", str(config_path)],
        env=os.environ | _QUIET_FLOWER,
        preexec_fn=partial(_die_with, os.getpid()),  # noqa: PLW1509 - takes no lock and loads nothing
    )


PATIENCE_S: Final = 20.0
"""Seconds that a process gets to end in when it is asked to."""


def end_child(process: subprocess.Popen[bytes], patience_s: float = PATIENCE_S) -> None:
    """Ask a process to end, and make it end."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _die_with(parent_pid: int) -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # died before the line above: no signal will come
        os._exit(ORPHANED)
