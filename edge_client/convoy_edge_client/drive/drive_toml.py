"""drive.toml: what the process that drives is told. deploy/drive.toml has every key.

vehicle = "car-07"
factory = "factory"
[drive] [preflight] [releases] [access]
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from convoy_edge_client.drive.drive_config import DriveConfig
from convoy_edge_client.preflight.preflight_config import PreflightConfig
from convoy_edge_client.toml_file import read_toml
from convoy_edge_client.updates.releases_config import ReleasesConfig
from convoy_protos.settings import from_table


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessConfig:
    """Table [access]: how this vehicle shows the fleet's server who it is. Not needed with a depot.

    Attributes:
        identity: Folder with the vehicle's certificate and key.
        services: HOST:PORT of the enrolment service, which gives passes.
        root_certificates: PEM file with the TLS CA that is trusted, and no other.
    """

    identity: str = "state/identity"
    services: str = ""
    root_certificates: str = "state/server-ca.pem"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveToml:
    """drive.toml; relative paths start at its folder.

    Attributes:
        vehicle: Its name in the fleet.
        factory: Folder of the release that the vehicle was built with: manifest.json and its files. Never
            written, never collected.
        drive: How it drives.
        preflight: What a release may ask of this vehicle.
        releases: Where releases come from.
        access: How it shows the server who it is.
    """

    vehicle: str
    factory: str = "factory"
    drive: DriveConfig = field(default_factory=DriveConfig)
    preflight: PreflightConfig = field(default_factory=PreflightConfig)
    releases: ReleasesConfig = field(default_factory=ReleasesConfig)
    access: AccessConfig = field(default_factory=AccessConfig)

    def __post_init__(self) -> None:
        if not self.vehicle:
            raise ValueError("vehicle must be its name in the fleet")


def load_drive_toml(path: Path) -> DriveToml:
    """Read drive.toml.

    Raises:
        SettingsError: The file cannot be read, is not TOML, or a key is unknown, missing or out of range;
            the message names file and key.
    """
    config = from_table(DriveToml, read_toml(path), str(path))
    base = path.parent.absolute()
    access = config.access
    return replace(
        config,
        factory=str(base / config.factory),
        releases=config.releases.below(base),
        access=replace(
            access,
            identity=str(base / access.identity),
            root_certificates=str(base / access.root_certificates),
        ),
    )
