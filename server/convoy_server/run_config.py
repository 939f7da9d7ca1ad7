"""All settings of one federated run; the part of a scenario that the server needs.

Travels as one JSON text in Flower's run configuration under "convoy-run".
"""

import json
from dataclasses import dataclass, field
from typing import Any, Final

from convoy_compression.update.codec import UpdateConfig
from convoy_driving.data_config import DataConfig
from convoy_driving.models.registry import ModelConfig
from convoy_driving.training import TrainingConfig
from convoy_privacy.privacy_config import PrivacyConfig
from convoy_protos.errors import SettingsError
from convoy_protos.settings import from_table, to_table
from convoy_server.release.config import ReleaseConfig
from convoy_server.robust.canary import CanaryConfig
from convoy_server.robust.registry import RobustConfig
from convoy_server.rounds import RoundConfig

RUN_KEY: Final = "convoy-run"
"""Key in Flower's run configuration: this configuration as JSON."""
OUT_KEY: Final = "convoy-out"
"""Key in Flower's run configuration: the run directory."""
RESUME_KEY: Final = "convoy-resume"
"""Key in Flower's run configuration: true to go on from the last finished round."""
KEYS_KEY: Final = "convoy-keys"
"""Key in Flower's run configuration: folder with the aggregator's keys, as `convoy fleet add` makes it."""
OVERWRITE_KEY: Final = "convoy-overwrite"
"""Key in Flower's run configuration: true to delete the run that the directory holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One federated run.

    Attributes:
        name: What the run is called in the report.
        seed: Everything random follows from it; in 0..2**63-1.
        data: Section [data].
        model: Section [model].
        training: Section [training].
        round: Section [round].
        update: Section [update].
        privacy: Section [privacy].
        aggregation: Section [aggregation].
        canary: Section [canary].
        release: Section [release].
    """

    name: str = "run"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    round: RoundConfig = field(default_factory=RoundConfig)
    update: UpdateConfig = field(default_factory=UpdateConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    aggregation: RobustConfig = field(default_factory=RobustConfig)
    canary: CanaryConfig = field(default_factory=CanaryConfig)
    release: ReleaseConfig = field(default_factory=ReleaseConfig)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name must not be empty")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in 0..2**63-1, got {self.seed}")
        if self.privacy.noise_multiplier is not None and self.update.codec != "masked":
            raise ValueError(
                f"noise_multiplier needs codec masked, got {self.update.codec}: vehicles share the "
                "noise, and who sees one update sees little of it"
            )


def run_config_to_json(run: RunConfig) -> str:
    """One line of JSON; the same run gives the same text."""
    return json.dumps(to_table(run), sort_keys=True, allow_nan=False)


def run_config_from_json(text: str) -> RunConfig:
    """The inverse of `run_config_to_json`.

    Raises:
        SettingsError: Not JSON, or a setting is unknown or out of range.
    """
    try:
        table: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{RUN_KEY}: not JSON: {error}") from error
    if not isinstance(table, dict):
        raise SettingsError(f"{RUN_KEY}: expected an object, got {table!r}")
    return from_table(RunConfig, table, RUN_KEY)
