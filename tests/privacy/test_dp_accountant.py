"""Epsilon against dp-accounting's own, and the refusal to state one that nothing supports."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from convoy_privacy.dp_accountant import (
    ORDERS,
    PrivacySpent,
    RoundFacts,
    Sampling,
    allows_another_round,
    epsilon,
    round_divergences,
    spend,
)
from convoy_privacy.errors import NoEpsilonError
from convoy_privacy.rounded_sensitivity import Sensitivity, rounded_sensitivity
from convoy_protos.errors import UsageError
from convoy_protos.settings import from_table, to_table

DELTA = 1e-5


def facts(noise_multiplier=1.0, **changes):
    """A fine step: Skellam noise is then as good as Gaussian noise."""
    bound = Sensitivity(l1=1e6, l2=1e3)
    usual = RoundFacts(
        sensitivity=bound,
        noise_variance=bound.noise_variance(noise_multiplier),
        survivors=100,
        minimum_survivors=67,
        sampling=Sampling.POISSON,
        rate=0.01,
    )
    return dataclasses.replace(usual, **changes)


def after(rounds, each):
    spent = PrivacySpent()
    for _ in range(rounds):
        spent = spend(spent, each)
    return spent


def gaussian_epsilon(accountant, rate, noise_multiplier, rounds, delta=DELTA):
    event = PoissonSampledDpEvent(rate, GaussianDpEvent(noise_multiplier))
    return accountant.compose(SelfComposedDpEvent(event, rounds)).get_epsilon(delta)


@pytest.mark.parametrize(
    ("rate", "noise_multiplier", "rounds"),
    [(0.01, 1.0, 200), (0.1, 2.0, 100), (0.5, 3.0, 20), (1.0, 5.0, 10), (0.001, 0.7, 50)],
)
def test_with_much_noise_epsilon_is_that_of_the_gaussian_mechanism(rate, noise_multiplier, rounds):
    ours = epsilon(after(rounds, facts(noise_multiplier, rate=rate)), DELTA)
    same_orders = gaussian_epsilon(RdpAccountant(ORDERS), rate, noise_multiplier, rounds)
    assert ours == pytest.approx(same_orders, rel=0.01)


def test_the_published_figure_is_an_upper_bound_within_its_own_kind():
    """200 rounds, multiplier 1, 100 of 10,000: 0.78 by the (Gaussian) loss distribution, 1.16 by Renyi orders."""
    delta = 10_000**-1.1
    ours = epsilon(after(200, facts()), delta)
    tight = gaussian_epsilon(PLDAccountant(), 0.01, 1.0, 200, delta)
    assert tight == pytest.approx(0.78, abs=0.01)
    assert tight < ours < 1.25


def test_without_sampling_epsilon_is_that_of_everybody_taking_part():
    everybody = facts(2.0, sampling=Sampling.EVERYBODY, rate=1.0)
    expected = gaussian_epsilon(RdpAccountant(ORDERS), 1.0, 2.0, 5)
    assert epsilon(after(5, everybody), DELTA) == pytest.approx(expected, rel=0.01)
    poisson = facts(2.0, rate=1.0)
    assert epsilon(after(5, poisson), DELTA) == pytest.approx(expected, rel=0.01)


def test_a_fixed_size_draw_helps_less_than_poisson_sampling():
    fixed = epsilon(after(50, facts(4.0, sampling=Sampling.WITHOUT_REPLACEMENT)), DELTA)
    poisson = epsilon(after(50, facts(4.0)), DELTA)
    everybody = epsilon(after(50, facts(4.0, sampling=Sampling.EVERYBODY)), DELTA)
    assert poisson < fixed < everybody


def test_a_coarse_step_costs_privacy_and_the_account_says_so():
    fine, coarse = rounded_sensitivity(1.0, 1e-5, 4096), rounded_sensitivity(1.0, 0.5, 4096)

    def spent(bound):
        noise_variance = (1.0 / bound_step[bound]) ** 2  # one clip norm, in steps
        return epsilon(after(10, facts(sensitivity=bound, noise_variance=noise_variance)), DELTA)

    bound_step = {fine: 1e-5, coarse: 0.5}
    assert spent(coarse) > 2 * spent(fine)


def test_the_count_of_clipped_updates_is_accounted_for():
    """Two noised sums with 1/a^2 + 1/b^2 = 1 are one with multiplier 1."""
    part = facts(1.25, count_noise_variance=(1.0 / 0.6) ** 2)
    # The count's noise is small numbers: Skellam is a little worse than Gaussian there.
    assert epsilon(after(20, facts()), DELTA) < epsilon(after(20, part), DELTA)
    much = facts(1e6, count_noise_variance=1e8)
    assert epsilon(after(20, much), DELTA) < 0.01


@settings(max_examples=20, deadline=None)
@given(
    st.floats(0.3, 20.0),
    st.floats(1e-4, 1.0),
    st.sampled_from([s for s in Sampling if s is not Sampling.UNKNOWN]),
)
def test_rounds_add_up_and_never_give_back(noise_multiplier, rate, sampling):
    each = facts(noise_multiplier, rate=rate, sampling=sampling)
    values = [epsilon(after(rounds, each), DELTA) for rounds in range(4)]
    assert values[0] == 0.0
    assert values == sorted(values)
    once = after(1, each).divergences
    np.testing.assert_allclose(after(3, each).divergences, 3 * np.array(once), rtol=1e-12)
    assert epsilon(after(2, each), 1e-7) >= values[2]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"sensitivity": None}, "not clipped"),
        ({"noise_variance": 0.0}, "the sum carried no noise"),
        ({"noise_variance": float("nan")}, "the sum carried no noise"),
        (
            {"survivors": 66},
            "66 vehicles brought their part of the noise, reckoned for at least 67",
        ),
        ({"sampling": Sampling.UNKNOWN}, "how the vehicles were chosen is not known"),
        ({"count_noise_variance": 0.0}, "count of clipped updates carried no noise"),
        ({"exact_sums": ("weight", "loss_sum")}, "published without noise: weight, loss_sum"),
    ],
)
def test_an_epsilon_that_nothing_supports_is_refused_for_good(changes, why):
    unsupported = facts(**changes)
    with pytest.raises(NoEpsilonError, match=why):
        round_divergences(unsupported)
    spent = spend(after(2, facts()), unsupported)
    for later in (spent, spend(spent, facts())):
        with pytest.raises(NoEpsilonError, match=f"round 3: .*{why}"):
            epsilon(later, DELTA)
        with pytest.raises(NoEpsilonError, match=f"round 3: .*{why}"):
            allows_another_round(later, facts(), DELTA, 8.0)
    assert spend(spent, facts()).rounds == 4


def test_a_run_keeps_to_one_way_of_sampling():
    """Neighbours by zeros and neighbours by replacement do not add up."""
    spent = spend(after(1, facts()), facts(sampling=Sampling.WITHOUT_REPLACEMENT))
    with pytest.raises(NoEpsilonError, match="the way of sampling changed"):
        epsilon(spent, DELTA)
    assert epsilon(spend(after(1, facts()), facts(sampling=Sampling.EVERYBODY)), DELTA) > 0.0


def test_a_run_with_a_budget_stops_before_it_is_exceeded():
    each, budget = facts(1.5, rate=0.05), 2.0
    spent = PrivacySpent()
    while allows_another_round(spent, each, DELTA, budget):
        spent = spend(spent, each)
    assert spent.rounds > 3
    assert epsilon(spent, DELTA) <= budget < epsilon(spend(spent, each), DELTA)


def test_a_round_with_more_clipping_or_noise_costs_less():
    loose = epsilon(after(5, facts(0.9)), DELTA)
    assert epsilon(after(5, facts(1.1)), DELTA) < loose
    assert epsilon(after(5, facts(0.9, sensitivity=Sensitivity(5e5, 5e2))), DELTA) < loose


def test_the_account_survives_a_checkpoint():
    spent = after(3, facts())
    table = json.loads(json.dumps(to_table(spent)))
    assert from_table(PrivacySpent, table, "privacy") == spent


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, float("nan")])
def test_a_delta_out_of_range_is_refused(delta):
    with pytest.raises(ValueError, match="delta must be"):
        epsilon(after(1, facts()), delta)


@pytest.mark.parametrize("rate", [0.0, 1.1, float("nan")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match="rate must be"):
        facts(rate=rate)


def test_without_dp_accounting_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting.rdp", None)
    spent = after(1, facts())
    with pytest.raises(UsageError, match=r"pip install 'convoy-fl\[privacy\]'"):
        epsilon(spent, DELTA)
