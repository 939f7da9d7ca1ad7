"""FedAvgM: FedAvg with server momentum. Source: Hsu, Qi & Brown, arXiv:1909.06335 (2019), section 4.3.

v <- beta * v + delta
x <- x + eta * v
"""

# Shapes: N parameters.

from dataclasses import dataclass

import numpy as np

from convoy_server.optimizers.server_optimizer import Float32Vector, OptimizerState, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvgM:
    """Remembers "momentum", v.

    Attributes:
        learning_rate: eta.
        momentum: beta, in [0, 1); 0 is FedAvg.
    """

    learning_rate: float
    momentum: float

    def step(
        self,
        model_N: Float32Vector,
        update_N: Float32Vector,
        state: OptimizerState,
    ) -> Step:
        """The next global model."""
        momentum_N = np.array(update_N, np.float32)
        if "momentum" in state:
            momentum_N += np.float32(self.momentum) * state["momentum"]
        next_N = model_N + np.float32(self.learning_rate) * momentum_N
        return Step(next_N, {"momentum": momentum_N})
