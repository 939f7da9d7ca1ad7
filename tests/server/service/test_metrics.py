"""The three pages that a monitoring system asks for."""

import dataclasses
import os
import socket
import urllib.error
import urllib.request
from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families
from small_rounds import line
from small_server import NOW, small_server

from convoy_protos.errors import JobFailedError
from convoy_protos.findings import problems
from convoy_server.observer import Wait
from convoy_server.round_log import from_line
from convoy_server.service.health_file import ProcessHealth, ServiceHealth
from convoy_server.service.metrics import KEPT_RUNS, latest_runs, readiness, start_metrics
from convoy_server.service.run_queue import enqueue
from convoy_server.service.status_file import StatusFile, end_status

WELL = ServiceHealth(
    processes=(ProcessHealth(name="superlink", running=True, restarts=2, rss_bytes=5000),),
    superlink_answers=True,
    executor_alive=True,
)


class Supervisor:
    """Says what a test wants it to say."""

    def __init__(self):
        self.health = WELL

    def __call__(self):
        return self.health


@pytest.fixture
def supervisor():
    return Supervisor()


@pytest.fixture
def config(tmp_path):
    return small_server(tmp_path)


@pytest.fixture
def server(config, supervisor):
    server = start_metrics(config, supervisor, port=0, now=lambda: NOW)
    yield server
    server.close()


def get(server, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}") as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(server):
    status, text = get(server, "/metrics")
    assert status == 200
    return {
        (sample.name, run_first(sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def run_first(labels):
    return tuple(labels[name] for name in sorted(labels, key=lambda name: (name != "run", name)))


def begin_run(config, name="night"):
    folder = config.runs_folder / name
    folder.mkdir(parents=True)
    times = iter(range(1000))
    status = StatusFile(folder, now=lambda: NOW, now_s=lambda: float(next(times)))
    return folder, status


def test_rounds_are_counted_from_the_run_directory_each_once(server, config):
    folder, _ = begin_run(config)
    (folder / "rounds.jsonl").write_text(line(1) + "\n")
    assert samples(server)["convoy_rounds_total", ("night", "done")] == 1
    with (folder / "rounds.jsonl").open("a") as file:
        file.write(line(2, "abandoned") + "\n")
    for _ in range(2):
        seen = samples(server)
        assert seen["convoy_rounds_total", ("night", "done")] == 1
        assert seen["convoy_rounds_total", ("night", "abandoned")] == 1
        assert seen["convoy_round_seconds_sum", ("night",)] == 4.0
        assert seen["convoy_round_seconds_count", ("night",)] == 2
        assert seen["convoy_bytes_total", ("night", "up")] == 200
        assert seen["convoy_bytes_total", ("night", "down")] == 20
        assert seen["convoy_rejections_total", ("night", "not_finite")] == 2
        assert seen["convoy_lost_vehicles_total", ("night",)] == 2


def test_what_goes_on_is_read_from_the_status(server, config):
    _, status = begin_run(config)
    status.waiting(Wait(round=3, phase="invite", wanted=3, deadline_s=5.0))
    status.connected(4)
    status.round_started(3, 3)
    status.waiting(Wait(round=3, phase="train", wanted=3, vehicles=("a", "b", "c")))
    status.answered("a")
    seen = samples(server)
    assert seen["convoy_round", ("night",)] == 3
    assert seen["convoy_run_state", ("night", "running")] == 1
    assert seen["convoy_vehicles", ("night", "connected")] == 4
    assert seen["convoy_vehicles", ("night", "answered")] == 1
    assert seen["convoy_waiting_for_vehicles", ("night", "train")] == 2
    status.round_finished(from_line(line(3)))
    seen = samples(server)
    assert seen["convoy_round_phase_seconds_total", ("night", "train")] > 0
    assert seen["convoy_last_round_phase_seconds", ("night", "train")] > 0
    assert ("convoy_waiting_for_vehicles", ("night", "train")) not in seen


def test_no_vehicle_is_named(server, config):
    folder, status = begin_run(config)
    status.waiting(Wait(round=1, phase="train", wanted=1, vehicles=("secret-car",)))
    (folder / "rounds.jsonl").write_text(line(1).replace("car1", "secret-car") + "\n")
    assert "secret-car" not in get(server, "/metrics")[1]


def test_processes_are_as_the_supervisor_says(server, supervisor):
    seen = samples(server)
    assert seen["convoy_process_up", ("superlink",)] == 1
    assert seen["convoy_process_restarts_total", ("superlink",)] == 2
    assert seen["convoy_process_resident_memory_bytes", ("superlink",)] == 5000
    assert seen["convoy_ready", ()] == 1
    supervisor.health = ServiceHealth()
    assert samples(server)["convoy_ready", ()] == 0


def test_runs_that_wait_for_their_turn_are_counted(server, config, caplog):
    assert samples(server)["convoy_queued_runs", ()] == 0
    for name in ("monday", "tuesday", "broken"):
        enqueue(config.runs_folder / name, b"settings")
    end_status(config.runs_folder / "monday", "stopped")
    (config.runs_folder / "broken" / "status.json").write_text("{")
    assert samples(server)["convoy_queued_runs", ()] == 1
    assert "broken/status.json" in caplog.text


def test_ready_says_what_is_missing(server, supervisor):
    assert get(server, "/readyz") == (200, "ready\n")
    supervisor.health = dataclasses.replace(WELL, executor_alive=False, draining=True)
    status, text = get(server, "/readyz")
    assert status == 503
    assert [line.split(":")[0] for line in text.splitlines()] == ["executor", "service"]


@pytest.mark.parametrize(
    ("health", "days", "keep_free_mb", "subjects"),
    [
        (WELL, 0, 1, []),
        (dataclasses.replace(WELL, superlink_answers=False), 0, 1, ["superlink"]),
        (WELL, 0, 10**9, ["disk of runs", "disk"]),
        (WELL, 400, 1, ["certificate", "aggregator"]),  # both expired
    ],
)
def test_ready_means_all_that_vehicles_and_operators_need(
    config, health, days, keep_free_mb, subjects
):
    runs = dataclasses.replace(config.runs, keep_free_mb=keep_free_mb)
    config = dataclasses.replace(config, runs=runs)
    found = problems(readiness(config, health, NOW + timedelta(days=days)))
    assert [one.subject for one in found] == subjects


def test_healthy_means_that_it_answers_whatever_else(server, supervisor):
    supervisor.health = ServiceHealth()
    assert get(server, "/healthz") == (200, "ok\n")
    assert get(server, "/secrets")[0] == 404


def test_a_broken_line_or_status_hides_nothing_else(server, config):
    folder, _ = begin_run(config)
    (folder / "rounds.jsonl").write_text("{}\n" + line(1) + "\n")
    (folder / "status.json").write_text("{")
    seen = samples(server)
    assert seen["convoy_unreadable_lines_total", ("night",)] == 1
    assert seen["convoy_rounds_total", ("night", "done")] == 1


def test_only_the_latest_runs_are_shown(config):
    for number in range(KEPT_RUNS + 3):
        folder, _ = begin_run(config, f"run{number:02}")
        (folder / "rounds.jsonl").write_text("")
        os.utime(folder / "rounds.jsonl", ns=(number, number))
    shown = latest_runs(config.runs_folder, KEPT_RUNS)
    assert next(folder.name for folder in shown) == f"run{KEPT_RUNS + 2}"
    assert len(shown) == KEPT_RUNS


def test_a_port_that_is_taken_is_named(config, supervisor):
    with (
        socket.create_server(("127.0.0.1", config.metrics.port)),
        pytest.raises(JobFailedError, match=rf"\[metrics\] 127.0.0.1:{config.metrics.port}"),
    ):
        start_metrics(config, supervisor)
