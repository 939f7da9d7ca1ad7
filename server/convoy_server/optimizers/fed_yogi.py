"""FedYogi. Source: Reddi et al., "Adaptive federated optimization", ICLR 2021, algorithm 2.

    m <- beta_1 * m + (1 - beta_1) * delta
    v <- v - (1 - beta_2) * delta^2 * sign(v - delta^2)        v starts at tau^2
    x <- x + eta * m / (sqrt(v) + tau)

v moves by at most (1 - beta_2) * delta^2 a round: a quiet round does not make the next one leap, as
it does with FedAdam.
"""

# Shapes: N parameters.

from dataclasses import dataclass

import numpy as np

from convoy_server.optimizers.fed_adam import adaptive_step, first_moment, second_moment_of
from convoy_server.optimizers.server_optimizer import Float32Vector, OptimizerState, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class FedYogi:
    """Remembers "first_moment", m, and "second_moment", v.

    Attributes:
        learning_rate: eta.
        beta_1: Decay of m, in [0, 1).
        beta_2: Decay of v, in [0, 1).
        tau: Degree of adaptivity, positive; small is very adaptive.
    """

    learning_rate: float
    beta_1: float
    beta_2: float
    tau: float

    def step(self, model_N: Float32Vector, update_N: Float32Vector, state: OptimizerState) -> Step:
        """The next global model."""
        first_N = first_moment(update_N, state, self.beta_1)
        squared_N = np.square(update_N)
        second_N = second_moment_of(state, update_N, self.tau)
        # v >= 0 stays: where v > delta^2, v - (1 - beta_2) delta^2 >= beta_2 v.
        change_N = np.float32(1.0 - self.beta_2) * squared_N * np.sign(second_N - squared_N)
        return adaptive_step(model_N, first_N, second_N - change_N, self.learning_rate, self.tau)
