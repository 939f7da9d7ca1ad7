"""Runs that wait for their turn, and what a crash may do to them."""

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from small_server import small_server

from convoy_protos.errors import JobFailedError, SuperLinkError, UsageError
from convoy_protos.flower_internals import RunOutcome
from convoy_server.service import executor, run_orders
from convoy_server.service.executor import Executor
from convoy_server.service.run_queue import (
    FORGOTTEN_AFTER,
    dequeue,
    enqueue,
    is_forgotten,
    queued_runs,
    submitted,
    waiting_as,
)
from convoy_server.service.status_file import end_status, read_status

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BUNDLE = b"settings"


def outcome(status="pending", end="", bundle=BUNDLE):
    sha256 = hashlib.sha256(bundle).hexdigest()
    return RunOutcome(bundle_sha256=sha256, status=status, end=end, details="")


@pytest.fixture
def config(tmp_path):
    return small_server(tmp_path)


@pytest.fixture
def scenario(tmp_path):
    file = tmp_path / "night.toml"
    file.write_text("[round]\nrounds = 1\n")
    return file


def names(config):
    return [folder.name for folder, _ in queued_runs(config.runs_folder)]


def test_a_run_waits_until_its_serverapp_says_otherwise(config):
    for name in ("b", "a"):
        enqueue(config.runs_folder / name, BUNDLE, lambda: NOW)
    assert names(config) == ["a", "b"]
    assert submitted(config.runs_folder / "a") == BUNDLE
    end_status(config.runs_folder / "a", "failed")
    dequeue(config.runs_folder / "b")
    assert names(config) == []
    assert not (config.runs_folder / "b").exists()


def test_a_name_is_taken_once(config):
    enqueue(config.runs_folder / "a", BUNDLE)
    with pytest.raises(UsageError, match="choose another with --name"):
        enqueue(config.runs_folder / "a", BUNDLE)


@pytest.mark.parametrize(
    ("outcomes", "forgotten"),
    [
        ({}, True),
        ({1: outcome()}, False),
        ({1: outcome("running")}, False),
        ({1: outcome("finished", "failed")}, True),
        ({1: outcome("finished", "failed"), 2: outcome()}, False),
        ({1: outcome(bundle=b"another")}, True),
    ],
)
def test_a_run_is_forgotten_when_nobody_will_take_it_on(config, outcomes, forgotten):
    enqueue(config.runs_folder / "a", BUNDLE, lambda: NOW)
    status = read_status(config.runs_folder / "a")
    assert is_forgotten(status, BUNDLE, outcomes, NOW + 2 * FORGOTTEN_AFTER) is forgotten
    assert not is_forgotten(status, BUNDLE, outcomes, NOW + timedelta(seconds=1))


def test_an_executor_with_nothing_to_do_submits_what_was_forgotten(config, monkeypatch):
    enqueue(config.runs_folder / "old", BUNDLE, lambda: NOW)
    enqueue(config.runs_folder / "new", b"another", lambda: datetime.now(UTC))
    again = []
    monkeypatch.setattr(executor, "take_task", lambda _: None)
    monkeypatch.setattr(executor, "run_outcomes", lambda _: {})
    monkeypatch.setattr(executor, "start_run", lambda _, bundle: again.append(bundle) or 9)
    assert not Executor(config, config.runs_folder, None)._step()
    assert again == [BUNDLE]


def test_what_cannot_be_submitted_leaves_nothing(config, scenario):
    with pytest.raises(SuperLinkError):
        run_orders.submit(config, scenario, "night", NOW)
    assert not (config.runs_folder / "night").exists()


def test_without_room_on_the_disk_nothing_is_submitted(tmp_path, scenario, monkeypatch):
    config = small_server(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(JobFailedError, match="keep_free_mb"):
        run_orders.submit(config, scenario, "night", NOW)


def test_a_run_is_stopped_before_its_turn(config, scenario, monkeypatch):
    runs, stopped = {}, []
    monkeypatch.setattr(
        run_orders,
        "start_run",
        lambda _, bundle: runs.update({5: outcome(bundle=bundle), 6: outcome()}) or 5,
    )
    monkeypatch.setattr(run_orders, "run_outcomes", lambda _: runs)
    monkeypatch.setattr(run_orders, "stop_run", lambda _, run_id: stopped.append(run_id))
    run_orders.submit(config, scenario, "night", NOW)
    assert list(run_orders.runs(config)) == ["night  queued"]
    assert waiting_as(submitted(config.runs_folder / "night"), runs) == (5,)

    run_orders.stop(config, "night")
    assert stopped == [5]
    assert read_status(config.runs_folder / "night").state == "stopped"
    with pytest.raises(UsageError, match="does not run"):
        run_orders.stop(config, "night")
