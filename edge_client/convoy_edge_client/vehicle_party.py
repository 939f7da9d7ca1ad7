"""This vehicle's certificate and key, read once while its files stay as they are."""

import functools
from datetime import UTC, datetime
from pathlib import Path

from convoy_edge_client.errors import VehicleConfigError
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_privacy.party import IDENTITY_CERTIFICATE, REVOCATIONS, Party, load_party


def party_of(vehicle: VehicleConfig) -> Party:
    """Who this vehicle is and whom it trusts.

    Raises:
        VehicleConfigError: Its configuration names no identity.
        FleetFolderError: A file of the identity is missing, broken or readable by others.
    """
    if not vehicle.identity:
        raise VehicleConfigError(
            f"vehicle {vehicle.vehicle_id} has no identity to send protected updates with: "
            "`convoy fleet add` makes one; name its folder under 'identity' in the configuration"
        )
    folder = Path(vehicle.identity)
    return _load(
        folder, _changed_ns(folder / IDENTITY_CERTIFICATE), _changed_ns(folder / REVOCATIONS)
    )


@functools.lru_cache(maxsize=256)
def _load(folder: Path, identity_ns: int, revocations_ns: int) -> Party:  # noqa: ARG001 - part of the key
    return load_party(folder, datetime.now(UTC))


def _changed_ns(file: Path) -> int:
    """0 where the file is missing, which `load_party` then reports."""
    return file.stat().st_mtime_ns if file.exists() else 0
