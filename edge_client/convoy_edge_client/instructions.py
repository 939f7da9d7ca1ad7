"""The round instructions as this vehicle understands them: parsed strictly, checked against itself.

The server is trusted to choose hyper-parameters, not to reach into the vehicle: paths, devices and
permissions come from the vehicle's own configuration.
"""

# Shapes: N parameters.

import functools
import hashlib
import json
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from convoy_compression.update.codec import UpdateConfig
from convoy_driving.data_config import DataConfig
from convoy_driving.models.registry import ModelConfig
from convoy_driving.parameters import ParameterSchema
from convoy_driving.training import TrainingConfig
from convoy_edge_client.errors import RefusedInstructionsError
from convoy_privacy.privacy_config import PrivacyConfig
from convoy_protos.errors import SettingsError
from convoy_protos.settings import from_table
from convoy_protos.v1.federation_pb2 import RoundInstructions


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSettings:
    """The tables of `RoundInstructions.settings_json`."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    update: UpdateConfig = field(default_factory=UpdateConfig)


@functools.lru_cache(maxsize=4)
def read_settings(settings_json: str) -> RoundSettings:
    """Parse the tables; a whole cohort gets the same text, which one process then parses once.

    Raises:
        SettingsError: Not JSON, or a key or value that this version does not know.
    """
    try:
        tables = json.loads(settings_json)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"round instructions: settings are not JSON: {error}") from error
    if not isinstance(tables, dict):
        raise SettingsError("round instructions: settings are not a JSON object")
    return from_table(RoundSettings, tables, "round instructions")


def check_digest(model_N: NDArray[np.float32], instructions: RoundInstructions) -> None:
    """Refuse a global model that was damaged on the way.

    Raises:
        RefusedInstructionsError: It does not have the digest announced for it.
    """
    if model_digest(model_N) != instructions.model_digest:
        raise RefusedInstructionsError("the global model does not have the digest announced for it")


def check_schema(
    instructions: RoundInstructions, model_N: NDArray[np.float32], schema: ParameterSchema
) -> None:
    """Refuse a global model that does not fit the network.

    Raises:
        RefusedInstructionsError: The schema or the length differs.
    """
    if schema.digest != instructions.schema_digest:
        raise RefusedInstructionsError(
            "the network built here has other parameters than the server's: "
            "install the same version of convoy on both"
        )
    if model_N.size != schema.parameter_count:
        raise RefusedInstructionsError(
            f"the network has {schema.parameter_count} parameters, the global model {model_N.size}"
        )


def model_digest(model_N: NDArray[np.float32]) -> bytes:
    """SHA-256 of the parameters as they travel: float32, little-endian."""
    received = model_N.base
    if isinstance(received, bytes) and len(received) == model_N.nbytes:
        return _digest_of_bytes(received)
    return hashlib.sha256(model_N.data).digest()


@functools.lru_cache(maxsize=1)
def _digest_of_bytes(received: bytes) -> bytes:
    """Computed once for the clients of one process, which all view the same bytes."""
    return hashlib.sha256(received).digest()
