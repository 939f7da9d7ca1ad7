"""What a finished federated run hands on: to the release, the report, the caller."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convoy_driving.parameters import ParameterSchema
from convoy_server.round_log import RoundRecord, VehicleScore


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationResult:
    """The outcome of all rounds.

    Attributes:
        model_N: The final global model, float32, shape (N,).
        schema: Names and shapes of its parameters.
        records: One a round, the first round first.
        per_vehicle: The last scores of every vehicle that was ever scored, by vehicle id.
        vehicles: Training examples by vehicle id, as the vehicles declared them.
        snapshots: The last release.teachers global models, oldest first; the last one is model_N
            unless the final model is a mean of several.
        members: Models of the last round's shards, or of single vehicles; see release.ensemble.
    """

    model_N: NDArray[np.float32]
    schema: ParameterSchema
    records: tuple[RoundRecord, ...]
    per_vehicle: Mapping[str, VehicleScore]
    vehicles: Mapping[str, int]
    snapshots: tuple[NDArray[np.float32], ...]
    members: tuple[NDArray[np.float32], ...] = ()
