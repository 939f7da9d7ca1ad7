"""This vehicle's certificate and key, read once while its files stay as they are."""

import functools
from datetime import UTC, datetime
from pathlib import Path

from convoy_edge_client.errors import VehicleConfigError
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_privacy.certificates import Role
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
    return _party_in(Path(vehicle.identity))


def helper_party_of(vehicle: VehicleConfig) -> Party:
    """Who this node is as a mask helper; with a sealing key.

    Raises:
        VehicleConfigError: Its configuration names no helper, or the folder is not one of a helper.
        FleetFolderError: A file of the folder is missing, broken or readable by others.
    """
    if not vehicle.helper_identity:
        raise VehicleConfigError(
            f"{vehicle.vehicle_id} is no mask helper: it has no helper_identity"
        )
    party = _party_in(Path(vehicle.helper_identity))
    if party.role is not Role.HELPER or party.sealing_key is None:
        raise VehicleConfigError(
            f"helper_identity of {vehicle.vehicle_id}: {vehicle.helper_identity} is the folder of "
            f"{party.role.value} {party.identity.name}; `convoy fleet add --role helper` makes a helper's"
        )
    return party


def keep_revocations(folder: Path, revocations: bytes) -> None:
    """Remember what our fleet's CA has revoked since, so that nobody can take it back.

    Args:
        folder: Of the party that has gone by the list.
        revocations: The list; empty: none came.
    """
    trust = _party_in(folder).trust
    fresh = trust.with_revocations(revocations, datetime.now(UTC))
    if fresh.revocations != trust.revocations:
        save_revocations(folder, fresh)


def _party_in(folder: Path) -> Party:
    return _load(
        folder, _changed_ns(folder / IDENTITY_CERTIFICATE), _changed_ns(folder / REVOCATIONS)
    )


@functools.lru_cache(maxsize=256)
def _load(folder: Path, identity_ns: int, revocations_ns: int) -> Party:  # noqa: ARG001 - part of the key
    return load_party(folder, datetime.now(UTC))


def _changed_ns(file: Path) -> int:
    """0 where the file is missing, which `load_party` then reports."""
    return file.stat().st_mtime_ns if file.exists() else 0
