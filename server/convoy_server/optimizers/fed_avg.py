"""FedAvg. Source: McMahan et al., AISTATS 2017, algorithm 1.

The server learning rate: Reddi et al., ICLR 2021, algorithm 1 with SGD.

    x <- x + eta * delta
"""

# Shapes: N parameters.

from dataclasses import dataclass

import numpy as np

from convoy_server.optimizers.server_optimizer import Float32Vector, OptimizerState, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvg:
    """Remembers nothing.

    Attributes:
        learning_rate: eta; 1 replaces the model by the weighted mean of the clients' models.
    """

    learning_rate: float

    def step(
        self,
        model_N: Float32Vector,
        update_N: Float32Vector,
        state: OptimizerState,
    ) -> Step:
        """The next global model."""
        return Step(model_N + np.float32(self.learning_rate) * update_N, state)
