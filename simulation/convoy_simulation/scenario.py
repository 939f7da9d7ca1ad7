"""A scenario: everything about a simulated run in one TOML file.

The file's tables are the dataclasses that stand beside the code they configure; docs/scenario.md is
generated from them. Reading is strict: an unknown key is an error, and every error names the file,
the table and the key. Paths inside the file are relative to the file.
"""

import dataclasses
import difflib
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convoy_compression.update.codec import UpdateConfig
from convoy_driving.data_config import DataConfig
from convoy_driving.models.registry import ModelConfig
from convoy_driving.training import TrainingConfig
from convoy_privacy.privacy_config import PrivacyConfig
from convoy_protos.errors import SettingsError, UsageError
from convoy_protos.settings import from_table
from convoy_server.release.config import ReleaseConfig
from convoy_server.robust.canary import CanaryConfig
from convoy_server.robust.registry import RobustConfig
from convoy_server.rounds import RoundConfig
from convoy_server.run_config import RunConfig
from convoy_simulation.baselines import BaselineConfig
from convoy_simulation.faults import FaultConfig, read_faults
from convoy_simulation.fleet import FleetConfig
from convoy_simulation.roads.closed_loop import ClosedLoopConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """The network between vehicles and server. Nothing is simulated yet: messages take no time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A simulated run.

    Attributes:
        name: What the run is called in its report; without it, the name of the file.
        seed: Everything random follows from it; in 0..2**63-1.
        fleet: Who takes part, and what runs the vehicles.
        data: How recordings become frames and labels.
        model: Which network learns.
        training: How a vehicle trains.
        round: How the server runs its rounds.
        update: How updates travel.
        privacy: What a vehicle does to its update before it leaves.
        aggregation: How the updates of a round become one.
        canary: What a new global model is checked with before it stays.
        baselines: What the fleet's model is compared with.
        release: The vehicle's file and its gates.
        closed_loop: Driving on tracks that nobody trained on.
        network: The network between vehicles and server.
        faults: Which vehicles misbehave, and how.
    """

    name: str = "scenario"
    seed: int = 0
    fleet: FleetConfig = field(default_factory=FleetConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    round: RoundConfig = field(default_factory=RoundConfig)
    update: UpdateConfig = field(default_factory=UpdateConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    aggregation: RobustConfig = field(default_factory=RobustConfig)
    canary: CanaryConfig = field(default_factory=CanaryConfig)
    baselines: BaselineConfig = field(default_factory=BaselineConfig)
    release: ReleaseConfig = field(default_factory=ReleaseConfig)
    closed_loop: ClosedLoopConfig = field(default_factory=ClosedLoopConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    faults: FaultConfig = field(default_factory=FaultConfig)

    def __post_init__(self) -> None:
        run_config(self)
        units, helpers = self.fleet.roadside_units, self.update.helpers
        if 0 < units < helpers or (units and not helpers):
            raise ValueError(
                f"[fleet] roadside_units = {units} and [update] helpers = {helpers}: name at least as "
                "many units as helpers, or leave roadside_units out"
            )

    def with_overrides(self, *, rounds: int | None = None, seed: int | None = None) -> "Scenario":
        """What the command line says instead; None leaves the file's word.

        Fewer rounds than `averaged_rounds` average all of them.

        Raises:
            SettingsError: The value is out of range.
        """
        changed = self
        try:
            if seed is not None:
                changed = dataclasses.replace(changed, seed=seed)
            if rounds is not None:
                averaged = min(self.round.averaged_rounds, max(rounds, 0))
                changed = dataclasses.replace(
                    changed,
                    round=dataclasses.replace(self.round, rounds=rounds, averaged_rounds=averaged),
                )
        except ValueError as error:
            raise SettingsError(f"command line: {error}") from error
        return changed


def run_config(scenario: Scenario) -> RunConfig:
    """The part of a scenario that the server needs.

    Raises:
        ValueError: Name or seed are out of range.
    """
    return RunConfig(
        name=scenario.name,
        seed=scenario.seed,
        data=scenario.data,
        model=scenario.model,
        training=scenario.training,
        round=scenario.round,
        update=scenario.update,
        privacy=scenario.privacy,
        aggregation=scenario.aggregation,
        canary=scenario.canary,
        release=scenario.release,
    )


def load_scenario(path: Path) -> Scenario:
    """Read a scenario file.

    Raises:
        UsageError: It cannot be read or is no TOML; or a SettingsError that names table and key.
    """
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; name a scenario file (TOML)") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no valid TOML: {error}") from error
    return scenario_from_table({"name": path.stem} | table, str(path), path.parent)


def scenario_from_table(table: Mapping[str, Any], where: str, folder: Path) -> Scenario:
    """Build a scenario from a parsed file.

    Args:
        table: The parsed file.
        where: What to call it in errors.
        folder: What relative paths are relative to.

    Raises:
        SettingsError: Names the table, the key and what is expected.
    """
    kinds = typing.get_type_hints(Scenario)
    values: dict[str, Any] = {}
    top: dict[str, Any] = {}
    for key, value in table.items():
        if not dataclasses.is_dataclass(kinds.get(key)):
            top[key] = value
        elif not isinstance(value, Mapping):
            raise SettingsError(f"{where}: {key}: expected a table [{key}], got {value!r}")
        elif key == "faults":
            values[key] = _read_faults(value, where)
        else:
            values[key] = from_table(kinds[key], value, f"{where}: [{key}]")
    _refuse_unknown(top, where)
    scenario = from_table(Scenario, top, f"{where}: top level")
    try:
        scenario = dataclasses.replace(scenario, **values)
    except ValueError as error:  # each table is fine by itself, but they do not go together
        raise SettingsError(f"{where}: {error}") from error
    return _resolve_paths(scenario, folder.resolve())


def _read_faults(table: Mapping[str, Any], where: str) -> FaultConfig:
    try:
        return read_faults(table)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from error


def _refuse_unknown(top: Mapping[str, Any], where: str) -> None:
    """Unlike `from_table`, an unknown table is shown as one."""
    known = [item.name for item in dataclasses.fields(Scenario)]
    for key in top:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise SettingsError(f"{where}: unknown key {key!r}; {hint}")


def _resolve_paths(scenario: Scenario, folder: Path) -> Scenario:
    """Make the paths that a file may name absolute."""
    checkpoint = scenario.training.initial_checkpoint
    messages = scenario.data.ros_message_folder
    return dataclasses.replace(
        scenario,
        data=dataclasses.replace(
            scenario.data, ros_message_folder=str(folder / messages) if messages else ""
        ),
        training=dataclasses.replace(
            scenario.training,
            initial_checkpoint=None if checkpoint is None else str(folder / checkpoint),
        ),
        release=dataclasses.replace(
            scenario.release, proxy=tuple(str(folder / path) for path in scenario.release.proxy)
        ),
        canary=dataclasses.replace(
            scenario.canary,
            recordings=tuple(str(folder / path) for path in scenario.canary.recordings),
        ),
    )
