"""Measure the machine: memory, disk, load, temperature, battery, network, the vehicle's signals.

Sources: psutil; Linux's /sys/class/thermal (Documentation/driver-api/thermal/sysfs-api.rst),
/sys/class/power_supply, /proc/net/route; tegrastats on a Jetson.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from convoy_edge_client.agent.agent_config import AgentConfig, NetworkKind
from convoy_edge_client.agent.guards import Readings
from convoy_edge_client.agent.signals import read_signals
from convoy_edge_client.agent.tegrastats import JetsonStats, read_tegrastats
from convoy_edge_client.errors import SignalsError

SYS: Final = Path("/sys")
ROUTES: Final = Path("/proc/net/route")

_MB: Final = 1e6
_SLOW_EVERY_S: Final = 5.0
"""How long temperature, memory, disk, battery and network are gone by; driving and load are not."""
_SHORTEST_LOAD_S: Final = 0.05
"""The kernel counts processor time in steps of 10 ms."""

_CELLULAR: Final = ("wwan", "ppp", "rmnet", "usb_cell")


class Probes:
    """What one agent measures; one thread at a time may use it."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        sys_folder: Path = SYS,
        routes: Path = ROUTES,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._sys = sys_folder
        self._routes = routes
        self._now_s = now_s
        self._slow: tuple[float, Readings] | None = None
        self._load = _LoadOfOthers()

    def read(self) -> Readings:
        """Look at everything; what changes slowly was looked at in the last seconds."""
        guards = self._config.guards
        slow = self._slow_readings()
        signals, error = None, ""
        if guards.signals_command:
            try:
                signals = read_signals(guards.signals_command, guards.signals_timeout_s)
            except SignalsError as failure:
                error = str(failure)
        return Readings(
            signals=signals,
            signals_error=error,
            battery_percent=slow.battery_percent,
            temperature_c=slow.temperature_c,
            free_memory_mb=slow.free_memory_mb,
            free_disk_mb=slow.free_disk_mb,
            network=slow.network,
            load=self._load.share(),
            gpu_load=slow.gpu_load,
        )

    def _slow_readings(self) -> Readings:
        now_s = self._now_s()
        if self._slow is None or now_s - self._slow[0] >= _SLOW_EVERY_S:
            jetson = read_tegrastats() or JetsonStats(gpu_load=None, temperature_c=None)
            readings = Readings(
                battery_percent=battery_percent(self._sys),
                temperature_c=hottest_c(self._sys, jetson.temperature_c),
                free_memory_mb=psutil.virtual_memory().available / _MB,
                free_disk_mb=free_disk_mb(self._config.state_path),
                network=network_kind(self._routes, self._sys),
                gpu_load=jetson.gpu_load,
            )
            self._slow = (now_s, readings)
        return self._slow[1]


def hottest_c(sys_folder: Path = SYS, other_c: float | None = None) -> float | None:
    """Of the hottest sensor, one that was read elsewhere included; None where there is none."""
    readings = [*thermal_zones_c(sys_folder), *([] if other_c is None else [other_c])]
    return max(readings, default=None)


def thermal_zones_c(sys_folder: Path = SYS) -> list[float]:
    """Temperatures of the machine's sensors that work; empty where it has none."""
    found: list[float] = []
    for zone in sorted((sys_folder / "class/thermal").glob("thermal_zone*")):
        value = _number(zone / "temp")
        # A zone whose part is switched off cannot be read, or shows far below zero; the power chip of
        # a Jetson Nano or Xavier shows 50 or 100 C whatever it is.
        fixed = _text(zone / "type").startswith("PMIC")
        if value is not None and value > -100_000 and not fixed:
            found.append(value / 1000)
    return found


def battery_percent(sys_folder: Path = SYS) -> float | None:
    """Charge of the machine's emptiest battery, in 0..100; None where it has none."""
    charges = [
        _number(supply / "capacity")
        for supply in sorted((sys_folder / "class/power_supply").glob("*"))
        # A wireless mouse has a battery as well: its scope is "Device".
        if _text(supply / "type") == "Battery" and _text(supply / "scope") != "Device"
    ]
    return min((charge for charge in charges if charge is not None), default=None)


def free_disk_mb(folder: Path) -> float:
    """Free space where a folder is, or where it will be, in 10^6 bytes."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return psutil.disk_usage(str(there)).free / _MB


def network_kind(routes: Path = ROUTES, sys_folder: Path = SYS) -> NetworkKind | None:
    """Kind of the network that the default route leads to; None where there is none."""
    try:
        lines = routes.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    interface = default_interface(lines)
    return None if interface is None else interface_kind(interface, sys_folder)


def default_interface(lines: Iterable[str]) -> str | None:
    """Interface of the default route with the lowest metric, in the lines of /proc/net/route."""
    best: tuple[int, str] | None = None
    for line in lines:
        fields = line.split()
        if len(fields) < 8 or fields[1] != "00000000" or fields[7] != "00000000":
            continue
        candidate = (int(fields[6]), fields[0])
        best = candidate if best is None else min(best, candidate)
    return best[1] if best else None


def interface_kind(interface: str, sys_folder: Path = SYS) -> NetworkKind | None:
    """By what the kernel says of the interface, then by its name; None: of no known kind."""
    folder = sys_folder / "class/net" / interface
    if (folder / "wireless").exists() or (folder / "phy80211").exists():
        return "wifi"
    kind = _device_type(folder / "uevent")
    if kind == "wwan" or interface.startswith(_CELLULAR):
        return "cellular"
    if kind == "wlan" or interface.startswith(("wlan", "wlp", "wlx")):
        return "wifi"
    return "ethernet" if interface.startswith(("eth", "en")) else None


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds since some start: of all cores together, busy among them, and of this process."""

    total_s: float
    busy_s: float
    own_s: float


class _LoadOfOthers:
    """The load since the question before, or since a little longer where that was just now."""

    def __init__(self) -> None:
        self._before = _cpu_times()
        self._share: float | None = None

    def share(self) -> float | None:
        """In 0..1; None while too little time has passed to know."""
        now = _cpu_times()
        if now.total_s - self._before.total_s >= _SHORTEST_LOAD_S * (psutil.cpu_count() or 1):
            self._share = load_of_others(self._before, now)
            self._before = now
        return self._share


def load_of_others(before: CpuTimes, after: CpuTimes) -> float:
    """Busy time that is not this process's, as a share of the time of all cores."""
    busy_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return min(1.0, max(0.0, busy_s / (after.total_s - before.total_s)))


def _cpu_times() -> CpuTimes:
    system, own = psutil.cpu_times(), psutil.Process().cpu_times()
    busy_s = system.user + system.nice + system.system + system.irq + system.softirq
    waiting_s = system.idle + system.iowait + system.steal
    return CpuTimes(total_s=busy_s + waiting_s, busy_s=busy_s, own_s=own.user + own.system)


def _text(file: Path) -> str:
    """Empty where the file is missing, or its part is switched off."""
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _number(file: Path) -> float | None:
    text = _text(file)
    return float(text) if text.removeprefix("-").isdigit() else None


def _device_type(uevent: Path) -> str:
    lines = _text(uevent).splitlines()
    return next((line.partition("=")[2] for line in lines if line.startswith("DEVTYPE=")), "")
