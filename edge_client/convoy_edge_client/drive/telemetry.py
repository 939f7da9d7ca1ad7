"""From what was counted to a line of telemetry: no pictures, no positions."""

import time
from collections.abc import Callable
from pathlib import Path

from convoy_edge_client.drive.wheel import Interval
from convoy_edge_client.updates.telemetry_ring import TelemetryLine, TelemetryRing

_THERMAL = Path("/sys/class/thermal")


class TelemetryWriter:
    """Writes a line an interval; knows how undecided a model was at first."""

    def __init__(self, ring: TelemetryRing, now_s: Callable[[], float] = time.time) -> None:
        """Nothing is written yet.

        Args:
            ring: Where lines wait.
            now_s: Wall clock, seconds since 1970.
        """
        self._ring = ring
        self._now_s = now_s
        self._first_entropy: dict[str, float] = {}

    def __call__(self, interval: Interval) -> None:
        """Write the line; an interval without frames has none.

        Raises:
            ReleaseStoreError: The disk refuses.
        """
        if interval.statistics.frames:
            self._ring.add(self.line(interval))

    def line(self, interval: Interval) -> TelemetryLine:
        """What the interval comes to."""
        counted, record = interval.statistics, interval.record
        first = self._first_entropy.setdefault(interval.release, counted.mean_entropy)
        return TelemetryLine(
            time_s=self._now_s(),
            release=interval.release,
            provider=interval.provider,
            state=record.state.value,
            frames=counted.frames,
            missed=counted.missed,
            failures=counted.failures,
            p50_ms=counted.quantile_ms(0.5),
            p99_ms=counted.quantile_ms(0.99),
            longest_ms=counted.longest_ms,
            steering_bins=tuple(counted.steering_bins),
            mean_entropy=counted.mean_entropy,
            entropy_drift=counted.mean_entropy - first,
            shadow_compared=interval.shadow_compared,
            shadow_difference=interval.shadow_difference,
            temperature_c=hottest_c(),
            reason=record.reason,
            first_failure=record.first_failure,
        )


def hottest_c(folder: Path = _THERMAL) -> float | None:
    """Of the machine's sensors; None where none can be read."""
    found: list[float] = []
    for zone in folder.glob("thermal_zone*"):
        try:
            milli = int((zone / "temp").read_text())
            kind = (zone / "type").read_text()
        except (OSError, ValueError):
            continue
        # The power chip of a Jetson Nano or Xavier shows 50 or 100 C whatever it is.
        if milli > -100_000 and not kind.startswith("PMIC"):
            found.append(milli / 1000)
    return max(found, default=None)
