"""`convoy server`: keeps the service's processes running, and says how they are.

    superlink    two_doors.py: Flower's SuperLink, its two doors
    executor     executor.py: runs the ServerApp of submitted runs
    enrolment    enrolment.py: devices join and renew, where [enrolment] names an address
    releases     releases.py: vehicles fetch and report, where [releases] names a folder
    (metrics)    metrics.py, in this process

Each is a child that ends with this process and is started again when it ends by itself.
"""

import logging
import signal
import subprocess
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from convoy_server.service.child_processes import PATIENCE_S, end_child, start_child
from convoy_server.service.health_file import (
    HEALTH_EVERY_S,
    ProcessHealth,
    ServiceHealth,
    load_health,
    save_health,
)
from convoy_server.service.metrics import start_metrics
from convoy_server.service.restart_policy import RestartPolicy
from convoy_server.service.server_config import STATE_MODE, ServerConfig, load_server_config
from convoy_server.service.structured_log import set_up_log
from convoy_server.service.two_doors import HEALTH_PATH

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 0.2


@dataclass(slots=True)
class Child:
    """One supervised process."""

    name: str
    module: str
    process: subprocess.Popen[bytes] | None = None
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    restarts: int = 0
    begin_s: float = 0.0
    due_s: float = 0.0

    def look(self, config_path: Path, now_s: float) -> None:
        """Start it if it does not run and is due."""
        if self.process is not None and self.process.poll() is not None:
            self.policy = self.policy.ended(now_s - self.begin_s)
            self.due_s = now_s + self.policy.wait_s
            self.restarts += 1
            logger.warning(
                "%s ended with %d; again in %.1f s",
                self.name,
                self.process.returncode,
                self.policy.wait_s,
            )
            self.process = None
        if self.process is None and now_s >= self.due_s:
            self.process = start_child(self.module, config_path)
            self.begin_s = now_s
            logger.info("%s runs as process %d", self.name, self.process.pid)

    def health(self) -> ProcessHealth:
        """How it is."""
        running = self.process is not None and self.process.poll() is None
        rss_bytes = 0
        if running and self.process is not None:
            try:
                rss_bytes = psutil.Process(self.process.pid).memory_info().rss
            except psutil.Error:
                running = False
        return ProcessHealth(
            name=self.name, running=running, restarts=self.restarts, rss_bytes=rss_bytes
        )


def children_of(config: ServerConfig) -> list[Child]:
    """What a service with this configuration consists of; later ones are ended first."""
    children = [Child("superlink", "two_doors"), Child("executor", "executor")]
    if config.enrolment.public_address:
        children.append(Child("enrolment", "enrolment"))
    if config.releases.folder:
        children.append(Child("releases", "releases"))
    return children


def supervise(config_path: Path, stop: threading.Event) -> None:
    """Run the service until asked to stop.

    Raises:
        ConvoyError: The configuration cannot be used, or the metrics' port is taken.
    """
    config = load_server_config(config_path)
    config.state_folder.mkdir(mode=STATE_MODE, parents=True, exist_ok=True)
    config.runs_folder.mkdir(parents=True, exist_ok=True)
    set_up_log(config.log, "supervisor")
    children = children_of(config)
    metrics = start_metrics(config, lambda: load_health(config.state_folder))
    told_s = 0.0
    try:
        while not stop.is_set():
            now_s = time.monotonic()
            for child in children:
                child.look(config_path, now_s)
            if now_s - told_s >= HEALTH_EVERY_S:
                told_s = now_s
                save_health(config.state_folder, _health(config, children, draining=False))
            stop.wait(LOOK_EVERY_S)
        logger.info("draining: a round under way has %g s to end in", config.runs.drain_s)
        save_health(config.state_folder, _health(config, children, draining=True))
    finally:
        for child in reversed(children):
            if child.process is not None:
                end_child(child.process, config.runs.drain_s + 2.0 * PATIENCE_S)
        metrics.close()
        save_health(config.state_folder, _health(config, children, draining=True))


def _health(config: ServerConfig, children: list[Child], *, draining: bool) -> ServiceHealth:
    processes = tuple(child.health() for child in children)
    return ServiceHealth(
        processes=processes,
        superlink_answers=_answers(config),
        executor_alive=any(one.name == "executor" and one.running for one in processes),
        draining=draining,
    )


def _answers(config: ServerConfig) -> bool:
    door = config.private_door
    try:
        with urllib.request.urlopen(
            f"http://{door.host}:{door.port}{HEALTH_PATH}", timeout=1.0
        ) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def run_service(config_path: Path) -> None:
    """`supervise` until SIGTERM or Ctrl-C."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    supervise(config_path, stop)
