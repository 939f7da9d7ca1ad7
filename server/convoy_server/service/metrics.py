"""/metrics for Prometheus, /healthz and /readyz, over plain HTTP on loopback unless told otherwise.

Figures of rounds come from the run directories (rounds.jsonl, status.json), those of processes from the
supervisor; nothing is counted here, so a restart loses nothing. No vehicle is named: only counts.
"""

import logging
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from convoy_protos.errors import ConvoyError, JobFailedError
from convoy_protos.findings import Finding, ok, problem, problems
from convoy_server.audit import ROUNDS_FILE
from convoy_server.service.health_file import ServiceHealth
from convoy_server.service.round_counts import RunCounts
from convoy_server.service.run_queue import queued_runs
from convoy_server.service.server_check import check_aggregator, check_certificate, check_disk
from convoy_server.service.server_config import ServerConfig
from convoy_server.service.status_file import STATUS_FILE, Status, read_status

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

logger = logging.getLogger(__name__)

KEPT_RUNS: Final = 20
"""Runs that are shown: those that changed last. Older ones would only make every scrape longer."""

Health = Callable[[], ServiceHealth]


class MetricsServer:
    """Answers until it is closed; made by `start_metrics`."""

    def __init__(self, server: WSGIServer) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """TCP; the one that the system chose where the configuration says 0."""
        return self._server.server_port

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def start_metrics(
    config: ServerConfig,
    health: Health,
    *,
    port: int | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> MetricsServer:
    """Answer in a thread of this process.

    Args:
        config: Where to listen, and where the runs are.
        health: What the supervisor says, asked at every request.
        port: Instead of the configuration's; 0: a free one.
        now: For certificates.

    Raises:
        JobFailedError: The port cannot be listened on.
    """
    host = config.metrics.host
    port = config.metrics.port if port is None else port
    try:
        server = make_server(host, port, metrics_app(config, health, now), _Threading, _Silent)
    except OSError as error:
        raise JobFailedError(
            f"[metrics] {host}:{port}: {error.strerror}; name another host or port"
        ) from error
    return MetricsServer(server)


def metrics_app(
    config: ServerConfig, health: Health, now: Callable[[], datetime]
) -> Callable[["WSGIEnvironment", "StartResponse"], Iterable[bytes]]:
    """The three pages, as a WSGI application."""
    registry = CollectorRegistry()
    registry.register(ServiceCollector(config, health, now))
    metrics = make_wsgi_app(registry)

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            return list(metrics(environ, start_response))
        if path == "/healthz":
            return _text(start_response, "200 OK", "ok")
        if path == "/readyz":
            faults = problems(readiness(config, health(), now()))
            lines = [f"{one.subject}: {one.message}" for one in faults]
            status = "503 Service Unavailable" if faults else "200 OK"
            return _text(start_response, status, "\n".join(lines) or "ready")
        return _text(start_response, "404 Not Found", "/metrics, /healthz, /readyz")

    return app


def readiness(config: ServerConfig, health: ServiceHealth, now: datetime) -> list[Finding]:
    """Whether vehicles and operators find all that they need; any problem means no."""
    return [
        _is_so("superlink", health.superlink_answers, "does not answer; see the log for why"),
        _is_so("executor", health.executor_alive, "does not run; see the log for why"),
        _is_so("service", not health.draining, "is on its way down"),
        *check_disk(config),
        *check_certificate(config, now),
        *check_aggregator(config, now),
    ]


class ServiceCollector(Collector):
    """Reads what is on disk whenever Prometheus asks, each line of rounds.jsonl once."""

    def __init__(self, config: ServerConfig, health: Health, now: Callable[[], datetime]) -> None:
        self._config = config
        self._health = health
        self._now = now
        self._counts: dict[Path, RunCounts] = {}
        self._lock = threading.Lock()

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not read the disk."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Everything, as it is now."""
        with self._lock:
            folders = latest_runs(self._config.runs_folder, KEPT_RUNS)
            self._counts = {folder: self._counts.get(folder, RunCounts()) for folder in folders}
            for folder, counts in self._counts.items():
                counts.read_on(folder / ROUNDS_FILE)
            yield from _of_rounds(self._counts)
            yield from _of_status(_statuses(folders))
        yield GaugeMetricFamily(
            "convoy_queued_runs",
            "Runs that wait for their turn.",
            value=float(sum(1 for _ in queued_runs(self._config.runs_folder))),
        )
        health = self._health()
        yield from _of_health(health)
        yield GaugeMetricFamily(
            "convoy_ready",
            "1 while vehicles and operators find all that they need.",
            value=float(not problems(readiness(self._config, health, self._now()))),
        )
        yield GaugeMetricFamily(
            "convoy_disk_free_bytes", "Room for runs.", value=float(_free(self._config.runs_folder))
        )


def latest_runs(runs_folder: Path, count: int) -> list[Path]:
    """Run directories, the one that changed last first."""
    changed = [
        (max(file.stat().st_mtime_ns for file in files), folder)
        for folder in (runs_folder.iterdir() if runs_folder.is_dir() else ())
        if (files := [f for name in (ROUNDS_FILE, STATUS_FILE) if (f := folder / name).is_file()])
    ]
    return [folder for _, folder in sorted(changed, reverse=True)[:count]]


def _of_rounds(runs: dict[Path, RunCounts]) -> Iterator[Metric]:
    rounds = CounterMetricFamily(
        "convoy_rounds", "Rounds that ended, by outcome.", labels=["run", "outcome"]
    )
    seconds = SummaryMetricFamily("convoy_round_seconds", "Time a round took.", labels=["run"])
    traffic = CounterMetricFamily(
        "convoy_bytes",
        "Content of messages, up from vehicles and down to them.",
        labels=["run", "direction"],
    )
    rejections = CounterMetricFamily(
        "convoy_rejections", "Refused updates and evaluations.", labels=["run", "reason"]
    )
    lost = CounterMetricFamily(
        "convoy_lost_vehicles", "Vehicles that never answered, once a round.", labels=["run"]
    )
    unreadable = CounterMetricFamily(
        "convoy_unreadable_lines", "Lines of rounds.jsonl that are no rounds.", labels=["run"]
    )
    for folder, counts in runs.items():
        run = folder.name
        for outcome, count in sorted(counts.outcomes.items()):
            rounds.add_metric([run, outcome], count)
        seconds.add_metric([run], counts.outcomes.total(), counts.wall_s)
        traffic.add_metric([run, "up"], counts.uplink_bytes)
        traffic.add_metric([run, "down"], counts.downlink_bytes)
        for reason, count in sorted(counts.rejections.items()):
            rejections.add_metric([run, reason], count)
        lost.add_metric([run], counts.lost)
        unreadable.add_metric([run], counts.unreadable)
    yield from (rounds, seconds, traffic, rejections, lost, unreadable)


def _of_status(runs: dict[str, Status]) -> Iterator[Metric]:
    number = GaugeMetricFamily("convoy_round", "The round that goes on.", labels=["run"])
    states = GaugeMetricFamily(
        "convoy_run_state", "1 for the state that a run is in.", labels=["run", "state"]
    )
    vehicles = GaugeMetricFamily(
        "convoy_vehicles", "Vehicles of a run, by state.", labels=["run", "state"]
    )
    missing = GaugeMetricFamily(
        "convoy_waiting_for_vehicles", "Vehicles that are waited for.", labels=["run", "phase"]
    )
    last = GaugeMetricFamily(
        "convoy_last_round_phase_seconds", "Of the round that ended last.", labels=["run", "phase"]
    )
    total = CounterMetricFamily(
        "convoy_round_phase_seconds", "Time spent in a phase of rounds.", labels=["run", "phase"]
    )
    for run, status in runs.items():
        number.add_metric([run], status.round)
        states.add_metric([run, status.state], 1)
        for state in (
            "connected",
            "introduced",
            "asked",
            "answered",
            "accepted",
            "refused",
            "lost",
        ):
            vehicles.add_metric([run, state], getattr(status.vehicles, state))
        if status.phase:
            missing.add_metric([run, status.phase], status.waiting.missing_count)
        for phase, seconds in status.last_round.phase_s.items() if status.last_round else ():
            last.add_metric([run, phase], seconds)
        for phase, seconds in status.phase_s_total.items():
            total.add_metric([run, phase], seconds)
    yield from (number, states, vehicles, missing, last, total)


def _of_health(health: ServiceHealth) -> Iterator[Metric]:
    up = GaugeMetricFamily("convoy_process_up", "1 while it runs.", labels=["process"])
    restarts = CounterMetricFamily(
        "convoy_process_restarts", "Times it had to be started again.", labels=["process"]
    )
    memory = GaugeMetricFamily(
        "convoy_process_resident_memory_bytes", "Its memory.", labels=["process"]
    )
    for one in health.processes:
        up.add_metric([one.name], one.running)
        restarts.add_metric([one.name], one.restarts)
        memory.add_metric([one.name], one.rss_bytes)
    yield from (up, restarts, memory)


def _statuses(folders: Iterable[Path]) -> dict[str, Status]:
    found = {}
    for folder in folders:
        try:
            status = read_status(folder)
        except ConvoyError as error:
            logger.warning("%s", error)
            continue
        if status is not None:
            found[folder.name] = status
    return found


def _free(folder: Path) -> int:
    there = next(one for one in (folder, *folder.parents) if one.exists())
    return shutil.disk_usage(there).free


def _is_so(subject: str, well: bool, otherwise: str) -> Finding:
    return ok(subject, "well") if well else problem(subject, otherwise)


def _text(start_response: "StartResponse", status: str, text: str) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [text.encode() + b"\n"]


class _Threading(ThreadingMixIn, WSGIServer):
    """A slow reader does not hold up the others."""

    daemon_threads = True


class _Silent(WSGIRequestHandler):
    """A scrape every few seconds is no news."""

    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as its base
        """Not at all."""
