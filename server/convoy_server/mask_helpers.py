"""Which mask helpers the secure sums of a round have."""

import logging
from collections.abc import Mapping
from datetime import datetime

from convoy_privacy.certificates import Role, Trust
from convoy_privacy.sealing import verify_sealing_key
from convoy_protos.errors import ProtocolError
from convoy_protos.v1.secure_sum_pb2 import HelperKey

logger = logging.getLogger(__name__)


def choose_helpers(
    offers: Mapping[str, HelperKey],
    count: int,
    trust: Trust,
    now: datetime,
    failures: Mapping[str, int],
) -> dict[str, HelperKey]:
    """Those that failed least, then by name; fewer than asked for where there are no more.

    Args:
        offers: What nodes say, by name; hostile: anybody can repeat a helper's signed key.
        count: Helpers wanted.
        trust: Whose helpers we take.
        now: With a time zone.
        failures: Sums that a node did not answer for, by name.
    """
    chosen: dict[str, HelperKey] = {}
    certified: set[str] = set()
    for name in sorted(offers, key=lambda name: (failures.get(name, 0), name)):
        if len(chosen) == count:
            break
        try:
            member = verify_sealing_key(offers[name], trust, Role.HELPER, now)
        except ProtocolError as error:
            logger.warning("%s is no mask helper: %s", name, error)
            continue
        if member.name not in certified:
            chosen[name] = offers[name]
            certified.add(member.name)
    return chosen
