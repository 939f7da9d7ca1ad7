"""Let a candidate look on: every n-th frame goes to it as well, and what it would do is compared.

The thread that drives copies a picture into shared memory, if the candidate has finished the one before;
everything else happens in a thread and a process of their own.
"""

import json
import mmap
import select
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convoy_edge_client.drive.drive_config import DriveConfig
from convoy_edge_client.drive.trial_rules import shadow_objection
from convoy_edge_client.updates.states import Slot
from convoy_protos.settings import to_table

_PROCESS: Final = "convoy_edge_client.drive.shadow_process"
_LOAD_S: Final = 60.0


class Shadow:
    """One candidate that looks on."""

    def __init__(
        self, folder: Path, slot: Slot, config: DriveConfig, engines: Path, shape: tuple[int, ...]
    ) -> None:
        """Start the process.

        Args:
            folder: With the release's files.
            slot: Of the candidate.
            config: Bounds.
            engines: Where TensorRT's engines are.
            shape: Height, width, 3 of the camera's pictures.
        """
        self.slot = slot
        self._config = config
        self._shape = shape
        self._order = {
            "folder": str(folder.resolve()),
            "engines": str(engines.resolve()),
            "slot": to_table(slot),
            "drive": asdict(config),
            "shape": list(shape),
        }
        self._memory = tempfile.TemporaryFile(prefix="convoy-shadow-")  # noqa: SIM115 - see close
        self._memory.truncate(int(np.prod(shape)))
        self._shared = mmap.mmap(self._memory.fileno(), int(np.prod(shape)))
        self._picture = np.frombuffer(self._shared, np.uint8).reshape(shape)
        self._steering = 0.0
        self._count = 0
        self._free = threading.Event()
        self._full = threading.Event()
        self._ended = threading.Event()
        self.compared = 0
        self.difference_sum = 0.0
        self.verdict: str | None = None
        """None: it still looks on; empty: it may drive; else why it may not."""
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", _PROCESS, str(self._memory.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(self._memory.fileno(),),
        )
        self._thread = threading.Thread(target=self._run, name="convoy-shadow", daemon=True)
        self._thread.start()

    def offer(self, picture_HWC: NDArray[np.uint8], steering: float) -> None:
        """A frame and what was done; called by the thread that drives, never waits."""
        self._count += 1
        if self._count % self._config.shadow_every or not self._free.is_set():
            return
        if picture_HWC.shape == self._shape:
            self._free.clear()
            np.copyto(self._picture, picture_HWC)
            self._steering = steering
            self._full.set()

    @property
    def mean_difference(self) -> float:
        """Of the steering, so far."""
        return self.difference_sum / self.compared if self.compared else 0.0

    def close(self) -> None:
        """End the process."""
        self._ended.set()
        self._full.set()
        self._process.kill()
        self._thread.join()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was not read yet
                    pipe.close()
        self._memory.close()

    def _run(self) -> None:
        verdict = self._watched()
        if not self._ended.is_set():
            self.verdict = verdict

    def _watched(self) -> str:
        """Compare until there is a verdict."""
        answer = self._asked(json.dumps(self._order).encode() + b"\n", _LOAD_S)
        while True:
            if isinstance(answer, str):
                return answer
            verdict = shadow_objection(self.compared, self.mean_difference, self._config)
            if verdict is not None:
                return verdict
            self._full.clear()
            self._free.set()
            self._full.wait()
            if self._ended.is_set():
                return ""
            answer = self._asked(b"\n", self._config.watchdog_s)
            if isinstance(answer, dict):
                self.compared += 1
                self.difference_sum += abs(answer["steering"] - self._steering)

    def _asked(self, order: bytes, patience_s: float) -> dict[str, Any] | str:
        """The answer, or why there is none."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise AssertionError("both are pipes")
        try:
            stdin.write(order)
            stdin.flush()
        except OSError:
            return self._how_it_ended()
        if not select.select([stdout], [], [], patience_s)[0]:
            return f"gave no answer within {patience_s:g} s"
        line = stdout.readline()
        if not line.endswith(b"\n"):
            return self._how_it_ended()
        answer: dict[str, Any] = json.loads(line)
        return str(answer["fault"]) if "fault" in answer else answer

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return f"its process ended {how}"
