"""What is measured, from a /sys of the test's own."""

import sys

import pytest

from convoy_edge_client.agent.agent_config import AgentConfig, GuardConfig
from convoy_edge_client.agent.guards import Signals
from convoy_edge_client.agent.probes import (
    CpuTimes,
    Probes,
    battery_percent,
    default_interface,
    free_disk_mb,
    hottest_c,
    interface_kind,
    load_of_others,
    network_kind,
)
from convoy_edge_client.vehicle_config import VehicleConfig

ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wwan0\t00000000\t0101A8C0\t0003\t0\t0\t700\t00000000\t0\t0\t0
wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t0000A8C0\t00000000\t0001\t0\t0\t100\t0000FFFF\t0\t0\t0
"""


@pytest.fixture
def put(tmp_path):
    """Write a file of the test's /sys."""

    def write(name, text):
        path = tmp_path / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    (tmp_path / "sys").mkdir()
    return write


def test_the_hottest_sensor_that_works_counts(put, tmp_path):
    put("class/thermal/thermal_zone0/temp", "51500")
    put("class/thermal/thermal_zone1/temp", "48000")
    put("class/thermal/thermal_zone2/temp", "-256000")
    put("class/thermal/thermal_zone3/type", "unreadable")
    put("class/thermal/thermal_zone4/type", "PMIC-Die")
    put("class/thermal/thermal_zone4/temp", "100000")

    assert hottest_c(tmp_path / "sys") == 51.5
    assert hottest_c(tmp_path / "sys", 60.0) == 60.0
    assert hottest_c(tmp_path / "nowhere") is None
    assert hottest_c(tmp_path / "nowhere", 60.0) == 60.0


def test_the_emptiest_battery_of_the_machine_counts_and_no_mouse(put, tmp_path):
    assert battery_percent(tmp_path / "sys") is None
    for name, kind, capacity, scope in (
        ("BAT0", "Battery", "80", "System"),
        ("BAT1", "Battery", "60", None),
        ("mouse", "Battery", "5", "Device"),
        ("AC", "Mains", None, None),
    ):
        put(f"class/power_supply/{name}/type", kind)
        if capacity:
            put(f"class/power_supply/{name}/capacity", capacity)
        if scope:
            put(f"class/power_supply/{name}/scope", scope)

    assert battery_percent(tmp_path / "sys") == 60


def test_the_default_route_of_the_lowest_metric_is_in_use():
    assert default_interface(ROUTES.splitlines()) == "wlan0"
    assert default_interface([]) is None
    assert default_interface(["Iface Destination", "eth0 00000000"]) is None


@pytest.mark.parametrize(
    ("interface", "files", "kind"),
    [
        ("wlan0", {"wireless/status": ""}, "wifi"),
        ("wlp3s0", {"uevent": "DEVTYPE=wlan\nINTERFACE=wlp3s0"}, "wifi"),
        ("enx00", {"uevent": "DEVTYPE=wwan"}, "cellular"),  # a modem behind USB
        ("wwan0", {}, "cellular"),
        ("ppp0", {}, "cellular"),
        ("eth0", {"uevent": "INTERFACE=eth0"}, "ethernet"),
        ("enp1s0", {}, "ethernet"),
        ("tun0", {}, None),  # a tunnel does not say what it goes through
    ],
)
def test_an_interface_is_of_a_kind(put, tmp_path, interface, files, kind):
    for name, text in files.items():
        put(f"class/net/{interface}/{name}", text)
    assert interface_kind(interface, tmp_path / "sys") == kind


def test_the_kind_of_the_network_is_that_of_the_default_route(put, tmp_path):
    (tmp_path / "route").write_text(ROUTES)
    put("class/net/wlan0/wireless/status", "")
    assert network_kind(tmp_path / "route", tmp_path / "sys") == "wifi"
    assert network_kind(tmp_path / "nowhere", tmp_path / "sys") is None


def test_the_load_of_others_is_all_that_is_busy_and_not_ours():
    before = CpuTimes(total_s=100.0, busy_s=20.0, own_s=5.0)
    after = CpuTimes(total_s=110.0, busy_s=27.0, own_s=9.0)
    assert load_of_others(before, after) == pytest.approx(0.3)
    coarse = CpuTimes(total_s=110.0, busy_s=23.9, own_s=9.0)  # two clocks of different steps
    assert load_of_others(before, coarse) == 0.0


def test_the_disk_of_a_folder_that_is_yet_to_be_made_is_known(tmp_path):
    assert free_disk_mb(tmp_path / "state" / "deep") == pytest.approx(
        free_disk_mb(tmp_path), rel=0.1
    )


@pytest.fixture
def probes(put, tmp_path):
    def make(clock, *command):
        vehicle = VehicleConfig(vehicle_id="a", recordings=("r",), cache_dir="c")
        config = AgentConfig(
            state=str(tmp_path / "state"),
            vehicle=vehicle,
            guards=GuardConfig(signals_command=command, signals_timeout_s=0.8, check_every_s=0.1),
        )
        put("class/thermal/thermal_zone0/temp", "50000")
        return Probes(
            config, sys_folder=tmp_path / "sys", routes=tmp_path / "route", now_s=lambda: clock[0]
        )

    return make


def test_all_is_read_at_once(probes, tmp_path):
    (tmp_path / "route").write_text(ROUTES)

    readings = probes([0.0]).read()

    assert (readings.signals, readings.signals_error) == (None, "")
    assert readings.temperature_c == 50
    assert readings.network == "wifi"
    assert readings.battery_percent is None
    assert readings.free_memory_mb > 0
    assert readings.free_disk_mb > 0


def test_what_changes_slowly_is_gone_by_for_seconds(probes, put):
    clock = [0.0]
    probe = probes(clock)
    probe.read()
    put("class/thermal/thermal_zone0/temp", "90000")
    clock[0] = 4.9
    assert probe.read().temperature_c == 50
    clock[0] = 5.0
    assert probe.read().temperature_c == 90


def test_a_plug_in_that_fails_is_a_reading_as_well(probes, tmp_path):
    said = tmp_path / "said"
    said.write_text('{"driving": false}')
    good = probes([0.0], "/bin/cat", str(said)).read()
    bad = probes([0.0], sys.executable, "-c", "raise SystemExit(1)").read()
    assert (good.signals, good.signals_error) == (Signals(driving=False), "")
    assert bad.signals is None
    assert bad.signals_error
