"""Share a 32-byte secret so that any t holders rebuild it and t - 1 learn nothing.

Source: Shamir, "How to share a secret", CACM 1979, over the prime field of 2^256 + 297, the smallest
prime above 2^256. A share is the value of a random polynomial of degree t - 1 at the holder's slot,
33 bytes big-endian; the secret is its value at 0. Wrong shares are found as errors of a Reed-Solomon
code. Source: Gao, "A new algorithm for decoding Reed-Solomon codes", 2003.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

from convoy_privacy.errors import BadSharesError

PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33

# 128 bits more than the prime has: a coefficient reduced modulo it is uniform up to 2^-127.
_COEFFICIENT_BYTES = 48

Polynomial = list[int]  # coefficients, lowest first; no zero at the end


def split(
    secret: bytes, threshold: int, slots: Iterable[int], random: Callable[[int], bytes]
) -> list[bytes]:
    """One share for each slot.

    Args:
        secret: 32 bytes.
        threshold: Shares needed to rebuild; at least 1.
        slots: Distinct positive integers below the prime.
        random: Gives so many unpredictable bytes.
    """
    if len(secret) != SECRET_BYTES or threshold < 1:
        raise ValueError(f"need 32 bytes and a threshold, got {len(secret)} and {threshold}")
    drawn = random(_COEFFICIENT_BYTES * (threshold - 1))
    highest_first = [
        int.from_bytes(drawn[start : start + _COEFFICIENT_BYTES], "big") % PRIME
        for start in range(0, len(drawn), _COEFFICIENT_BYTES)
    ]
    highest_first.append(int.from_bytes(secret, "big"))
    return [_horner(highest_first, slot).to_bytes(SHARE_BYTES, "big") for slot in slots]


def check_share(share: bytes) -> None:
    """Refuse what cannot be a share.

    Raises:
        BadSharesError: Not 33 bytes, or not below the prime.
    """
    if len(share) != SHARE_BYTES or int.from_bytes(share, "big") >= PRIME:
        raise BadSharesError(f"a share has {SHARE_BYTES} bytes below the prime")


def rebuild(shares: Mapping[int, bytes]) -> bytes:
    """The secret of the polynomial through all these shares, by slot; as many as the threshold.

    The weights depend on the slots alone and are kept for the next secret of the same holders.

    Raises:
        BadSharesError: The value at 0 is no 32-byte secret.
    """
    weights = _weights_at_zero(tuple(shares))
    value = (
        sum(
            weight * int.from_bytes(share, "big")
            for weight, share in zip(weights, shares.values(), strict=True)
        )
        % PRIME
    )
    return _secret(value)


def rebuild_despite_errors(shares: Mapping[int, bytes], threshold: int) -> tuple[bytes, set[int]]:
    """The secret and the slots whose shares are wrong, if these are at most half of the surplus.

    Raises:
        BadSharesError: More than (number of shares - threshold) / 2 shares are wrong.
    """
    points = {slot: int.from_bytes(share, "big") for slot, share in shares.items()}
    through_all = _interpolate(points)
    product = _from_roots(points)
    # Half of the extended Euclidean algorithm: stop when the rest is short enough for a quotient.
    rest, next_rest = product, through_all
    factor, next_factor = [], [1]
    while 2 * (len(next_rest) - 1) >= len(points) + threshold:
        quotient, remainder = _divide(rest, next_rest)
        rest, next_rest = next_rest, remainder
        factor, next_factor = next_factor, _subtract(factor, _multiply(quotient, next_factor))
    polynomial, _ = _divide(next_rest, next_factor)
    wrong = {slot for slot, value in points.items() if _horner(polynomial[::-1], slot) != value}
    # Only one polynomial of this degree is so close to the points, so it need not be asked how it
    # was found.
    if len(polynomial) > threshold or 2 * len(wrong) > len(points) - threshold:
        raise BadSharesError("too many of the shares are wrong")
    return _secret(polynomial[0] if polynomial else 0), wrong


def wrong_shares(shares: Mapping[int, bytes], right: Mapping[int, bytes]) -> set[int]:
    """Slots whose share is not on the polynomial through the `right` shares."""
    polynomial = _interpolate({slot: int.from_bytes(share, "big") for slot, share in right.items()})
    highest_first = polynomial[::-1]
    return {
        slot
        for slot, share in shares.items()
        if _horner(highest_first, slot) != int.from_bytes(share, "big")
    }


@lru_cache(maxsize=16)
def _weights_at_zero(slots: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's coefficients for the value at 0."""
    weights = []
    for slot in slots:
        numerator = denominator = 1
        for other in slots:
            if other != slot:
                numerator = numerator * other % PRIME
                denominator = denominator * (other - slot) % PRIME
        weights.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return tuple(weights)


def _secret(value: int) -> bytes:
    if value >= 2 ** (8 * SECRET_BYTES):
        raise BadSharesError("the shares give no 32-byte secret")
    return value.to_bytes(SECRET_BYTES, "big")


def _horner(highest_first: Sequence[int], at: int) -> int:
    # Slots are small, so the value grows by a byte a step: reducing it once is three times faster.
    value = 0
    for coefficient in highest_first:
        value = value * at + coefficient
    return value % PRIME


def _interpolate(points: Mapping[int, int]) -> Polynomial:
    """Newton's form, one point after the other."""
    polynomial: Polynomial = []
    product: Polynomial = [1]
    for at, value in points.items():
        gap = value - _horner(polynomial[::-1], at)
        scale = gap * pow(_horner(product[::-1], at), -1, PRIME) % PRIME
        polynomial = _subtract(polynomial, [-scale * coefficient for coefficient in product])
        product = _multiply(product, [-at, 1])
    return polynomial


def _from_roots(roots: Iterable[int]) -> Polynomial:
    product: Polynomial = [1]
    for root in roots:
        product = _multiply(product, [-root, 1])
    return product


def _subtract(left: Polynomial, right: Polynomial) -> Polynomial:
    length = max(len(left), len(right))
    left = left + [0] * (length - len(left))
    right = right + [0] * (length - len(right))
    return _trim([(a - b) % PRIME for a, b in zip(left, right, strict=True)])


def _multiply(left: Polynomial, right: Polynomial) -> Polynomial:
    product = [0] * max(len(left) + len(right) - 1, 0)
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            product[i + j] += a * b
    return _trim([coefficient % PRIME for coefficient in product])


def _divide(dividend: Polynomial, divisor: Polynomial) -> tuple[Polynomial, Polynomial]:
    """Quotient and remainder."""
    remainder = list(dividend)
    quotient = [0] * max(len(dividend) - len(divisor) + 1, 0)
    inverse = pow(divisor[-1], -1, PRIME)
    for shift in reversed(range(len(quotient))):
        scale = remainder[shift + len(divisor) - 1] * inverse % PRIME
        quotient[shift] = scale
        for i, coefficient in enumerate(divisor):
            remainder[shift + i] = (remainder[shift + i] - scale * coefficient) % PRIME
    return _trim(quotient), _trim(remainder)


def _trim(polynomial: Polynomial) -> Polynomial:
    while polynomial and polynomial[-1] == 0:
        polynomial.pop()
    return polynomial
