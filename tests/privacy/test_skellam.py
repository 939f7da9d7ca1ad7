"""The noise is what it says: its distribution, its sum, the same for the same key."""

import math

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from convoy_privacy import skellam
from convoy_privacy.skellam import MAX_VARIANCE, MIN_VARIANCE, share_of_variance, skellam_noise

COUNT = 200_000


def key_stream(key_byte=1):
    """Bytes of AES-256-CTR, the next ones at every call."""
    stream = Cipher(algorithms.AES(bytes([key_byte] * 32)), modes.CTR(bytes(16))).encryptor()
    return lambda size: stream.update(bytes(size))


def slow_pmf(variance, k):
    """P(k) by the definition: the difference of two Poisson numbers."""
    mean = variance / 2
    logs = (
        (i + abs(k)) * math.log(mean)
        + i * math.log(mean)
        - math.lgamma(i + abs(k) + 1)
        - math.lgamma(i + 1)
        for i in range(math.ceil(mean + 12 * math.sqrt(mean)) + 40)
    )
    return math.fsum(math.exp(log - 2 * mean) for log in logs)


def chi_square(samples, probability_of):
    """Distance of the samples' counts from the expected ones, in standard deviations of it; for rare values, summed up."""
    values, counts = np.unique(samples, return_counts=True)
    common = [
        (count, len(samples) * probability_of(int(value)))
        for value, count in zip(values, counts, strict=True)
        if len(samples) * probability_of(int(value)) > 20
    ]
    statistic = sum((count - expected) ** 2 / expected for count, expected in common)
    return (statistic - len(common)) / math.sqrt(2 * len(common))


@pytest.mark.parametrize("variance", [1e-6, 0.01, 0.7, 4.0, 37.5, 900.0])
def test_the_table_holds_the_probabilities_of_the_definition(variance):
    cumulative = [int(x) for x in skellam._cumulative_table(variance)]
    middle = len(cumulative) // 2
    weights = np.diff([0, *cumulative, 2**64]).astype(object)
    assert len(weights) == 2 * middle + 1
    for k in range(min(middle, 40) + 1):
        exact = slow_pmf(variance, k) * 2**64
        assert weights[middle + k] == weights[middle - k]  # no bias, to the last bit
        assert float(weights[middle + k]) == pytest.approx(exact, rel=1e-11, abs=1.0)


@pytest.mark.parametrize("variance", [1e-3, 0.5, 10.0, 1e4, 4.1e6, 1e8])
def test_mean_and_variance_are_as_asked(variance):
    noise_P = skellam_noise(variance, COUNT, key_stream())
    assert noise_P.dtype == np.int64
    assert abs(noise_P.mean()) < 4 * math.sqrt(variance / COUNT)
    # The fourth moment of Skellam is 3 v^2 + v.
    spread = math.sqrt((2 * variance**2 + variance) / COUNT)
    assert abs(noise_P.astype(float).var() - variance) < 4 * spread


@pytest.mark.parametrize("variance", [0.5, 10.0, 250.0])
def test_the_numbers_fit_the_distribution(variance):
    noise_P = skellam_noise(variance, COUNT, key_stream())
    assert abs(chi_square(noise_P, lambda k: slow_pmf(variance, k))) < 4


def test_the_sum_of_the_survivors_shares_is_skellam_noise_of_the_wanted_variance():
    share = share_of_variance(12.0, 5)
    shares = [skellam_noise(share, COUNT, key_stream(vehicle)) for vehicle in range(7)]
    assert abs(chi_square(sum(shares[:5]), lambda k: slow_pmf(12.0, k))) < 4
    assert sum(shares).var() == pytest.approx(12.0 * 7 / 5, rel=0.02)  # more survivors, more noise


def test_large_variances_are_sums_of_smaller_ones(monkeypatch):
    monkeypatch.setattr(skellam, "_MAX_TABLE_VARIANCE", 3.0)
    noise_P = skellam_noise(10.0, COUNT, key_stream())
    assert abs(chi_square(noise_P, lambda k: slow_pmf(10.0, k))) < 4


def test_the_same_key_gives_the_same_noise():
    """Whoever masks a second time must add the same noise: the first values are pinned."""
    here = skellam_noise(10.0, 70_000, key_stream())
    np.testing.assert_array_equal(here, skellam_noise(10.0, 70_000, key_stream()))
    assert here[:8].tolist() == [1, 0, 3, -6, 2, -2, 6, -4]
    assert not np.array_equal(here, skellam_noise(10.0, 70_000, key_stream(2)))


def test_neighbouring_numbers_do_not_go_together():
    noise_P = skellam_noise(10.0, COUNT, key_stream()).astype(float)
    correlation = np.corrcoef(noise_P[1:], noise_P[:-1])[0, 1]
    assert abs(correlation) < 4 / math.sqrt(COUNT)


def test_the_ends_of_the_random_numbers_are_the_ends_of_the_table():
    lowest = skellam_noise(10.0, 3, bytes)
    highest = skellam_noise(10.0, 3, lambda size: b"\xff" * size)
    assert (lowest == -highest).all()
    assert 20 < highest[0] < 60


def test_no_numbers_are_asked_for_and_none_come():
    assert skellam_noise(10.0, 0, key_stream()).shape == (0,)


@pytest.mark.parametrize(
    "variance", [0.0, -1.0, math.nan, math.inf, MIN_VARIANCE / 2, MAX_VARIANCE * 2]
)
def test_a_variance_out_of_range_is_refused(variance):
    with pytest.raises(ValueError, match="variance must be in"):
        skellam_noise(variance, 1, key_stream())


def test_a_negative_count_is_refused():
    with pytest.raises(ValueError, match="count must not be negative"):
        skellam_noise(1.0, -1, key_stream())


@pytest.mark.parametrize(
    ("survivors", "colluders", "share"), [(1, 0, 60.0), (20, 0, 3.0), (20, 8, 5.0)]
)
def test_the_fewest_honest_survivors_bring_the_whole_noise(survivors, colluders, share):
    assert share_of_variance(60.0, survivors, colluders=colluders) == pytest.approx(share)


@pytest.mark.parametrize(("survivors", "colluders"), [(0, 0), (5, 5), (5, 9), (5, -1)])
def test_noise_that_nobody_brings_is_refused(survivors, colluders):
    with pytest.raises(ValueError, match="nobody is left"):
        share_of_variance(60.0, survivors, colluders=colluders)
