"""Is the device a member of the fleet, and until when; has it the keys that it needs?"""

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from convoy_edge_client.agent.agent_config import AgentConfig
from convoy_privacy import key_files
from convoy_privacy.certificates import Role, certified
from convoy_privacy.errors import FleetFolderError, UntrustedPeerError
from convoy_privacy.party import IDENTITY_CERTIFICATE, load_party
from convoy_protos.findings import Finding, ok, problem, warning

_SOON: Final = timedelta(days=14)
_JOIN: Final = (
    "`convoy agent join TOKEN` makes one; `convoy fleet enroll` on the server gives the token"
)


def look_at_identity(config: AgentConfig, now: datetime) -> list[Finding]:
    """Read the device's certificate, key and list of revocations."""
    folder = config.identity_path
    if not (folder / IDENTITY_CERTIFICATE).exists():
        return [problem("identity", f"none in {folder}: {_JOIN}")]
    try:
        party = load_party(folder, now)
        not_after = certified(party.trust.ca_public_key, party.identity.certificate).not_after
    except (FleetFolderError, UntrustedPeerError) as error:
        return [problem("identity", str(error))]
    held = party.trust.revocations
    return [
        name_finding(party.identity.name, party.role, config),
        expiry_finding(not_after, now),
        *([] if held is None else [revocations_finding(held.next_update, now)]),
    ]


def name_finding(name: str, role: Role, config: AgentConfig) -> Finding:
    """Whether the certificate is for what agent.toml says."""
    if name != config.vehicle.vehicle_id:
        return problem(
            "identity",
            f"the certificate is of {name}, but vehicle_id is {config.vehicle.vehicle_id}: make them "
            "the same",
        )
    if config.role == "vehicle" and role is not Role.VEHICLE:
        return problem(
            "identity", f'{name} is a {role.value} by its certificate: set role = "roadside"'
        )
    return ok("identity", f"{name}, {role.value}")


def expiry_finding(not_after: datetime, now: datetime) -> Finding:
    """How long the certificate lasts; one that has ended is refused before it comes here."""
    left = not_after - now
    text = f"until {not_after:%Y-%m-%d}, {left.days} days"
    if left < _SOON:
        return warning(
            "certificate",
            f"{text}: the agent should have renewed it; see its log and the enrolment service",
        )
    return ok("certificate", text)


def revocations_finding(next_update: datetime, now: datetime) -> Finding:
    """Whether the list held is one to go by; peers bring newer ones."""
    if now >= next_update:
        return warning(
            "revocations",
            f"the list ended {next_update:%Y-%m-%d}; the server brings a new one, or "
            "`convoy fleet revoke DIR` issues it",
        )
    return ok("revocations", f"list until {next_update:%Y-%m-%d}")


def look_at_node_key(path: Path) -> Finding:
    """Read the key with which Flower knows the node."""
    if not path.exists():
        return problem("node key", f"none at {path}: {_JOIN}")
    try:
        key = load_ssh_private_key(key_files.read_file(path, private=True), None)
    except FleetFolderError as error:
        return problem("node key", str(error))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        return problem("node key", f"{path}: not a private key in OpenSSH's format ({error})")
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP384R1):
        return problem("node key", f"{path}: not a key on P-384: {_JOIN}")
    return ok("node key", str(path))


def look_at_state_folder(path: Path) -> Finding:
    """Whether this user can keep anything there; makes nothing."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return problem(
            "state folder",
            f"{there}: this user cannot write there; run doctor as the agent's user, or chown it to "
            "that user",
        )
    return ok("state folder", str(path) if there == path else f"{path} will be made")
