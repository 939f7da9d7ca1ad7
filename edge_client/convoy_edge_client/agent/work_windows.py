"""Times of the day in which a vehicle may work: "22:00-06:00", local time.

The start belongs to the window, the end does not. A window that ends before it starts goes past
midnight; one that starts and ends at the same time is the whole day.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

MINUTES_A_DAY = 24 * 60

_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, slots=True)
class WorkWindow:
    """One window of every day.

    Attributes:
        start_minute: Of the day, in 0..1439.
        end_minute: Of the day, in 0..1439; outside of the window.
    """

    start_minute: int
    end_minute: int

    def contains(self, minute: int) -> bool:
        """Whether a minute of the day, in 0..1439, is inside."""
        length = (self.end_minute - self.start_minute - 1) % MINUTES_A_DAY + 1
        return (minute - self.start_minute) % MINUTES_A_DAY < length


def parse_window(text: str) -> WorkWindow:
    """A window as it is written.

    Raises:
        ValueError: It is not HH:MM-HH:MM.
    """
    match = _WINDOW.fullmatch(text)
    if match is None:
        raise ValueError(f'a window is written "22:00-06:00", got {text!r}')
    start_hour, start, end_hour, end = map(int, match.groups())
    return WorkWindow(60 * start_hour + start, 60 * end_hour + end)


def seconds_to_opening(windows: Sequence[WorkWindow], local_time: datetime) -> float:
    """Seconds until one of the windows is open; 0: one is, or there is none to wait for."""
    minute = 60 * local_time.hour + local_time.minute
    if not windows or any(window.contains(minute) for window in windows):
        return 0.0
    minutes = min((window.start_minute - minute) % MINUTES_A_DAY for window in windows)
    return 60.0 * minutes - local_time.second
