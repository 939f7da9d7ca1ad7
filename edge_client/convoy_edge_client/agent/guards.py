"""May this machine work now? Pure rules over what was measured; probes.py measures.

What the owner asks for and nobody can measure counts as not met: the reason then says how to provide
it. The first rule that is not met gives the reason; the most urgent stand first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from convoy_edge_client.agent.agent_config import GuardConfig, NetworkKind, WorkConfig
from convoy_edge_client.agent.work_windows import seconds_to_opening

_ALL_NETWORKS: Final = frozenset({"ethernet", "wifi", "cellular"})

_SOON_S: Final = 10.0
"""What may change at any moment: driving, load, the network."""
_LATER_S: Final = 60.0
"""What takes minutes: temperature, memory, disk, charging."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What the plug-in of the vehicle says; None: it does not say.

    Attributes:
        driving: Whether driving needs the machine.
        ignition: Whether it is on.
        battery_percent: Charge, in 0..100.
        network: Kind of the network in use.
    """

    driving: bool | None = None
    ignition: bool | None = None
    battery_percent: float | None = None
    network: NetworkKind | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What was measured; None: it is not known here.

    Attributes:
        signals: Of the plug-in; None: there is no plug-in, or it failed.
        signals_error: Why the plug-in failed; empty: it did not.
        battery_percent: Of the machine's own battery, in 0..100.
        temperature_c: Of the hottest sensor.
        free_memory_mb: Available to programs, in 10^6 bytes.
        free_disk_mb: Free for the state folder, in 10^6 bytes.
        network: Kind of the network in use; by the plug-in if it says so.
        load: Of the processor by others, as a share of all cores.
        gpu_load: Of the graphics unit by everybody, in 0..1.
    """

    signals: Signals | None = None
    signals_error: str = ""
    battery_percent: float | None = None
    temperature_c: float | None = None
    free_memory_mb: float | None = None
    free_disk_mb: float | None = None
    network: NetworkKind | None = None
    load: float | None = None
    gpu_load: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a verdict depends on beside the readings.

    Attributes:
        local_time: Of the vehicle.
        used_megabytes: Sent and received in this calendar month, in 10^6 bytes.
        working: Whether work is under way: the graphics unit's load is then its own.
        was_hot: The last verdict's `hot`.
    """

    local_time: datetime
    used_megabytes: float = 0.0
    working: bool = False
    was_hot: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether work may start or go on.

    Attributes:
        may_work: The answer.
        reason: Why not, one line for the server and the log; empty where it may.
        retry_after_s: When it makes sense to ask again; 0 where it may.
        hot: Too hot, or not yet cool again.
    """

    may_work: bool
    reason: str
    retry_after_s: float
    hot: bool


def judge(
    readings: Readings, guards: GuardConfig, work: WorkConfig, situation: Situation
) -> Verdict:
    """Whether work may start or go on."""
    hot = is_hot(readings.temperature_c, guards, was_hot=situation.was_hot)
    for reason, retry_after_s in _objections(readings, guards, work, situation, hot=hot):
        return Verdict(may_work=False, reason=reason, retry_after_s=retry_after_s, hot=hot)
    return Verdict(may_work=True, reason="", retry_after_s=0.0, hot=hot)


def is_hot(temperature_c: float | None, guards: GuardConfig, *, was_hot: bool) -> bool:
    """Above the limit, or on the way down and not yet below the lower one; unknown changes nothing."""
    if not guards.maximum_temperature_c:
        return False
    if temperature_c is None:
        return was_hot
    limit_c = guards.cool_temperature_c if was_hot else guards.maximum_temperature_c
    return temperature_c >= limit_c if was_hot else temperature_c > limit_c


def _objections(
    readings: Readings, guards: GuardConfig, work: WorkConfig, situation: Situation, *, hot: bool
) -> Iterator[tuple[str, float]]:
    """Reasons not to work, with when to ask again; the most urgent first."""
    yield from _driving(readings, guards)
    yield from _heat(readings.temperature_c, guards, hot=hot)
    yield from _load(readings, guards, working=situation.working)
    yield from _energy(readings, guards)
    yield from _room(readings, guards)
    yield from _network(readings, guards)
    yield from _owner_says(work, situation)


def _driving(readings: Readings, guards: GuardConfig) -> Iterator[tuple[str, float]]:
    signals = readings.signals or Signals()
    if readings.signals_error:
        yield f"signals_command {readings.signals_error}", _SOON_S
    if signals.driving:
        yield "driving needs the machine", _SOON_S
    if guards.require_ignition_off:
        if signals.ignition is None:
            yield 'ignition unknown: signals_command must print "ignition"', _LATER_S
        elif signals.ignition:
            yield "the ignition is on", _LATER_S


def _heat(
    temperature_c: float | None, guards: GuardConfig, *, hot: bool
) -> Iterator[tuple[str, float]]:
    if not guards.maximum_temperature_c:
        return
    if temperature_c is None:
        yield (
            "temperature unknown: no thermal sensor is found here; set maximum_temperature_c = 0 to "
            "work without one",
            _LATER_S,
        )
    elif hot:
        yield (
            f"too hot: {temperature_c:.0f} C, goes on below {guards.cool_temperature_c:.0f} C",
            _LATER_S,
        )


def _load(readings: Readings, guards: GuardConfig, *, working: bool) -> Iterator[tuple[str, float]]:
    if guards.maximum_load:
        if readings.load is None:
            yield "processor load unknown: psutil cannot read it here", _LATER_S
        elif readings.load > guards.maximum_load:
            yield (
                f"other programs use {readings.load:.0%} of the processor, at most "
                f"{guards.maximum_load:.0%} allowed",
                _SOON_S,
            )
    if guards.maximum_gpu_load and not working:
        if readings.gpu_load is None:
            yield (
                "load of the graphics unit unknown: tegrastats is not here; set "
                "maximum_gpu_load = 0 to work without it",
                _LATER_S,
            )
        elif readings.gpu_load > guards.maximum_gpu_load:
            yield (
                f"other programs use {readings.gpu_load:.0%} of the graphics unit, at most "
                f"{guards.maximum_gpu_load:.0%} allowed",
                _SOON_S,
            )


def _energy(readings: Readings, guards: GuardConfig) -> Iterator[tuple[str, float]]:
    if not guards.minimum_battery_percent:
        return
    told = readings.signals.battery_percent if readings.signals else None
    percent = readings.battery_percent if told is None else told
    if percent is None:
        yield (
            'battery unknown: no battery is found here; signals_command may print "battery_percent"',
            _LATER_S,
        )
    elif percent < guards.minimum_battery_percent:
        yield (
            f"battery at {percent:.0f} %, at least {guards.minimum_battery_percent:.0f} % needed",
            _LATER_S,
        )


def _room(readings: Readings, guards: GuardConfig) -> Iterator[tuple[str, float]]:
    for what, free_mb, least_mb in (
        ("memory", readings.free_memory_mb, guards.minimum_free_memory_mb),
        ("disk", readings.free_disk_mb, guards.minimum_free_disk_mb),
    ):
        if not least_mb:
            continue
        if free_mb is None:
            yield f"free {what} unknown: psutil cannot read it here", _LATER_S
        elif free_mb < least_mb:
            yield f"{free_mb:.0f} MB of {what} free, at least {least_mb:.0f} MB needed", _LATER_S


def _network(readings: Readings, guards: GuardConfig) -> Iterator[tuple[str, float]]:
    accepted = frozenset(guards.networks)
    if accepted >= _ALL_NETWORKS:
        return
    told = readings.signals.network if readings.signals else None
    kind = told or readings.network
    allowed = " or ".join(guards.networks)
    if kind is None:
        yield (
            f'network unknown, {allowed} needed: signals_command may print "network"',
            _SOON_S,
        )
    elif kind not in accepted:
        yield f"on {kind}, {allowed} needed", _SOON_S


def _owner_says(work: WorkConfig, situation: Situation) -> Iterator[tuple[str, float]]:
    wait_s = seconds_to_opening(work.work_windows, situation.local_time)
    if wait_s:
        yield f"outside of the hours for work ({', '.join(work.windows)})", wait_s
    if work.monthly_megabytes and situation.used_megabytes >= work.monthly_megabytes:
        yield (
            f"this month's {work.monthly_megabytes:g} MB on the network are used up",
            _seconds_to_next_month(situation.local_time),
        )


def _seconds_to_next_month(now: datetime) -> float:
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (first + timedelta(days=32)).replace(day=1)
    return (following - now).total_seconds()
