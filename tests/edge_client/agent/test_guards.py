"""The guards: what stops work, in which order, and what is said about it."""

from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_edge_client.agent.agent_config import GuardConfig, WorkConfig
from convoy_edge_client.agent.guards import Readings, Signals, Situation, is_hot, judge

NOON = Situation(local_time=datetime.fromisoformat("2026-11-24T12:00:00+01:00"))
FINE = Readings(
    signals=Signals(driving=False, ignition=False, battery_percent=80, network="wifi"),
    temperature_c=50,
    free_memory_mb=4000,
    free_disk_mb=4000,
    network="wifi",
    load=0.1,
    gpu_load=0.1,
)
STRICT = GuardConfig(
    minimum_battery_percent=50,
    require_ignition_off=True,
    maximum_temperature_c=85,
    networks=("ethernet", "wifi"),
    maximum_load=0.5,
    maximum_gpu_load=0.5,
    signals_command=("signals",),
)


def test_a_machine_in_the_asked_state_may_work():
    verdict = judge(FINE, STRICT, WorkConfig(windows=("11:00-13:00",)), NOON)
    assert (verdict.may_work, verdict.reason, verdict.retry_after_s) == (True, "", 0)


def test_nothing_need_be_known_where_nothing_is_asked():
    guards = GuardConfig(minimum_free_memory_mb=0, minimum_free_disk_mb=0)
    assert judge(Readings(), guards, WorkConfig(), NOON).may_work


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"signals": Signals(driving=True, ignition=False, battery_percent=80)}, "driving needs"),
        ({"signals": Signals(ignition=True, battery_percent=80)}, "the ignition is on"),
        (
            {"signals": None, "signals_error": "took longer than 0.4 s"},
            "signals_command took longer than 0.4 s",
        ),
        ({"temperature_c": 85.1}, "too hot: 85 C, goes on below 80 C"),
        ({"load": 0.51}, "other programs use 51% of the processor, at most 50% allowed"),
        ({"gpu_load": 0.6}, "other programs use 60% of the graphics unit"),
        (
            {"signals": Signals(ignition=False, battery_percent=49)},
            "battery at 49 %, at least 50 %",
        ),
        ({"free_memory_mb": 299.0}, "299 MB of memory free, at least 300 MB needed"),
        ({"free_disk_mb": 499.0}, "499 MB of disk free, at least 500 MB needed"),
        (
            {"signals": Signals(ignition=False, battery_percent=80, network="cellular")},
            "on cellular, ethernet or wifi needed",
        ),
    ],
)
def test_what_is_not_as_asked_stops_work_with_its_reason(change, reason):
    verdict = judge(replace(FINE, **change), STRICT, WorkConfig(), NOON)

    assert not verdict.may_work
    assert reason in verdict.reason
    assert 0 < verdict.retry_after_s <= 60


SILENT = Signals(ignition=False, battery_percent=80)


@pytest.mark.parametrize(
    ("change", "reason", "way_out"),
    [
        ({"signals": Signals(battery_percent=80)}, "ignition unknown", 'must print "ignition"'),
        ({"temperature_c": None}, "temperature unknown", "maximum_temperature_c = 0"),
        ({"load": None}, "processor load unknown", "psutil"),
        ({"gpu_load": None}, "graphics unit unknown", "maximum_gpu_load = 0"),
        ({"signals": Signals(ignition=False)}, "battery unknown", '"battery_percent"'),
        ({"free_memory_mb": None}, "free memory unknown", "psutil"),
        ({"free_disk_mb": None}, "free disk unknown", "psutil"),
        ({"network": None, "signals": SILENT}, "network unknown", '"network"'),
    ],
)
def test_what_is_asked_and_unknown_stops_work_and_says_how_to_provide_it(change, reason, way_out):
    verdict = judge(replace(FINE, **change), STRICT, WorkConfig(), NOON)

    assert not verdict.may_work
    assert reason in verdict.reason
    assert way_out in verdict.reason


def test_driving_stops_work_whatever_else_is_asked():
    driving = Readings(signals=Signals(driving=True), free_memory_mb=4000, free_disk_mb=4000)
    assert judge(driving, GuardConfig(), WorkConfig(), NOON).reason == "driving needs the machine"


def test_the_most_urgent_reason_is_given():
    all_wrong = Readings(signals=Signals(driving=True, ignition=True), temperature_c=99)
    assert judge(all_wrong, STRICT, WorkConfig(), NOON).reason == "driving needs the machine"


def test_what_the_plug_in_says_goes_before_what_the_machine_says():
    """A vehicle's battery is not its computer's, and its modem may look like ethernet."""
    told = replace(FINE, battery_percent=100.0, network="ethernet")
    low = replace(told, signals=Signals(ignition=False, battery_percent=10, network="cellular"))
    assert judge(told, STRICT, WorkConfig(), NOON).may_work
    assert "battery at 10 %" in judge(low, STRICT, WorkConfig(), NOON).reason

    own = replace(FINE, signals=Signals(ignition=False), battery_percent=60.0, network="ethernet")
    assert judge(own, STRICT, WorkConfig(), NOON).may_work


def test_the_load_of_the_graphics_unit_counts_before_work_only():
    busy = replace(FINE, gpu_load=1.0)
    assert not judge(busy, STRICT, WorkConfig(), NOON).may_work
    assert judge(busy, STRICT, WorkConfig(), replace(NOON, working=True)).may_work


def test_outside_of_its_hours_a_vehicle_says_when_to_come_back():
    verdict = judge(FINE, STRICT, WorkConfig(windows=("22:00-06:00",)), NOON)
    assert verdict.reason == "outside of the hours for work (22:00-06:00)"
    assert verdict.retry_after_s == 10 * 3600


def test_a_month_that_is_used_up_ends_with_the_next():
    used_up = replace(NOON, used_megabytes=500.0)
    verdict = judge(FINE, STRICT, WorkConfig(monthly_megabytes=500), used_up)
    assert verdict.reason == "this month's 500 MB on the network are used up"
    assert verdict.retry_after_s == (6 * 24 + 12) * 3600  # 24 November, noon
    assert judge(
        FINE, STRICT, WorkConfig(monthly_megabytes=500), replace(used_up, used_megabytes=499.9)
    ).may_work
    assert judge(FINE, STRICT, WorkConfig(), used_up).may_work  # 0: no limit


@pytest.mark.parametrize(
    ("temperature_c", "was_hot", "hot"),
    [
        (85, False, False),  # the limit itself is allowed
        (85.1, False, True),
        (84, True, True),  # on the way down
        (80, True, True),
        (79.9, True, False),
        (82, False, False),  # on the way up
        (None, True, True),  # a sensor that falls silent has not cooled anything
        (None, False, False),
    ],
)
def test_work_waits_until_it_is_really_cool_again(temperature_c, was_hot, hot):
    assert is_hot(temperature_c, STRICT, was_hot=was_hot) is hot
    assert not is_hot(200, GuardConfig(), was_hot=was_hot)


@given(st.lists(st.floats(60, 100), min_size=1, max_size=30))
def test_between_the_two_limits_nothing_changes(temperatures):
    situation = NOON
    for temperature_c in temperatures:
        before = situation.was_hot
        reading = replace(FINE, temperature_c=temperature_c)
        verdict = judge(reading, STRICT, WorkConfig(), situation)
        if 80 <= temperature_c <= 85:
            assert verdict.hot is before
        else:
            assert verdict.hot is (temperature_c > 85)
        assert verdict.may_work is not verdict.hot
        situation = replace(situation, was_hot=verdict.hot)
