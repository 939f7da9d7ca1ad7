"""This vehicle's certificate and key, read once while its files stay as they are."""

import functools
from datetime import UTC, datetime
from pathlib import Path

from convoy_edge_client.errors import VehicleConfigError
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_privacy.party import (
    IDENTITY_CERTIFICATE,
    REVOCATIONS,
    Party,
    load_party,
    save_revocations,
)


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


def keep_revocations(vehicle: VehicleConfig, revocations: bytes) -> None:
    """Remember what our fleet's CA has revoked since, so that nobody can take it back.

    Args:
        vehicle: Whose folder.
        revocations: A list that this vehicle has gone by; empty: none came.
    """
    trust = party_of(vehicle).trust
    fresh = trust.with_revocations(revocations, datetime.now(UTC))
    if fresh.revocations != trust.revocations:
        save_revocations(Path(vehicle.identity), fresh)


@functools.lru_cache(maxsize=256)
def _load(folder: Path, identity_ns: int, revocations_ns: int) -> Party:  # noqa: ARG001 - part of the key
    return load_party(folder, datetime.now(UTC))


def _changed_ns(file: Path) -> int:
    """0 where the file is missing, which `load_party` then reports."""
    return file.stat().st_mtime_ns if file.exists() else 0
