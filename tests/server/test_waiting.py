"""A run says what it waits for, and waits for nothing for ever."""

import logging

import pytest
from fleet_double import fleet_grid, small_run
from small_federation import protect, run_small_federation
from small_federation import small_run as small_driving_run

from convoy_compression.update.codec import UpdateConfig
from convoy_server.app import run_federation
from convoy_server.errors import NoVehiclesError, TooManyAbandonedRoundsError
from convoy_server.observer import SilentObserver, Wait, wait_line
from convoy_server.observer_group import ObserverGroup


class Listener(SilentObserver):
    """Notes what is waited for, and who answered."""

    def __init__(self):
        self.waits: list[Wait] = []
        self.heard: list[tuple[str, ...]] = []
        self.seen: list[int] = []

    def waiting(self, wait):
        self.waits.append(wait)
        self.heard.append(())

    def connected(self, vehicles):
        self.seen.append(vehicles)

    def answered(self, vehicle):
        self.heard[-1] = (*self.heard[-1], vehicle)


def phases(listener):
    return [(wait.round, wait.phase) for wait in listener.waits]


class Leaving(SilentObserver):
    """A grid whose vehicles are off the network for a while after the first round."""

    streams_replies = True

    def __init__(self, grid, looks):
        self._grid = grid
        self._looks = looks
        self._left = 0

    def round_finished(self, record):
        if record.round == 1:
            self._left = self._looks

    def get_node_ids(self):
        if self._left:
            self._left -= 1
            return []
        return self._grid.get_node_ids()

    def __getattr__(self, name):
        return getattr(self._grid, name)


def test_every_phase_of_a_round_says_whom_it_waits_for_and_how_long(tmp_path):
    listener = Listener()
    with fleet_grid({"car1": "vanish"}, 4) as grid:
        run = small_run(rounds=2, deadline_s=50.0, quorum=2, join_deadline_s=7.0)
        run_federation(grid, run, tmp_path, resume=False, observer=ObserverGroup([listener]))
    assert phases(listener) == [
        (1, "invite"),  # before the run
        *((1, phase) for phase in ("invite", "train", "aggregate", "evaluate")),
        *((2, phase) for phase in ("invite", "train", "aggregate", "evaluate")),
    ]
    train = listener.waits[2]
    cars = {f"car{index}" for index in range(4)}
    assert (train.wanted, train.quorum, train.deadline_s) == (4, 2, 50.0)
    assert set(train.vehicles) == cars
    assert set(listener.heard[2]) == cars - {"car1"}
    assert listener.waits[1].deadline_s == 7.0
    assert listener.waits[3] == Wait(round=1, phase="aggregate")
    assert set(listener.heard[4]) == cars
    assert listener.seen == [4, 4, 4]


@pytest.mark.slow
def test_the_exchanges_of_a_secure_sum_are_phases(small_fleet, tmp_path, monkeypatch):
    listener = Listener()
    update = UpdateConfig(minimum_cohort=2, downlink="full")
    run = small_driving_run(update=update, rounds=1)
    monkeypatch.setattr("convoy_server.app.SilentObserver", lambda: listener)
    run_small_federation(small_fleet, run, tmp_path, nodes=protect(small_fleet, update))
    told = [phase for _, phase in phases(listener)]
    exchanges = ["check_in", "share", "upload", "unmask"]
    start = told.index("check_in")
    assert told[start - 1] == "train"
    assert told[start : start + 4] == exchanges
    assert told[-2:] == ["aggregate", "evaluate"]
    for wait, heard in zip(listener.waits, listener.heard, strict=True):
        if wait.phase in exchanges:
            assert set(heard) == set(wait.vehicles)
            assert wait.deadline_s == update.exchange_deadline_s


def test_a_run_says_how_many_vehicles_are_there_while_it_waits(tmp_path, caplog):
    caplog.set_level(logging.INFO, "convoy_server.strategy")
    with fleet_grid(vehicles=2) as grid, pytest.raises(NoVehiclesError, match="2 of 3"):
        run = small_run(min_vehicles=3, join_deadline_s=0.05)
        run_federation(grid, run, tmp_path, resume=False)
    lines = [record.getMessage() for record in caplog.records]
    assert "round 1, invite: waits for 3 vehicles, at most 0.05 s" in lines
    assert "round 1: 2 of 3 vehicles are connected" in lines


def test_a_fleet_that_comes_back_in_time_loses_no_round(tmp_path):
    with fleet_grid(vehicles=3) as grid:
        leaving, listener = Leaving(grid, looks=3), Listener()
        run = small_run(rounds=2, min_vehicles=3, join_deadline_s=60.0)
        watching = ObserverGroup([leaving, listener])
        result = run_federation(leaving, run, tmp_path, resume=False, observer=watching)
    assert [record.outcome for record in result.records] == ["done", "done"]
    assert listener.seen == [3, 3, 0, 3]


def test_a_fleet_that_stays_away_ends_the_run_and_is_not_waited_for_for_ever(tmp_path):
    with fleet_grid(vehicles=3) as grid:
        leaving = Leaving(grid, looks=10**9)
        run = small_run(rounds=9, min_vehicles=2, join_deadline_s=0.01, max_abandoned_in_a_row=2)
        with pytest.raises(TooManyAbandonedRoundsError, match="2 rounds in a row were abandoned"):
            run_federation(leaving, run, tmp_path, resume=False, observer=leaving)


@pytest.mark.parametrize(
    ("wait", "line"),
    [
        (
            Wait(
                round=3,
                phase="train",
                wanted=2,
                quorum=1,
                deadline_s=120.0,
                vehicles=("a", "b", "c"),
            ),
            "round 3, train: waits for 2 of 3 vehicles (quorum 1), at most 120 s",
        ),
        (
            Wait(round=1, phase="invite", wanted=5, deadline_s=0.5),
            "round 1, invite: waits for 5 vehicles, at most 0.5 s",
        ),
        (Wait(round=4, phase="aggregate"), "round 4, aggregate"),  # the server itself is at work
    ],
)
def test_a_wait_is_one_line(wait, line):
    assert wait_line(wait) == line
