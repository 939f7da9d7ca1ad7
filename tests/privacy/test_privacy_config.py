"""Section [privacy]: off by default, and a mistake is refused by the name of its key."""

import math

import pytest

from convoy_privacy.privacy_config import PrivacyConfig
from convoy_protos.settings import from_table, to_table

EVERYTHING = {
    "clip_norm": 2.0,
    "clip_learning_rate": 0.1,
    "clip_quantile": 0.5,
    "clip_count_stddev": 4.0,
    "secret_sampling": True,
    "noise_multiplier": 1.1,
    "delta": 1e-6,
    "epsilon_budget": 3.0,
}


def test_by_default_nothing_is_clipped_and_no_noise_is_added():
    config = PrivacyConfig()
    assert config.clip_norm is None
    assert config.clip_quantile is None
    assert config.noise_multiplier is None
    assert config.epsilon_budget is None


def test_a_table_becomes_the_settings_and_back():
    config = from_table(PrivacyConfig, EVERYTHING, "[privacy]")
    assert to_table(config) == EVERYTHING
    assert from_table(PrivacyConfig, to_table(PrivacyConfig()), "[privacy]") == PrivacyConfig()


@pytest.mark.parametrize(
    "name",
    ["clip_norm", "clip_learning_rate", "clip_count_stddev", "noise_multiplier", "epsilon_budget"],
)
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_what_must_be_positive_and_finite_is(name, value):
    with pytest.raises(ValueError, match=f"{name} must be positive and finite"):
        PrivacyConfig(**(EVERYTHING | {name: value}))


@pytest.mark.parametrize("name", ["clip_quantile", "delta"])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, math.nan])
def test_shares_lie_strictly_between_nothing_and_all(name, value):
    with pytest.raises(ValueError, match=f"{name} must be above 0 and below 1"):
        PrivacyConfig(**(EVERYTHING | {name: value}))


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"clip_quantile": 0.5}, "clip_quantile needs clip_norm"),
        ({"noise_multiplier": 1.0}, "noise_multiplier needs clip_norm"),
        # A count of clipped updates with so little noise tells more than the whole round may.
        (
            {
                "clip_norm": 1.0,
                "noise_multiplier": 1.0,
                "clip_quantile": 0.5,
                "clip_count_stddev": 1.0,
            },
            r"clip_count_stddev must be above noise_multiplier \(1\)",
        ),
        ({"clip_norm": 1.0, "epsilon_budget": 3.0}, "epsilon_budget needs noise_multiplier"),
    ],
)
def test_a_setting_without_what_it_stands_on_is_refused(settings, error):
    with pytest.raises(ValueError, match=error):
        PrivacyConfig(**settings)
