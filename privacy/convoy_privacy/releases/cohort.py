"""Who is among the first: computed on the vehicle, so that no server keeps a list of vehicles.

A vehicle's place is a salted hash of its name. It is in a rollout of p percent if its place is below p
percent of all places: whoever is in at 5 is in at 25.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from convoy_privacy.releases.signed_texts import ChannelPointer

PLACES: Final = 10_000
_LABEL: Final = b"convoy.cohort/1\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleProfile:
    """What a rollout may ask about a vehicle.

    Attributes:
        vehicle: Its name in the fleet.
        canary: It takes what the others do not have yet.
        tags: Its value of each tag, such as {"hardware": "jetson-orin", "region": "eu"}.
    """

    vehicle: str
    canary: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)


def place(vehicle: str, salt: str) -> int:
    """Where a vehicle stands among all, in 0..9999; evenly spread."""
    digest = hashlib.sha256(_LABEL + bytes.fromhex(salt) + vehicle.encode()).digest()
    return int.from_bytes(digest[:8], "big") % PLACES


def in_rollout(pointer: ChannelPointer, profile: VehicleProfile) -> bool:
    """Whether the vehicle is among those that the percentage and the tags name."""
    return has_tags(pointer, profile) and (
        profile.canary or place(profile.vehicle, pointer.salt) < pointer.percent * PLACES // 100
    )


def has_tags(pointer: ChannelPointer, profile: VehicleProfile) -> bool:
    """Whether the vehicle passes the filter."""
    return all(profile.tags.get(tag) in values for tag, values in pointer.tags.items())
