"""The step that leaves room for the noise, and what a round does to the account."""

import pytest

from convoy_compression.update.range_control import first_sigma
from convoy_privacy.dp_accountant import PrivacySpent, Sampling, spend
from convoy_privacy.privacy_config import PrivacyConfig
from convoy_privacy.secure_sum.terms import uploads_needed
from convoy_protos.errors import UsageError
from convoy_server.noise import NoisePlan
from convoy_server.rounds import RoundConfig

PADDED = 4096


def a_plan(bits=16, **privacy):
    config = PrivacyConfig(**({"clip_norm": 1.0, "noise_multiplier": 1.0} | privacy))
    return NoisePlan(config, PADDED, bits)


def facts(plan, rate=0.1, **rounds):
    step = plan.step(10, 3)
    return plan.facts(step, survivors=8, needed=7, rounds=RoundConfig(**rounds), rate=rate)


def test_a_step_leaves_room_for_signal_and_noise():
    plan = a_plan()
    step = plan.step(10, 3)
    signal = 10 * first_sigma(1.0, PADDED) / step
    noise_variance = plan.variance(step) * 10 / uploads_needed(10, 3)
    assert 4.0 * (signal**2 + noise_variance) ** 0.5 < 2**15


@pytest.mark.parametrize(
    ("bits", "parameters"),
    [
        (3, 1000),  # does not settle
        (4, 325_880),  # grows beyond every number
        (2, 2**20),
    ],
)
def test_where_there_is_no_room_the_way_out_is_told(bits, parameters):
    plan = NoisePlan(PrivacyConfig(clip_norm=1.0, noise_multiplier=1.0), parameters, bits)
    with pytest.raises(UsageError, match=rf"modulus_bits: {bits} bits have no room"):
        plan.step(6, 3)


@pytest.mark.parametrize(
    ("secret", "rate", "sampling", "claimed"),
    [
        (False, 0.1, "poisson", Sampling.EVERYBODY),  # the seed stands in the report
        (True, 0.1, "poisson", Sampling.POISSON),
        (True, 0.1, "fixed", Sampling.WITHOUT_REPLACEMENT),
        (True, 1.0, "poisson", Sampling.EVERYBODY),  # there is nothing to sample
    ],
)
def test_sampling_helps_only_where_nobody_knows_the_draw(secret, rate, sampling, claimed):
    told = facts(a_plan(secret_sampling=secret), rate, sampling=sampling)
    assert told.sampling is claimed
    assert told.rate == (1.0 if claimed is Sampling.EVERYBODY else rate)


def test_a_budget_is_kept_and_without_one_every_round_is_affordable():
    free, bounded = a_plan(), a_plan(epsilon_budget=1e-3)
    assert free.affords(PrivacySpent(), facts(free))
    assert not bounded.affords(PrivacySpent(), facts(bounded))


def test_an_account_that_supports_no_epsilon_states_none():
    plan = a_plan()
    fine = facts(plan)
    short = plan.facts(plan.step(10, 3), survivors=6, needed=7, rounds=RoundConfig(), rate=1.0)
    assert plan.epsilon(spend(PrivacySpent(), fine)) > 0.0
    assert plan.epsilon(spend(PrivacySpent(), short)) is None


def test_a_count_of_clipped_updates_takes_its_part_of_the_noise():
    still, moving = a_plan(), a_plan(clip_quantile=0.5, clip_count_stddev=2.0)
    step = still.step(10, 3)

    assert (still.count_variance, moving.count_variance) == (0.0, 4.0)
    assert moving.variance(step) / still.variance(step) == pytest.approx(1 / (1 - 1 / 4))
    assert facts(still).count_noise_variance is None
    assert facts(moving).count_noise_variance == 4.0
    spent = [plan.epsilon(spend(PrivacySpent(), facts(plan))) for plan in (still, moving)]
    # Skellam noise of variance 4 hides a bit less than Gaussian noise of the same.
    assert spent[0] < spent[1] < 1.05 * spent[0]


def test_the_noise_follows_the_bound():
    wide, narrow = a_plan(clip_norm=4.0), a_plan(clip_norm=1.0)
    step = narrow.step(10, 3)
    assert wide.step(10, 3) == pytest.approx(4.0 * step, rel=1e-3)
    assert wide.variance(4.0 * step) == pytest.approx(narrow.variance(step))
