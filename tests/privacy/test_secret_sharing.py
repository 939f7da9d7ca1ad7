"""Any t shares give the secret, fewer give nothing, and wrong ones are found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_sum import fixed_random

from convoy_privacy.errors import BadSharesError
from convoy_privacy.secret_sharing import (
    PRIME,
    SHARE_BYTES,
    check_share,
    rebuild,
    rebuild_despite_errors,
    split,
    wrong_shares,
)

SECRET = bytes(range(32))


def shares_of(secret, threshold, holders, label="split"):
    slots = range(1, holders + 1)
    return dict(zip(slots, split(secret, threshold, slots, fixed_random(label)), strict=True))


@given(st.data(), st.integers(1, 30), st.binary(min_size=32, max_size=32))
def test_any_t_shares_give_the_secret_and_fewer_do_not(data, holders, secret):
    threshold = data.draw(st.integers(1, holders))
    shares = shares_of(secret, threshold, holders)
    slots = data.draw(st.permutations(range(1, holders + 1)))
    assert rebuild({slot: shares[slot] for slot in slots[:threshold]}) == secret
    if threshold > 1:
        assert rebuilt({slot: shares[slot] for slot in slots[: threshold - 1]}) != secret


def rebuilt(shares):
    try:
        return rebuild(shares)
    except BadSharesError:
        return None


def test_below_the_threshold_every_secret_is_as_likely():
    """For t - 1 shares and any other secret there is a polynomial through both."""
    shares = shares_of(SECRET, 3, 5)
    for other in (bytes(32), bytes([255]) * 32):
        # The share of slot 3 that would make slots 1 and 2 belong to the other secret.
        points = {1: shares[1], 2: shares[2]}
        value = lagrange_at(
            3,
            {0: int.from_bytes(other, "big")}
            | {s: int.from_bytes(v, "big") for s, v in points.items()},
        )
        assert rebuild(points | {3: value.to_bytes(SHARE_BYTES, "big")}) == other


def lagrange_at(x, points):
    """The slow obvious way."""
    total = 0
    for a, value in points.items():
        term = value
        for b in points:
            if b != a:
                term = term * (x - b) * pow(a - b, -1, PRIME) % PRIME
        total += term
    return total % PRIME


def test_the_prime_is_prime():
    # Fermat to 40 bases; a composite of this form would have to be made for it.
    assert PRIME == 2**256 + 297
    assert all(pow(base, PRIME - 1, PRIME) == 1 for base in range(2, 42))


def test_the_largest_secret_survives():
    shares = shares_of(bytes([255]) * 32, 2, 3)
    assert rebuild({1: shares[1], 3: shares[3]}) == bytes([255]) * 32


@given(st.data(), st.integers(1, 20))
def test_wrong_shares_up_to_half_of_the_surplus_are_found(data, threshold):
    holders = data.draw(st.integers(threshold, threshold + 8))
    shares = shares_of(SECRET, threshold, holders)
    most = (holders - threshold) // 2
    wrong = data.draw(st.sets(st.integers(1, holders), max_size=most))
    for slot in wrong:
        value = data.draw(st.integers(0, PRIME - 1))
        shares[slot] = (
            (int.from_bytes(shares[slot], "big") + value % (PRIME - 1) + 1) % PRIME
        ).to_bytes(SHARE_BYTES, "big")
    assert rebuild_despite_errors(shares, threshold) == (SECRET, wrong)
    right = {slot: share for slot, share in shares.items() if slot not in wrong}
    assert wrong_shares(shares, dict(list(right.items())[:threshold])) == wrong


def test_too_many_wrong_shares_are_refused():
    shares = shares_of(SECRET, 3, 5)
    shares |= {1: bytes(33), 2: bytes(33)}
    with pytest.raises(BadSharesError):
        rebuild_despite_errors(shares, 3)


def test_right_shares_of_a_larger_threshold_are_refused():
    with pytest.raises(BadSharesError):
        rebuild_despite_errors(shares_of(SECRET, 4, 5), 3)


def test_shares_of_the_secret_zero_are_decoded():
    shares = shares_of(bytes(32), 1, 3)
    assert rebuild_despite_errors(shares, 1) == (bytes(32), set())


@pytest.mark.parametrize(
    "share",
    [
        b"",
        bytes(32),
        bytes(34),
        PRIME.to_bytes(33, "big"),  # the same number as 0
        bytes([255]) * 33,
    ],
)
def test_what_cannot_be_a_share_is_refused(share):
    with pytest.raises(BadSharesError):
        check_share(share)


def test_a_value_beyond_32_bytes_is_no_secret():
    with pytest.raises(BadSharesError):
        rebuild({1: (2**256).to_bytes(33, "big")})


@pytest.mark.parametrize(("secret", "threshold"), [(bytes(31), 2), (bytes(33), 2), (bytes(32), 0)])
def test_our_own_misuse_is_a_value_error(secret, threshold):
    with pytest.raises(ValueError, match="need 32 bytes"):
        split(secret, threshold, range(1, 4), fixed_random("misuse"))
