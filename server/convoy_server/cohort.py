"""Who trains in a round: drawn from (seed, round) alone.

A fixed number without replacement, or every vehicle by its own chance (Poisson sampling, the scheme that
differential privacy accounts for best). Nothing is carried from round to round, so a resumed run draws what
the undisturbed one would have.
"""

import hashlib
import math
from collections.abc import Collection
from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """Keeps the draws of one round apart."""

    TRAIN = 0
    EVALUATE = 1
    SHARD = 2


def draw(
    vehicles: Collection[str], count: int, *, seed: int, round_number: int, purpose: Purpose
) -> tuple[str, ...]:
    """Draw min(count, all) vehicles in random order; the order they are known in does not matter."""
    rng = np.random.default_rng((seed, round_number, int(purpose)))
    ranked = sorted(vehicles)
    order = rng.permutation(len(ranked))[:count]
    return tuple(ranked[index] for index in order)


def draw_poisson(
    vehicles: Collection[str], rate: float, *, seed: int, round_number: int, purpose: Purpose
) -> tuple[str, ...]:
    """Draw every vehicle independently with probability `rate`; sorted by name, perhaps nobody.

    Whether one is drawn depends on its own name, not on who else there is. Amplification of privacy by
    sampling counts on the draw being unknown to whoever sees the models: the seed must then be a secret,
    and hard to guess.

    Raises:
        ValueError: The rate is not in 0..1.
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"rate must be in 0..1, got {rate}")
    # SHA-256 of (seed, round, purpose, name) is a fair 64-bit number; rate 1 is above every one of them.
    limit = math.ceil(rate * 2.0**64)
    label = f"convoy poisson draw/1:{seed}:{round_number}:{int(purpose)}:"
    return tuple(
        name
        for name in sorted(vehicles)
        if int.from_bytes(hashlib.sha256((label + name).encode()).digest()[:8]) < limit
    )


def invitations(wanted: int, over_selection: float, fleet_size: int) -> int:
    """How many to invite so that `wanted` answer; never more than there are."""
    # 10 * 1.1 is 11.000000000000002 in binary, and twelve is not what was asked for.
    return min(fleet_size, math.ceil(wanted * over_selection - 1e-9))


def into_shards(
    vehicles: Collection[str],
    shard_size: int,
    *,
    seed: int,
    round_number: int,
    minimum: int = 1,
) -> list[tuple[str, ...]]:
    """Cut vehicles into as few shards of at most `shard_size` as it takes, equal up to one vehicle.

    Where that would leave a shard with fewer than `minimum`, there are fewer and larger ones.

    Who is with whom is drawn anew each round; the order in which the vehicles came does not matter.
    """
    drawn = draw(
        vehicles, len(vehicles), seed=seed, round_number=round_number, purpose=Purpose.SHARD
    )
    count = math.ceil(len(drawn) / shard_size)
    if count > 1 and len(drawn) // count < minimum:
        count = max(1, len(drawn) // minimum)
    return [tuple(sorted(drawn[start::count])) for start in range(count)]
