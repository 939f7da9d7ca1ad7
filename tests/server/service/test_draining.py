"""A run that is asked to stop ends between two rounds, at a real run of a small fleet."""

import signal

import pytest
from fleet_double import fleet_grid, small_run
from small_rounds import line

from convoy_server.app import run_federation
from convoy_server.errors import RunInterruptedError
from convoy_server.observer import SilentObserver, Wait
from convoy_server.observer_group import ObserverGroup
from convoy_server.round_log import from_line
from convoy_server.service.draining import Draining


class Operator(SilentObserver):
    """Asks when a round is in some phase."""

    def __init__(self, draining, phase, times=1):
        self._draining = draining
        self._phase = phase
        self._times = times

    def waiting(self, wait):
        if (wait.round, wait.phase) == (2, self._phase):
            for _ in range(self._times):
                self._draining.ask()


@pytest.mark.parametrize(
    ("phase", "times", "finished"),
    [("train", 1, 2), ("evaluate", 1, 2), ("invite", 1, 1), ("train", 2, 1)],
    ids=["while it trains", "while it evaluates", "before it begins", "asked twice"],
)
def test_the_round_under_way_ends_and_no_other_begins(tmp_path, phase, times, finished):
    draining = Draining()
    # In this order: the operator asks when the round is known to be under way.
    observer = ObserverGroup([draining, Operator(draining, phase, times)])
    out = tmp_path / "night"
    with fleet_grid({}, 3) as grid, pytest.raises(RunInterruptedError) as interrupted:
        run_federation(grid, small_run(rounds=4), out, resume=False, observer=observer)
    assert interrupted.value.last_round == finished
    assert len((out / "rounds.jsonl").read_text().splitlines()) == finished


def test_nobody_asks_and_nothing_ends(monkeypatch):
    raised = []
    monkeypatch.setattr(signal, "raise_signal", raised.append)
    draining = Draining()
    draining.waiting(Wait(round=1, phase="train"))
    draining.round_finished(from_line(line(1)))
    assert raised == []
