"""What every server optimizer offers, and which there are.

An optimizer is a value; what it remembers between rounds is a dict of named vectors that the
checkpoint holds.
"""

# Shapes: N parameters.

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Float32Vector = NDArray[np.float32]
OptimizerState = Mapping[str, Float32Vector]
"""float32, shape (N,), by name; empty before the first step."""


class Step(NamedTuple):
    """What one step makes of a model and a state, both left as they were."""

    model_N: Float32Vector
    state: OptimizerState


class ServerOptimizer(Protocol):
    """Takes the mean update for a negative gradient (Reddi et al., ICLR 2021, algorithm 1)."""

    def step(self, model_N: Float32Vector, update_N: Float32Vector, state: OptimizerState) -> Step:
        """The next global model; all arithmetic is in float32."""
