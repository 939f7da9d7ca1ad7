"""How often to ask for work, and how long to wait when the link is down; with jitter, no two devices in step."""

from dataclasses import dataclass
from typing import Final

FASTEST_POLL_S: Final = 0.05
BUSY_S: Final = 60.0
"""After so long without work the agent begins to ask less and less often."""

_FIRST_BACK_OFF_S: Final = 0.5
_LONGEST_BACK_OFF_S: Final = 60.0
_JITTER: Final = 0.25


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


def _jittered(seconds: float, chance: float) -> float:
    return seconds * (1.0 + _JITTER * (2.0 * chance - 1.0))
