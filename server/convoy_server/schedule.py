"""How the clients' learning rate falls over the rounds.

Source of the cosine: Loshchilov & Hutter, ICLR 2017, equation 5, without restarts.
"""

import math

from convoy_server.rounds import RoundConfig


def learning_rate_factor(round_number: int, config: RoundConfig) -> float:
    """What training.learning_rate is multiplied by: 1 in round 1, the end share in the last."""
    progress = (round_number - 1) / max(1, config.rounds - 1)
    end = config.client_learning_rate_end
    if config.client_learning_rate_schedule == "linear":
        return 1.0 + (end - 1.0) * progress
    if config.client_learning_rate_schedule == "cosine":
        return end + (1.0 - end) * (1.0 + math.cos(math.pi * progress)) / 2.0
    return 1.0
