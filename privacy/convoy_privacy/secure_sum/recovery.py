"""Secrets from their shares, also when some of the shares are wrong.

Every secret is recognized: a seed by its commitment, a mask key by its public key. So a wrong share
cannot change the sum, it can only cost time, and whoever sent it is named. Up to half of the surplus
of shares is found by decoding; beyond that, in small shards, every choice of holders is tried.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from math import comb

from convoy_privacy.errors import BadSharesError
from convoy_privacy.secret_sharing import rebuild, rebuild_despite_errors, wrong_shares

# Over all secrets of a sum, 1 s of work: every choice of 11 holders among 15, say.
_MAX_TRIES = 1500


@dataclass(frozen=True, slots=True)
class Wanted:
    """A secret to rebuild.

    Attributes:
        shares: By slot of the holder, at least as many as the threshold.
        is_right: Does this secret fit what its owner signed?
    """

    shares: Mapping[int, bytes]
    is_right: Callable[[bytes], bool]


@dataclass(slots=True)
class Recovered:
    """What came of it.

    Attributes:
        secrets: By slot of the owner.
        liars: Holders that sent a wrong share.
        hopeless: Owners whose secret could not be rebuilt: the shares that they dealt do not belong
            together, or too many of the holders lie.
    """

    secrets: dict[int, bytes] = field(default_factory=dict)
    liars: set[int] = field(default_factory=set)
    hopeless: set[int] = field(default_factory=set)


def recover(wanted: Mapping[int, Wanted], threshold: int) -> Recovered:
    """Rebuild every secret, by slot of its owner.

    A holder that lied once is asked last from then on, so a liar costs one decoding only. Other
    choices of holders are tried when nothing else is left.
    """
    result = Recovered()
    tries = iter(range(_MAX_TRIES))
    waiting = dict(wanted)
    for rebuild_one in (_decode, partial(_try_others, tries=tries)):
        known: set[int] | None = None
        while waiting and result.liars != known:
            known = set(result.liars)
            for owner, secret in list(waiting.items()):
                found = rebuild_one(secret, threshold, result.liars)
                if found is not None:
                    result.secrets[owner] = found[0]
                    result.liars |= found[1]
                    del waiting[owner]
    result.hopeless = set(waiting)
    return result


def _decode(wanted: Wanted, threshold: int, liars: set[int]) -> tuple[bytes, set[int]] | None:
    """The secret and who lied about it, if few enough did."""
    trusted, holders = _trusted_first(wanted, liars)
    # Every secret's first try takes the same holders, whose weights are computed once.
    chosen = {slot: wanted.shares[slot] for slot in holders[:threshold]}
    if (secret := _right(wanted, chosen)) is not None:
        return secret, set()
    for among in (trusted, holders):
        if len(among) >= threshold:
            try:
                secret, wrong = rebuild_despite_errors(
                    {slot: wanted.shares[slot] for slot in among}, threshold
                )
            except BadSharesError:
                continue
            if wanted.is_right(secret):
                return secret, wrong
    return None


def _try_others(
    wanted: Wanted, threshold: int, liars: set[int], *, tries: Iterator[int]
) -> tuple[bytes, set[int]] | None:
    """The same by one choice of holders after the other."""
    _, holders = _trusted_first(wanted, liars)
    if comb(len(holders), threshold) > _MAX_TRIES:
        return None
    for some, _ in zip(combinations(holders, threshold), tries, strict=False):
        right = {slot: wanted.shares[slot] for slot in some}
        if (secret := _right(wanted, right)) is not None:
            return secret, wrong_shares(wanted.shares, right)
    return None


def _trusted_first(wanted: Wanted, liars: set[int]) -> tuple[list[int], list[int]]:
    """Holders that have not lied yet, and all holders in the order in which they are believed."""
    trusted = sorted(set(wanted.shares) - liars)
    return trusted, [*trusted, *sorted(set(wanted.shares) & liars)]


def _right(wanted: Wanted, shares: Mapping[int, bytes]) -> bytes | None:
    try:
        secret = rebuild(shares)
    except BadSharesError:
        return None
    return secret if wanted.is_right(secret) else None
