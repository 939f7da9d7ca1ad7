"""The clients' learning rate over the rounds."""

import pytest

from convoy_server.rounds import RoundConfig
from convoy_server.schedule import learning_rate_factor


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.8, 0.6, 0.4, 0.2]),
        ("cosine", [1.0, 0.2 + 0.8 * 0.853553, 0.6, 0.2 + 0.8 * 0.146447, 0.2]),
    ],
)
def test_the_rate_falls_from_one_to_the_end_share(schedule, factors):
    config = RoundConfig(
        rounds=5, client_learning_rate_schedule=schedule, client_learning_rate_end=0.2
    )
    assert [learning_rate_factor(number, config) for number in range(1, 6)] == pytest.approx(
        factors
    )


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_a_run_of_one_round_trains_at_the_full_rate(schedule):
    config = RoundConfig(rounds=1, client_learning_rate_schedule=schedule)
    assert learning_rate_factor(1, config) == 1.0
