"""Takes on submitted runs, one after the other: `python -m convoy_server.service.executor server.toml`.

Stands in for Flower's SuperExec and never executes what was submitted. A run outlives whatever dies:

    ServerApp process     started again; goes on from the last finished round
    this process          goes on with the task in task.json
    SuperLink             its state is on disk; the ServerApp waits for it
    all at once           if the SuperLink has given the task up meanwhile, the run is submitted again
                          with the same settings and goes on in its run directory
"""

import logging
import math
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from convoy_protos.errors import ConvoyError, SuperLinkError
from convoy_protos.flower_internals import (
    finish_task,
    keep_task,
    run_outcomes,
    start_run,
    take_task,
)
from convoy_server.service.child_processes import end_child, start_child
from convoy_server.service.restart_policy import RestartPolicy
from convoy_server.service.run_queue import is_forgotten, queued_runs, submitted
from convoy_server.service.server_config import STATE_MODE, ServerConfig, load_server_config
from convoy_server.service.status_file import STOPPED_BY_OPERATOR, end_status
from convoy_server.service.structured_log import set_up_log
from convoy_server.service.task_file import (
    FAILED,
    INTERRUPTED,
    REASON_FILE,
    RunningTask,
    clear_task,
    load_task,
    run_folder,
    save_task,
)

logger = logging.getLogger(__name__)

POLL_S: Final = 0.5
HEARTBEAT_S: Final = 10.0
GIVEN_UP: Final = "the SuperLink has given the task up"
MAX_FAULTS: Final = 5
"""So often in a row may a ServerApp end soon after its start by a fault of its own."""


class Executor:
    """The loop."""

    def __init__(self, config: ServerConfig, config_path: Path, stop: threading.Event) -> None:
        self._config = config
        self._config_path = config_path
        self._stop = stop
        self._address = config.private_door.address

    def run(self) -> None:
        """Until asked to stop."""
        while not self._stop.is_set():
            try:
                worked = self._step()
            except SuperLinkError as error:
                logger.warning("%s", error)
                worked = False
            if not worked:
                self._stop.wait(POLL_S)

    def _step(self) -> bool:
        state = self._config.state_folder
        running = load_task(state)
        if running is None:
            taken = take_task(self._address)
            if taken is None:
                self._submit_forgotten()
                return False
            running = RunningTask(task=taken[0], bundle=taken[1])
            try:
                run_folder(running, self._config)
            except ConvoyError as error:
                finish_task(self._address, running.task, f"refused: {error}")
                logger.warning("run %d refused: %s", running.task.run_id, error)
                return True
            save_task(state, running)
            logger.info("run %d taken on", running.task.run_id)
        elif not keep_task(self._address, running.task):
            self._submit_again(running)
            return True
        outcome = self._work(running)
        if outcome == GIVEN_UP:
            self._submit_again(running)
        elif outcome is not None:
            self._finish(running, outcome)
        return True

    def _work(self, running: RunningTask) -> str | None:
        """Have the ServerApp run to its end.

        Returns:
            Why it failed, empty where it did not, GIVEN_UP; None: asked to stop.
        """
        policy = RestartPolicy()
        while not self._stop.is_set():
            reason_file = self._config.state_folder / REASON_FILE
            reason_file.unlink(missing_ok=True)
            process = start_child("serverapp_process", self._config_path)
            begin_s = time.monotonic()
            try:
                code = self._watch(process, running)
            finally:
                end_child(process)
            if code == 0:
                return ""
            if code == FAILED and reason_file.exists():
                return reason_file.read_text().strip()
            if self._stop.is_set():
                return None
            if code is None:
                return GIVEN_UP
            policy = policy.ended(time.monotonic() - begin_s)
            if code > 0 and code != INTERRUPTED and policy.quick_ends >= MAX_FAULTS:
                return f"the ServerApp ended with {code}, {MAX_FAULTS} times in a row: see the log"
            logger.warning("the ServerApp ended with %d; again in %.1f s", code, policy.wait_s)
            self._stop.wait(policy.wait_s)
        return None

    def _watch(self, process: subprocess.Popen[bytes], running: RunningTask) -> int | None:
        """Its exit code; None: it has to be ended.

        Asked to stop, a round under way has [runs] drain_s left, and the SuperLink must go on hearing of us.
        """
        beat_s, end_s = 0.0, math.inf
        while time.monotonic() < end_s:
            if self._stop.is_set() and end_s == math.inf:
                process.terminate()
                end_s = time.monotonic() + self._config.runs.drain_s
            if time.monotonic() - beat_s > HEARTBEAT_S:
                beat_s = time.monotonic()
                try:
                    if not keep_task(self._address, running.task):
                        return None
                except SuperLinkError as error:
                    logger.warning("%s", error)
            try:
                return process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
        return None

    def _submit_again(self, running: RunningTask) -> None:
        """The SuperLink counts the run as over; with the run directory it goes on as a new one.

        The task is forgotten last: a crash in between may submit the run twice, and the second one then
        finds nothing left to do.
        """
        outcome = run_outcomes(self._address).get(running.task.run_id)
        if outcome is not None and outcome.end == "stopped":
            end_status(run_folder(running, self._config), "stopped", STOPPED_BY_OPERATOR)
            logger.info("run %d was stopped", running.task.run_id)
        else:
            run_id = start_run(self._address, running.bundle)
            logger.warning("run %d: %s; goes on as run %d", running.task.run_id, GIVEN_UP, run_id)
        clear_task(self._config.state_folder)

    def _submit_forgotten(self) -> None:
        """Runs of the queue that the SuperLink does not know any more, or counts as over."""
        queued = list(queued_runs(self._config.runs_folder))
        outcomes = run_outcomes(self._address) if queued else {}
        for folder, status in queued:
            bundle = submitted(folder)
            if is_forgotten(status, bundle, outcomes, datetime.now(UTC)):
                run_id = start_run(self._address, bundle)
                logger.warning("run %s was forgotten; waits again as run %d", folder.name, run_id)

    def _finish(self, running: RunningTask, failure: str) -> None:
        if failure:
            end_status(run_folder(running, self._config), "failed", failure)
        finish_task(self._address, running.task, failure)
        clear_task(self._config.state_folder)
        logger.info("run %d: %s", running.task.run_id, failure or "done")


def main(config_path: Path) -> None:
    """Work until SIGTERM.

    Raises:
        ConvoyError: The configuration cannot be used.
    """
    config = load_server_config(config_path)
    config.state_folder.mkdir(mode=STATE_MODE, parents=True, exist_ok=True)
    set_up_log(config.log, "executor")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    Executor(config, config_path, stop).run()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except ConvoyError as fault:
        sys.exit(f"executor: {fault}")
