"""The guard remembers what it must; its watch wakes whoever waits."""

import threading
from datetime import UTC, datetime

import pytest

from convoy_edge_client.agent.agent_config import AgentConfig, GuardConfig
from convoy_edge_client.agent.guards import Readings, Signals
from convoy_edge_client.agent.watch import Guard, GuardWatch
from convoy_edge_client.vehicle_config import VehicleConfig

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
CONFIG = AgentConfig(
    state="state",
    vehicle=VehicleConfig(vehicle_id="a", recordings=("r",), cache_dir="c"),
    guards=GuardConfig(
        maximum_temperature_c=85,
        maximum_gpu_load=0.5,
        minimum_free_memory_mb=0,
        minimum_free_disk_mb=0,
        check_every_s=0.05,
    ),
)


class Machine:
    """What the test says that is measured."""

    def __init__(self):
        self.readings = self.calm()
        self.failure = None
        self.looked = threading.Semaphore(0)

    def calm(self, **changes):
        return Readings(**({"temperature_c": 50.0, "gpu_load": 0.0} | changes))

    def drives(self):
        self.readings = self.calm(signals=Signals(driving=True))

    def read(self):
        self.looked.release()
        if self.failure:
            raise self.failure
        return self.readings

    def guard(self):
        return Guard(CONFIG, self.read, used_megabytes=lambda: 0.0, local_time=lambda: NOW)


@pytest.fixture
def machine():
    return Machine()


def test_a_guard_remembers_that_it_was_hot(machine):
    guard = machine.guard()
    verdicts = []
    for temperature_c in (50, 86, 82, 79, 82):
        machine.readings = machine.calm(temperature_c=float(temperature_c))
        verdicts.append(guard.verdict().may_work)
    assert verdicts == [True, False, False, True, True]


def test_a_guard_knows_whether_the_graphics_unit_is_at_its_own_work(machine):
    machine.readings = machine.calm(gpu_load=1.0)
    assert machine.guard().verdict(working=True).may_work
    assert not machine.guard().verdict().may_work


def test_a_watch_has_looked_before_work_begins(machine):
    machine.drives()
    with GuardWatch(machine.guard(), 60.0) as watch:
        assert watch.verdict.reason == "driving needs the machine"


def test_a_watch_sees_what_changes(machine):
    with GuardWatch(machine.guard(), 0.01) as watch:
        assert watch.verdict.may_work
        machine.drives()
        for _ in range(3):  # the look under way, and two that saw it
            assert machine.looked.acquire(timeout=60)
        while watch.verdict.may_work:
            assert machine.looked.acquire(timeout=60)


def test_who_waits_is_woken_when_it_is_over(machine):
    machine.drives()
    with GuardWatch(machine.guard(), 0.01) as watch:
        machine.readings = machine.calm()
        assert watch.wait_until_clear(60).may_work


def test_waiting_ends_with_its_time(machine):
    machine.drives()
    with GuardWatch(machine.guard(), 0.01) as watch:
        assert watch.wait_until_clear(0).reason == "driving needs the machine"


def test_work_goes_on_after_waiting_only_if_the_graphics_unit_is_free(machine):
    """While training waits, what the unit does is somebody else's."""
    machine.drives()
    with GuardWatch(machine.guard(), 0.01) as watch:
        machine.readings = machine.calm(gpu_load=1.0)
        done = threading.Event()

        def calm_down():
            for _ in range(5):
                machine.looked.acquire(timeout=60)
            machine.readings = machine.calm()
            done.set()

        thread = threading.Thread(target=calm_down)
        thread.start()
        assert watch.wait_until_clear(60).may_work
        thread.join(60)
        assert done.is_set()


@pytest.mark.parametrize(
    "ask", [lambda watch: watch.wait_until_clear(60), lambda watch: watch.verdict]
)
def test_a_look_that_fails_reaches_whoever_works(machine, ask):
    machine.drives()
    with GuardWatch(machine.guard(), 0.01) as watch:
        machine.failure = RuntimeError("no /proc")
        with pytest.raises(RuntimeError, match="no /proc"):
            watch.wait_until_clear(60)
        with pytest.raises(RuntimeError, match="no /proc"):
            ask(watch)


def test_a_watch_ends_its_thread(machine):
    before = threading.active_count()
    with GuardWatch(machine.guard(), 0.01):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
