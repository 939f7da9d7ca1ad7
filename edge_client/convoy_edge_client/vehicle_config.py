"""What one vehicle knows about itself: who it is, where its recordings are, what it allows.

A JSON file on the vehicle, written by hand or by the simulation. The server never sees it and
cannot widen it: what is switched off here stays off whatever the round instructions say.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from convoy_edge_client.errors import RecordingsMissingError, VehicleConfigError
from convoy_protos.protection import Protection
from convoy_protos.settings import from_table, to_table

if TYPE_CHECKING:  # a device that is only looked at needs no Flower
    from flwr.app import Context

NODE_CONFIG_KEY = "vehicle-config"
"""Flower node configuration: path of this vehicle's file."""
FLEET_CONFIG_KEY = "convoy-fleet"
"""Flower run configuration: path of a JSON list of such paths, picked by "partition-id"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleConfig:
    """One vehicle.

    Attributes:
        vehicle_id: Its name in every message and report.
        recordings: Folders or files with its recordings; relative ones start at the JSON file. None:
            a roadside unit, which only helps to mask and needs a helper_identity.
        cache_dir: Where decoded frames are kept; its own folder, never shared with a server.
        augment: Whether training may alter its frames (brightness, shift, mirror).
        mirror: Whether training may mirror its frames; no where left and right differ, as on roads
            with traffic.
        device: "auto" takes a CUDA device where there is one; otherwise a torch device name.
        torch_threads: Processor threads for training; another number changes the last bits.
        identity: Folder with this vehicle's certificate and key, as `convoy fleet add` writes it;
            needed to send protected updates. Relative ones start at the JSON file.
        least_protection: What it takes at least to send an update: "masked", only within a sum that
            hides it; "sealed", readable by the aggregator alone; "none", anything the server asks for.
        minimum_cohort: Vehicles in a masked sum, this one included, below which it takes no part; in
            2..128.
        metrics: "clear" tells example counts, losses, scores and the ranges that calibrate an int8 model
            to the server; "summed" only within
            masked sums, where the fleet's totals show; "withheld" not at all, but for the weight of
            its update, which a sum needs.
        minimum_helpers: Mask helpers of a sum without pairwise masks, below which it takes no part; in
            1..8. The update is hidden while one of them does not work together with the server.
        helper_identity: Folder with a mask helper's certificate, key and sealing key, as `convoy fleet
            add --role helper` writes it: this node then also answers for the masks of others. Empty:
            it does not. Relative ones start at the JSON file.
    """

    vehicle_id: str
    recordings: tuple[str, ...] = ()
    cache_dir: str = "cache"
    augment: bool = True
    mirror: bool = True
    device: str = "auto"
    torch_threads: int = 1
    identity: str = ""
    least_protection: Literal["masked", "sealed", "none"] = "masked"
    minimum_cohort: int = 3
    metrics: Literal["clear", "summed", "withheld"] = "clear"
    minimum_helpers: int = 1
    helper_identity: str = ""

    def __post_init__(self) -> None:
        if not self.vehicle_id:
            raise ValueError("vehicle_id must not be empty")
        if not self.recordings and not self.helper_identity:
            raise ValueError(f"recordings of {self.vehicle_id} must name at least one path")
        if not self.torch_threads >= 1:
            raise ValueError(f"torch_threads must be at least 1, got {self.torch_threads}")
        if not 2 <= self.minimum_cohort <= 128:
            raise ValueError(
                f"minimum_cohort must be in 2..128, got {self.minimum_cohort}: the sum over one "
                "vehicle is its update, and no sum has more than 128"
            )

        if not 1 <= self.minimum_helpers <= 8:
            raise ValueError(f"minimum_helpers must be in 1..8, got {self.minimum_helpers}")

    @property
    def recording_paths(self) -> list[Path]:
        """The recordings, which all exist.

        Raises:
            RecordingsMissingError: One does not.
        """
        paths = [Path(recording) for recording in self.recordings]
        for path in paths:
            if not path.exists():
                raise RecordingsMissingError(
                    f"vehicle {self.vehicle_id}: no recordings at {path}; "
                    "correct 'recordings' in its configuration or put them back"
                )
        return paths

    @property
    def protection(self) -> Protection:
        """The least protection that this vehicle agrees to."""
        return Protection[self.least_protection.upper()]

    @property
    def cache_path(self) -> Path:
        """Where decoded frames are kept."""
        return Path(self.cache_dir)


def load_vehicle_config(path: Path) -> VehicleConfig:
    """Read one vehicle's file.

    Raises:
        VehicleConfigError: The file is missing or not JSON.
        SettingsError: A key is unknown, missing or out of range.
    """
    table = _read_json(path, dict)
    config = from_table(VehicleConfig, table, str(path))
    return replace(
        config,
        recordings=tuple(str(path.parent / recording) for recording in config.recordings),
        cache_dir=str(path.parent / config.cache_dir),
        identity=str(path.parent / config.identity) if config.identity else "",
        helper_identity=(
            str(path.parent / config.helper_identity) if config.helper_identity else ""
        ),
    )


def save_vehicle_config(config: VehicleConfig, path: Path) -> None:
    """Write one vehicle's file, the inverse of `load_vehicle_config`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(to_table(config), indent=2) + "\n", encoding="utf-8")


def save_fleet(paths: Sequence[Path], path: Path) -> None:
    """Write the list that gives a vehicle to each partition of Flower's own simulation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([str(each) for each in paths], indent=2) + "\n", encoding="utf-8")


def vehicle_of(context: "Context") -> VehicleConfig:
    """The vehicle that a Flower node is.

    Raises:
        VehicleConfigError: Neither the node nor the run says which one.
    """
    own = context.node_config.get(NODE_CONFIG_KEY)
    if own is not None:
        return load_vehicle_config(Path(str(own)))
    fleet, partition = (
        context.run_config.get(FLEET_CONFIG_KEY),
        context.node_config.get("partition-id"),
    )
    if fleet is None or not isinstance(partition, int):
        raise VehicleConfigError(
            f"node {context.node_id} does not know which vehicle it is: start it with "
            f"--node-config '{NODE_CONFIG_KEY}=\"/path/to/vehicle.json\"'"
        )
    paths = _read_json(Path(str(fleet)), list)
    if not 0 <= partition < len(paths):
        raise VehicleConfigError(
            f"{fleet}: lists {len(paths)} vehicles, but this node is partition {partition}"
        )
    return load_vehicle_config(Path(str(fleet)).parent / str(paths[partition]))


def _read_json(path: Path, kind: type) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise VehicleConfigError(f"{path}: no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise VehicleConfigError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, kind):
        raise VehicleConfigError(f"{path}: expected a JSON {'object' if kind is dict else 'list'}")
    return value
