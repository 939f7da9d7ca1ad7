"""The bounds against divergences computed number by number, and against those of dp-accounting."""

import functools
import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, SampledWithoutReplacementDpEvent
from dp_accounting.rdp import RdpAccountant

from convoy_privacy.renyi_divergence import (
    poisson_sampled,
    sampled_without_replacement,
    skellam_divergence,
)
from convoy_privacy.rounded_sensitivity import Sensitivity

ORDERS = np.arange(2, 33)


def skellam_pmf(variance, reach):
    """P(k) for k = -reach..reach: the convolution of a Poisson distribution with its mirror image."""
    mean = variance / 2
    counts = np.arange(0, 4 * reach)
    logs = counts * math.log(mean) - mean - np.array([math.lgamma(k + 1.0) for k in counts])
    poisson = np.exp(logs)
    both = np.convolve(poisson, poisson[::-1])
    middle = len(poisson) - 1
    return both[middle - reach : middle + reach + 1]


def exact_divergence(p, q, order):
    return math.log(math.fsum(p**order * q ** (1 - order))) / (order - 1)


def shifted(variance, shift):
    """Noise around 0, and around `shift`, over numbers far enough out for both."""
    reach = math.ceil(9 * math.sqrt(variance)) + 12
    pmf = skellam_pmf(variance, reach + shift)
    return pmf[shift:], pmf[: len(pmf) - shift]


@pytest.mark.parametrize("variance", [2.0, 10.0, 100.0])
@pytest.mark.parametrize("shift", [1, 3])
def test_the_bound_of_skellam_noise_is_above_the_divergence_and_close_to_it(variance, shift):
    at_zero, at_shift = shifted(variance, shift)
    for order in range(2, 9):
        exact = exact_divergence(at_zero, at_shift, order)
        bound = float(skellam_divergence(Sensitivity(shift, shift), variance, np.array([order]))[0])
        assert exact <= bound
        assert bound <= exact * (1.0 + 20.0 * order / variance)


def test_much_skellam_noise_is_as_private_as_gaussian_noise():
    sensitivity = Sensitivity(l1=1e6, l2=1e3)
    skellam = skellam_divergence(sensitivity, 1e6, ORDERS)
    np.testing.assert_allclose(skellam, ORDERS / 2.0, rtol=1e-4)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("variance", [2.0, 20.0])
@pytest.mark.parametrize("shift", [1, 4])
def test_neither_direction_of_a_poisson_sampled_round_goes_beyond_the_bound(rate, variance, shift):
    """The direction that the theorem is exact for, and the one that symmetric noise makes the smaller."""
    without, with_vehicle = shifted(variance, shift)
    mixture = (1 - rate) * without + rate * with_vehicle

    def exact(orders):
        return np.array([exact_divergence(with_vehicle, without, int(order)) for order in orders])

    for order in range(2, 7):
        bound = poisson_sampled(exact, rate, order)
        forth = exact_divergence(mixture, without, order)
        back = exact_divergence(without, mixture, order)
        assert forth == pytest.approx(bound, rel=1e-6)
        assert back <= bound * (1 + 1e-9)


def test_the_same_holds_for_two_sums_whose_noises_are_independent():
    rows, columns = shifted(3.0, 1), shifted(8.0, 2)
    without = np.outer(rows[0], columns[0]).ravel()
    with_vehicle = np.outer(rows[1], columns[1]).ravel()
    mixture = 0.7 * without + 0.3 * with_vehicle

    def exact(orders):
        return np.array([exact_divergence(with_vehicle, without, int(order)) for order in orders])

    for order in (2, 3, 5):
        bound = poisson_sampled(exact, 0.3, order)
        assert exact_divergence(mixture, without, order) == pytest.approx(bound, rel=1e-6)
        assert exact_divergence(without, mixture, order) <= bound


def gaussian(noise_multiplier):
    return lambda orders: np.asarray(orders) / (2.0 * noise_multiplier**2)


@pytest.mark.parametrize("rate", [1e-6, 0.01, 0.3])
def test_sampling_never_costs_and_a_rate_of_one_is_no_sampling(rate):
    for sampled in (poisson_sampled, sampled_without_replacement):
        for order in (2, 3, 10, 1024):
            whole = order / 2.0
            assert 0.0 < sampled(gaussian(1.0), rate, order) < whole
            assert sampled(gaussian(1.0), 1.0, order) == pytest.approx(whole)


def test_a_small_rate_keeps_its_digits():
    """To first order: alpha q^2 (e^e(2) - 1) / 2."""
    for rate in (1e-4, 1e-7, 1e-9):
        expected = 5 * rate**2 * math.expm1(1.0) / 2
        assert poisson_sampled(gaussian(1.0), rate, 5) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("rate", [0.01, 0.1])
@pytest.mark.parametrize("noise_multiplier", [0.8, 2.0, 5.0])
def test_sampling_without_replacement_is_no_better_than_dp_accounting_has_it(
    rate, noise_multiplier
):
    """Alike at order 2; above, theirs takes the smaller of two forms, one of which only Gaussian noise has."""
    orders = [2, 3, 4, 8, 16]
    accountant = RdpAccountant(orders, NeighboringRelation.REPLACE_ONE)
    accountant.compose(
        SampledWithoutReplacementDpEvent(
            10000, round(10000 * rate), GaussianDpEvent(noise_multiplier)
        )
    )
    divergence = gaussian(noise_multiplier)
    ours = [sampled_without_replacement(divergence, rate, order) for order in orders]
    theirs = accountant._rdp
    assert (np.array(ours) >= theirs * (1 - 1e-9)).all()
    assert ours[0] == pytest.approx(theirs[0])


def test_divergences_grow_with_the_order():
    mechanism = functools.partial(skellam_divergence, Sensitivity(900.0, 30.0), 900.0)
    for sampled in (poisson_sampled, sampled_without_replacement):
        values = [sampled(mechanism, 0.05, order) for order in range(2, 60)]
        assert all(np.diff(values) > 0)
