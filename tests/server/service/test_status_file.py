"""status.json shows one moment of a run: what it does and what it waits for."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from convoy_protos.errors import SettingsError
from convoy_server.errors import StorageError
from convoy_server.observer import Wait
from convoy_server.round_log import RoundRecord
from convoy_server.run_config import RunConfig
from convoy_server.service.status_file import (
    MAX_NAMES,
    STATUS_FILE,
    LastRound,
    Status,
    StatusFile,
    Waiting,
    end_status,
    read_status,
    status_line,
    write_status,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Times:
    """A clock that a test moves."""

    def __init__(self):
        self.s = 0.0

    def __call__(self):
        return self.s

    def utc(self):
        return NOON + timedelta(seconds=self.s)


@pytest.fixture
def times():
    return Times()


@pytest.fixture
def run_dir(tmp_path):
    return tmp_path / "r-7"


@pytest.fixture
def status(run_dir, times):
    return StatusFile(run_dir, now=times.utc, now_s=times)


def record(number, outcome="done", lost=0):
    return RoundRecord(
        round=number,
        outcome=outcome,
        invited=3,
        completed=3 - lost,
        lost=lost,
        surplus=0,
        rejected={},
        uplink_bytes=1,
        downlink_bytes=1,
        wall_s=9.5,
    )


def wait_for_three(**changes):
    settings = {"round": 1, "phase": "train", "wanted": 2, "quorum": 2, "deadline_s": 60.0}
    return Wait(**settings | {"vehicles": ("a", "b", "c")} | changes)


def test_before_the_first_round_it_says_how_many_vehicles_are_there(status, run_dir):
    status.waiting(Wait(round=1, phase="invite", wanted=5, deadline_s=30.0))
    status.connected(2)
    seen = read_status(run_dir)
    assert (seen.run, seen.state, seen.phase) == ("r-7", "waiting", "invite")
    assert seen.waiting == Waiting(wanted=5, answered=2, until="2026-03-01T12:00:30.000+00:00")
    assert seen.vehicles.connected == 2


def test_it_names_whom_it_waits_for_and_until_when(status, run_dir, times):
    status.run_started(RunConfig(name="day"), {"a": 1, "b": 1, "c": 1}, 1)
    status.round_started(1, 3)
    times.s = 10.0
    status.waiting(wait_for_three())
    status.answered("b")
    status.update_arrived(1, "b", accepted=False, reason="not_finite")
    seen = read_status(run_dir)
    assert (seen.run, seen.state, seen.round, seen.rounds) == ("day", "running", 1, 10)
    assert seen.waiting == Waiting(
        wanted=2,
        answered=1,
        quorum=2,
        until="2026-03-01T12:01:10.000+00:00",
        missing=("a", "c"),
        missing_count=2,
    )
    counts = seen.vehicles
    assert (counts.introduced, counts.asked, counts.answered) == (3, 3, 1)
    assert (counts.accepted, counts.refused) == (0, 1)
    assert status_line(seen) == (
        "day: round 1 of 10, train: 1 of 2 vehicles, quorum 2; not yet: a, c; "
        "until 2026-03-01T12:01:10.000+00:00"
    )


@pytest.mark.parametrize("stranger", ["unknown", "a"])  # nobody's, and a second answer
def test_only_awaited_answers_count(status, run_dir, stranger):
    status.waiting(wait_for_three())
    status.answered("a")
    status.answered(stranger)
    assert read_status(run_dir).vehicles.answered == 1


def test_a_round_leaves_its_seconds_by_phase(status, run_dir, times):
    for number in (1, 2):
        status.round_started(number, 3)
        status.waiting(wait_for_three(round=number))
        times.s += 4.0
        for _ in range(2):  # a sum that is made again takes each exchange twice
            status.waiting(wait_for_three(round=number, phase="share"))
            times.s += 1.5
        status.waiting(Wait(round=number, phase="aggregate"))
        times.s += 0.25
        status.round_finished(record(number, lost=1))
        times.s += 100.0  # between rounds no phase goes on
    seen = read_status(run_dir)
    phase_s = {"train": 4.0, "share": 3.0, "aggregate": 0.25}
    assert seen.last_round == LastRound(round=2, outcome="done", wall_s=9.5, phase_s=phase_s)
    assert seen.phase_s_total == {"train": 8.0, "share": 6.0, "aggregate": 0.5}
    assert (seen.phase, seen.waiting, seen.vehicles.lost) == ("", Waiting(), 1)


def test_a_large_fleet_is_counted_and_not_listed(status, run_dir):
    names = tuple(f"car{index:04}" for index in range(1000))
    status.waiting(wait_for_three(vehicles=names, wanted=1000))
    status.answered("car0000")
    seen = read_status(run_dir)
    assert seen.waiting.missing == names[1 : MAX_NAMES + 1]
    assert seen.waiting.missing_count == 999
    assert " and 949 more" in status_line(seen)
    assert (run_dir / STATUS_FILE).stat().st_size < 4000


def test_a_run_that_ended_says_how(status, run_dir, times):
    status.waiting(wait_for_three())
    end_status(run_dir, "failed", "nobody answered", now=times.utc)
    seen = read_status(run_dir)
    assert (seen.state, seen.phase, seen.waiting) == ("failed", "", Waiting())
    assert status_line(seen) == "r-7: failed: nobody answered"


def test_a_run_that_never_began_can_end_too(run_dir):
    end_status(run_dir, "stopped")
    assert read_status(run_dir).state == "stopped"


def test_where_nothing_was_written_there_is_no_status(run_dir):
    assert read_status(run_dir) is None


@pytest.mark.parametrize("text", ["", "[]", '{"run": 3}', '{"speed": 1}', "\x00"])
def test_what_is_no_status_is_refused_by_name(run_dir, text):
    run_dir.mkdir()
    (run_dir / STATUS_FILE).write_text(text)
    with pytest.raises(SettingsError, match=r"status\.json"):
        read_status(run_dir)


def test_a_disk_that_refuses_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"status\.json"):
        write_status(tmp_path / "file", Status(run="r"))


def test_it_is_replaced_as_a_whole(status, run_dir):
    status.waiting(wait_for_three())
    with (run_dir / STATUS_FILE).open() as before:
        status.answered("a")
        assert json.load(before)["vehicles"]["answered"] == 0
    assert [path.name for path in run_dir.iterdir()] == [STATUS_FILE]
