"""The one path of our own at the fleet door: devices wait there until a message may be there for them."""

from typing import Final

BELL_PATH: Final = "/v1/convoy/wait"
"""GET with `node`, the id of the device's node, and `heard`, what was answered last or nothing. Answered
with what has been heard by now, as text: as soon as that differs from `heard`, or HOLD_S later."""

HOLD_S: Final = 25.0
"""Below what routers of mobile networks give a silent connection."""

MAX_HEARD: Final = 64
"""Letters of an answer."""
