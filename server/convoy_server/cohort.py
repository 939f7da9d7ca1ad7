"""Who trains in a round: drawn without replacement, from (seed, round) alone.

Nothing is carried from round to round, so a resumed run draws what the undisturbed one would have.
"""

import math
from collections.abc import Collection
from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """Keeps the draws of one round apart."""

    TRAIN = 0
    EVALUATE = 1


def draw(
    vehicles: Collection[str], count: int, *, seed: int, round_number: int, purpose: Purpose
) -> tuple[str, ...]:
    """Draw min(count, all) vehicles in random order; the order they are known in does not matter."""
    rng = np.random.default_rng((seed, round_number, int(purpose)))
    ranked = sorted(vehicles)
    order = rng.permutation(len(ranked))[:count]
    return tuple(ranked[index] for index in order)


def invitations(wanted: int, over_selection: float, fleet_size: int) -> int:
    """How many to invite so that `wanted` answer; never more than there are."""
    # 10 * 1.1 is 11.000000000000002 in binary, and twelve is not what was asked for.
    return min(fleet_size, math.ceil(wanted * over_selection - 1e-9))
