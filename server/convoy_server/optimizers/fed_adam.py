"""FedAdam. Source: Reddi et al., "Adaptive federated optimization", ICLR 2021, algorithm 2.

    m <- beta_1 * m + (1 - beta_1) * delta
    v <- beta_2 * v + (1 - beta_2) * delta^2        v starts at tau^2
    x <- x + eta * m / (sqrt(v) + tau)

As in the paper there is no bias correction.
"""

# Shapes: N parameters.

from dataclasses import dataclass

import numpy as np

from convoy_server.optimizers.server_optimizer import Float32Vector, OptimizerState, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAdam:
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
        second_N = second_N + np.float32(1.0 - self.beta_2) * (squared_N - second_N)
        return adaptive_step(model_N, first_N, second_N, self.learning_rate, self.tau)


def first_moment(update_N: Float32Vector, state: OptimizerState, beta_1: float) -> Float32Vector:
    """M after this round."""
    first_N = np.float32(1.0 - beta_1) * update_N
    if "first_moment" in state:
        first_N = first_N + np.float32(beta_1) * state["first_moment"]
    return first_N


def second_moment_of(state: OptimizerState, like_N: Float32Vector, tau: float) -> Float32Vector:
    """V before this round."""
    if "second_moment" in state:
        return state["second_moment"]
    return np.full_like(like_N, np.float32(tau * tau))


def adaptive_step(
    model_N: Float32Vector,
    first_N: Float32Vector,
    second_N: Float32Vector,
    learning_rate: float,
    tau: float,
) -> Step:
    """X and what is remembered; v is never negative."""
    root_N: Float32Vector = np.sqrt(second_N, dtype=np.float32) + np.float32(tau)
    next_N: Float32Vector = model_N + np.float32(learning_rate) * (first_N / root_N)
    return Step(next_N, {"first_moment": first_N, "second_moment": second_N})
