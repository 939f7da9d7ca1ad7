"""How long to wait before a process that has ended is started again."""

from dataclasses import dataclass
from typing import Final

STABLE_S: Final = 60.0
"""A process that ran for so long has earned a quick restart."""

_FIRST_S: Final = 0.2
_LONGEST_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """State of one process.

    Attributes:
        quick_ends: How often in a row it ended soon after its start.
    """

    quick_ends: int = 0

    def ended(self, ran_s: float) -> "RestartPolicy":
        """After it has ended once more, having run for so long."""
        return RestartPolicy(1 if ran_s >= STABLE_S else self.quick_ends + 1)

    @property
    def wait_s(self) -> float:
        """Doubling from a fifth of a second to half a minute; 0 before the first end."""
        if not self.quick_ends:
            return 0.0
        return float(min(_FIRST_S * 2.0 ** min(self.quick_ends - 1, 16), _LONGEST_S))
