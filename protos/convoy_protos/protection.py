"""How far an update is hidden on its way, by the codec that writes it.

A vehicle's own configuration names the least protection it agrees to; the server cannot lower it.
"""

from enum import IntEnum
from typing import Final


class Protection(IntEnum):
    """Who can read one vehicle's update; more is safer."""

    NONE = 0
    """Whoever sees the message."""
    SEALED = 1
    """The aggregator."""
    MASKED = 2
    """Nobody."""


MASKED_CODEC: Final = "masked/1"
SEALED_CODEC: Final = "sealed/1"


def protection_of(codec: str) -> Protection:
    """What the codec of that name on the wire protects."""
    return {MASKED_CODEC: Protection.MASKED, SEALED_CODEC: Protection.SEALED}.get(
        codec, Protection.NONE
    )
