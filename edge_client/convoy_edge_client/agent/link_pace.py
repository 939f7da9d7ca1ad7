"""How often to ask for work, how long to wait when the link is down, and how large a piece to send.

With jitter, so that no two devices are in step.
"""

from dataclasses import dataclass
from typing import Final

FASTEST_POLL_S: Final = 0.08
BUSY_S: Final = 60.0
"""After so long without work the agent begins to ask less and less often."""
SMALLEST_CHUNK_BYTES: Final = 1 << 16

_FIRST_BACK_OFF_S: Final = 0.5
_LONGEST_BACK_OFF_S: Final = 60.0
_JITTER: Final = 0.25
_CHUNK_S: Final = 4.0
"""What a link that is lost in the middle of a piece may cost; well below the 30 s after which a call fails."""
_UNKNOWN_CHUNK_BYTES: Final = 1 << 18
_OLD_SHARE: Final = 0.5


def poll_pause_s(idle_s: float, slowest_s: float, chance: float) -> float:
    """How long to wait before asking again.

    While a run is under way there is a message every second or so, and asking is cheap beside it. A tenth
    of the idle time beyond that makes the first message of the next run late by a tenth at most.

    Args:
        idle_s: Since the last message.
        slowest_s: Longest wait.
        chance: Uniform in [0, 1).
    """
    quiet_s = max(0.0, idle_s - BUSY_S)
    settled_s = FASTEST_POLL_S if idle_s < 5.0 else 0.25
    return _jittered(min(max(settled_s, quiet_s / 10.0), slowest_s), chance)


@dataclass(frozen=True, slots=True)
class BackOff:
    """How often in a row the link was down.

    Attributes:
        failures: In a row.
    """

    failures: int = 0

    def failed(self) -> "BackOff":
        """After one more failure."""
        return BackOff(self.failures + 1)

    def wait_s(self, chance: float) -> float:
        """How long to wait after so many failures: doubling, at most a minute; 0 after none.

        Args:
            chance: Uniform in [0, 1).
        """
        if not self.failures:
            return 0.0
        doubled_s = _FIRST_BACK_OFF_S * 2.0 ** min(self.failures - 1, 16)
        return _jittered(min(doubled_s, _LONGEST_BACK_OFF_S), chance)


@dataclass(frozen=True, slots=True)
class Throughput:
    """What the link carries, from the pieces that it has carried.

    Attributes:
        bytes_per_s: The last pieces count most; 0: not known.
    """

    bytes_per_s: float = 0.0

    def measured(self, byte_count: int, took_s: float) -> "Throughput":
        """After one more piece; small ones say more about the latency and do not count."""
        if byte_count < SMALLEST_CHUNK_BYTES or took_s <= 0.0:
            return self
        rate = byte_count / took_s
        if self.bytes_per_s:
            rate = _OLD_SHARE * self.bytes_per_s + (1.0 - _OLD_SHARE) * rate
        return Throughput(rate)

    def chunk_bytes(self, largest: int) -> int:
        """How large a piece to send: a power of two that takes seconds, not a lost minute.

        Args:
            largest: At least SMALLEST_CHUNK_BYTES.
        """
        if not self.bytes_per_s:
            return min(_UNKNOWN_CHUNK_BYTES, largest)
        affordable = max(SMALLEST_CHUNK_BYTES, int(self.bytes_per_s * _CHUNK_S))
        return min(1 << (affordable.bit_length() - 1), largest)


def _jittered(seconds: float, chance: float) -> float:
    return seconds * (1.0 + _JITTER * (2.0 * chance - 1.0))
