"""The executor, in front of a real SuperLink and of one that is down; no vehicles."""

import io
import subprocess
import threading
import zipfile
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from small_device import wait_for
from small_doors import open_doors, server_in
from small_federation import small_run
from small_server import small_server

from convoy_protos.errors import SuperLinkError
from convoy_protos.flower_internals import (
    RunOutcome,
    ServerTask,
    keep_task,
    run_outcomes,
    start_run,
    take_task,
)
from convoy_protos.run_bundle import NAME_KEY, RUN_KEY, build_run_bundle
from convoy_server.run_config import run_config_to_json
from convoy_server.service import executor, run_orders
from convoy_server.service.child_processes import end_child, start_child
from convoy_server.service.executor import GIVEN_UP, MAX_FAULTS, Executor
from convoy_server.service.run_orders import RunOrder, newest_outcome, stop
from convoy_server.service.status_file import end_status, read_status
from convoy_server.service.task_file import INTERRUPTED, RunningTask, load_task, save_task

TASK = ServerTask(token="a token", run_id=7, task_id=8, node_id=1)


def bundle(name="night"):
    run = small_run(min_vehicles=2, join_deadline_s=600.0)
    return build_run_bundle({RUN_KEY: run_config_to_json(run), NAME_KEY: name})


def bundle_with_code():
    buffer = io.BytesIO(bundle())
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("convoy_server/app.py", "print('mine')")
    return buffer.getvalue()


@pytest.fixture
def idle(tmp_path):
    """An executor that does not run, its configuration, with a task in task.json."""
    config = small_server(tmp_path, made=datetime.now(UTC))
    config.state_folder.mkdir()
    save_task(config.state_folder, RunningTask(task=TASK, bundle=bundle()))
    return Executor(config, tmp_path / "server.toml", threading.Event()), config


def outcome(end="", status="finished", sha256="a", details=""):
    return RunOutcome(bundle_sha256=sha256, status=status, end=end, details=details)


def test_the_token_in_the_state_folder_is_the_users_alone(idle):
    _, config = idle
    assert (config.state_folder / "task.json").stat().st_mode & 0o777 == 0o600


def test_a_run_that_cannot_be_submitted_again_now_is_not_forgotten(idle, monkeypatch):
    runs, config = idle

    def down(*_):
        raise SuperLinkError("not up")

    monkeypatch.setattr(executor, "keep_task", lambda *_: False)
    monkeypatch.setattr(executor, "run_outcomes", lambda *_: {7: outcome("failed")})
    monkeypatch.setattr(executor, "start_run", down)
    with pytest.raises(SuperLinkError):
        runs._step()
    assert load_task(config.state_folder) == RunningTask(task=TASK, bundle=bundle())
    submitted = []
    monkeypatch.setattr(executor, "start_run", lambda _, content: submitted.append(content) or 9)
    runs._step()
    assert submitted == [bundle()]
    assert load_task(config.state_folder) is None


def test_a_run_that_was_stopped_is_not_submitted_again(idle, monkeypatch):
    runs, config = idle
    monkeypatch.setattr(executor, "keep_task", lambda *_: False)
    monkeypatch.setattr(executor, "run_outcomes", lambda *_: {7: outcome("stopped")})
    monkeypatch.setattr(executor, "start_run", lambda *_: pytest.fail("submitted again"))
    runs._step()
    assert load_task(config.state_folder) is None
    assert read_status(config.runs_folder / "night").state == "stopped"


@pytest.mark.parametrize(
    ("codes", "ends_with"),
    [
        ([1] * MAX_FAULTS, "the ServerApp ended with 1"),
        ([-9] * (2 * MAX_FAULTS) + [0], ""),
        ([INTERRUPTED] * (2 * MAX_FAULTS) + [0], ""),
        ([1] * (MAX_FAULTS - 1) + [0], ""),
        ([1, None], GIVEN_UP),
    ],
)
def test_a_serverapp_is_started_again_unless_the_fault_is_its_own(
    idle, monkeypatch, codes, ends_with
):
    """Killed or interrupted: for ever. With a fault, soon after its start: a few times."""
    runs, _ = idle
    left = list(codes)
    monkeypatch.setattr(executor, "start_child", lambda *_: None)
    monkeypatch.setattr(executor, "end_child", lambda *_: None)
    monkeypatch.setattr(runs, "_watch", lambda *_: left.pop(0))
    monkeypatch.setattr(runs._stop, "wait", lambda _: None)
    ended = runs._work(RunningTask(task=TASK, bundle=bundle()))
    assert left == []
    assert ended is not None
    assert ended.startswith(ends_with)
    assert bool(ended) == bool(ends_with)


class Draining:
    """A ServerApp that ends by itself after being looked at so often."""

    def __init__(self, looks):
        self.looks = looks
        self.asked = 0

    def terminate(self):
        self.asked += 1

    def wait(self, timeout):
        self.looks -= 1
        if self.looks >= 0:
            raise subprocess.TimeoutExpired("serverapp", timeout)
        return INTERRUPTED


@pytest.mark.parametrize(("drain_s", "code"), [(60.0, INTERRUPTED), (0.0, None)])
def test_asked_to_stop_a_round_gets_its_time_and_the_superlink_hears_of_us(
    idle, monkeypatch, drain_s, code
):
    runs, config = idle
    runs._config = replace(config, runs=replace(config.runs, drain_s=drain_s))
    kept = []
    monkeypatch.setattr(executor, "keep_task", lambda *_: kept.append(1) or True)
    monkeypatch.setattr(executor, "HEARTBEAT_S", 0.0)
    runs._stop.set()
    process = Draining(looks=5)
    assert runs._watch(process, RunningTask(task=TASK, bundle=bundle())) == code
    assert process.asked == 1
    assert len(kept) >= (5 if drain_s else 0)


def test_a_port_with_401_in_it_is_not_taken_for_a_refusal():
    with pytest.raises(SuperLinkError, match="not up"):
        keep_task("127.0.0.1:40103", TASK)


@pytest.mark.parametrize(
    ("others", "end"),
    [
        ({}, "failed"),
        ({2: outcome("", "running")}, ""),
        ({2: outcome("", "pending"), 3: outcome("failed")}, ""),
        ({2: outcome("completed")}, "completed"),
        ({2: outcome("", "running", sha256="of another run")}, "failed"),
    ],
)
def test_a_run_that_goes_on_as_another_is_not_over(others, end):
    assert newest_outcome({1: outcome("failed")} | others, 1).end == end
    assert newest_outcome(others, 1) is None


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A SuperLink that runs and how to start an executor for it."""
    config, file = server_in(tmp_path_factory.mktemp("service"))
    with open_doors(config, file):
        yield config, file


@pytest.fixture
def run_executor(service):
    processes = []

    def start():
        processes.append(start_child("executor", service[1]))
        return processes[-1]

    yield start
    for process in processes:
        end_child(process)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "says"),
    [(bundle_with_code(), "convoy_server/app.py"), (bundle("../outside"), "no name for a run")],
)
def test_what_is_no_run_is_refused_and_marked_failed(service, run_executor, content, says):
    config, _ = service
    private = f"127.0.0.1:{config.private_door.port}"
    run_id = start_run(private, content)
    run_executor()
    wait_for(lambda: run_outcomes(private)[run_id].status == "finished", 100, "it is refused")
    ended = run_outcomes(private)[run_id]
    assert ended.end == "failed"
    assert "refused" in ended.details
    assert says in ended.details
    assert load_task(config.state_folder) is None


@pytest.mark.slow
def test_a_run_goes_on_after_its_token_has_lapsed_until_it_is_stopped(service, run_executor):
    """Executor away, SuperLink no longer knows the token: submitted again, under the same name."""
    config, _ = service
    private = f"127.0.0.1:{config.private_door.port}"
    first = start_run(private, bundle())
    task, content = take_task(private)
    assert (task.run_id, content) == (first, bundle())
    save_task(
        config.state_folder,
        RunningTask(task=replace(task, token="a token that is not valid"), bundle=content),
    )
    run_executor()

    def other():
        running = load_task(config.state_folder)
        return running is not None and running.task.run_id != first

    wait_for(other, 100, "it goes on as another run")
    second = load_task(config.state_folder).task.run_id
    assert run_outcomes(private)[second].bundle_sha256 == run_outcomes(private)[first].bundle_sha256
    out = config.runs_folder / "night"
    wait_for(lambda: read_status(out) is not None, 100, "its ServerApp waits for vehicles")
    stop(config, "night")
    wait_for(lambda: load_task(config.state_folder) is None, 100, "it is stopped")
    assert read_status(out).state == "stopped"
    assert run_outcomes(private)[second].end == "stopped"
    assert [one.status for one in run_outcomes(private).values()].count("pending") == 0


def test_whoever_follows_a_run_is_told_once_that_the_superlink_is_down(idle, monkeypatch):
    _, config = idle
    out = config.runs_folder / "night"
    answers = [SuperLinkError("not up")] * 3 + [{}] + [SuperLinkError("not up")] * 2 + [{}]

    def ask(_):
        answer = answers.pop(0)
        if not answers:
            end_status(out, "finished")
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(run_orders, "run_outcomes", ask)
    monkeypatch.setattr(run_orders, "POLL_S", 0.0)
    said = []
    run_orders.follow(config, RunOrder(name="night", run_id=7, out=out, left_out=()), said.append)
    assert [line.split(";")[0] for line in said] == ["not up", "not up", f"night: done, {out}"]
