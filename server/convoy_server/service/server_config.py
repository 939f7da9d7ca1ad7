"""server.toml: where the cloud service keeps its files and which doors it opens.

deploy/server.toml has every key. Vehicles reach the fleet door and the services; runs are started
through the private door, which listens on loopback only.

    STATE/         all that the service writes beside the runs; crash-safe
      health.json  what the supervisor says about its processes (convoy_server.service.health_file)
"""

import dataclasses
import ipaddress
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from convoy_protos.errors import SettingsError, UsageError
from convoy_protos.settings import from_table

STATE_MODE: Final = 0o700
"""Only the service's own user reads its state."""

MAX_DRAIN_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetDoorConfig:
    """Table [fleet_door]: what vehicles dial, over TLS.

    Attributes:
        host: Address to listen on; "0.0.0.0" is every network of the machine.
        port: TCP, in 1..65535.
        certificate: PEM file; names the hosts that vehicles dial.
        key: PEM file with its private key; only the service's user may read it.
        ca: PEM file with the TLS CA that signed it, which vehicles pin.
    """

    certificate: str
    key: str
    ca: str
    host: str = "0.0.0.0"  # noqa: S104 - vehicles come from other machines
    port: int = 9091

    def __post_init__(self) -> None:
        check_port(self.port)
        for name in ("host", "certificate", "key", "ca"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateDoorConfig:
    """Table [private_door]: starts and stops runs, without authentication.

    Attributes:
        host: Must be a loopback address: whoever reaches this door rules the fleet.
        port: TCP, in 1..65535.
    """

    host: str = "127.0.0.1"
    port: int = 9090

    def __post_init__(self) -> None:
        check_port(self.port)
        if not is_loopback(self.host):
            raise ValueError(
                f'host must be a loopback address such as "127.0.0.1", got {self.host!r}: '
                "whoever reaches this door can start and stop runs"
            )

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicesConfig:
    """Table [services]: enrolment, gRPC over TLS with the fleet door's certificate.

    Attributes:
        host: Address to listen on.
        port: TCP, in 1..65535.
    """

    host: str = "0.0.0.0"  # noqa: S104 - vehicles come from other machines
    port: int = 9092

    def __post_init__(self) -> None:
        check_port(self.port)
        if not self.host:
            raise ValueError("host must not be empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """Table [metrics]: Prometheus text, health and readiness, over plain HTTP.

    Attributes:
        host: Address to listen on; names of vehicles are never shown, counts are.
        port: TCP, in 1..65535.
    """

    host: str = "127.0.0.1"
    port: int = 9093

    def __post_init__(self) -> None:
        check_port(self.port)
        if not self.host:
            raise ValueError("host must not be empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityConfig:
    """Table [identity]: who the server is in masked and sealed runs.

    Attributes:
        aggregator: Folder with its certificate and keys, as
            `convoy fleet add FLEET NAME --role aggregator` makes it.
    """

    aggregator: str

    def __post_init__(self) -> None:
        if not self.aggregator:
            raise ValueError("aggregator must not be empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentConfig:
    """Table [enrolment]: how devices join.

    Attributes:
        authority: Folder of the fleet's CA (`convoy fleet init`), for an unattended service to sign
            with; empty: an operator signs on another machine.
        public_address: HOST:PORT that vehicles dial; stands in the tokens. Empty: no tokens are made.
    """

    authority: str = ""
    public_address: str = ""

    def __post_init__(self) -> None:
        if self.public_address:
            host, _, port = self.public_address.rpartition(":")
            if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
                raise ValueError(f"public_address must be HOST:PORT, got {self.public_address!r}")

    @property
    def public_host(self) -> str:
        """The host of public_address, without the brackets of IPv6; empty where there is none."""
        return self.public_address.rpartition(":")[0].removeprefix("[").removesuffix("]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasesConfig:
    """Table [releases]: what vehicles fetch, gRPC over mutual TLS.

    Attributes:
        folder: As `convoy release init` made it; empty: there is no release service.
        host: Address to listen on.
        port: TCP, in 1..65535.
    """

    folder: str = ""
    host: str = "0.0.0.0"  # noqa: S104 - vehicles come from other machines
    port: int = 9094

    def __post_init__(self) -> None:
        check_port(self.port)
        if not self.host:
            raise ValueError("host must not be empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsConfig:
    """Table [runs]: where runs are written.

    Attributes:
        folder: One run directory a run.
        drain_s: Seconds that a round under way gets to end in when the service is asked to stop; one that
            takes longer is done again at the next start. 0: none.
        keep_free_mb: Room on its disk, in 10^6 bytes, below which the service is not ready and no run
            is started; 0: not asked.
    """

    folder: str = "runs"
    keep_free_mb: int = 2000
    drain_s: float = 120.0

    def __post_init__(self) -> None:
        if not self.folder:
            raise ValueError("folder must not be empty")
        if not 0.0 <= self.drain_s <= MAX_DRAIN_S:
            raise ValueError(f"drain_s must be in 0..{MAX_DRAIN_S:g}, got {self.drain_s:g}")
        if self.keep_free_mb < 0:
            raise ValueError(f"keep_free_mb must not be negative, got {self.keep_free_mb}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """Table [log]: the one log, on standard error.

    Attributes:
        format: "json", one object a line, or "text".
        level: What is left out below it.
    """

    format: Literal["json", "text"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """server.toml; every path is absolute once it is read.

    Attributes:
        state: Folder of the service; everything that it must not forget.
        fleet_door: Table [fleet_door].
        identity: Table [identity].
        private_door: Table [private_door].
        services: Table [services].
        metrics: Table [metrics].
        enrolment: Table [enrolment].
        releases: Table [releases].
        runs: Table [runs].
        log: Table [log].
    """

    state: str
    fleet_door: FleetDoorConfig
    identity: IdentityConfig
    private_door: PrivateDoorConfig = field(default_factory=PrivateDoorConfig)
    services: ServicesConfig = field(default_factory=ServicesConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    enrolment: EnrolmentConfig = field(default_factory=EnrolmentConfig)
    releases: ReleasesConfig = field(default_factory=ReleasesConfig)
    runs: RunsConfig = field(default_factory=RunsConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        if not self.state:
            raise ValueError("state must not be empty")
        taken: dict[int, str] = {}
        for name, port in self.ports.items():
            if port in taken:
                raise ValueError(f"[{name}] and [{taken[port]}] have the same port {port}")
            taken[port] = name

    @property
    def state_folder(self) -> Path:
        """`state` as a path."""
        return Path(self.state)

    @property
    def runs_folder(self) -> Path:
        """`runs.folder` as a path."""
        return Path(self.runs.folder)

    @property
    def ports(self) -> dict[str, int]:
        """That are listened on, by the table that names them."""
        releases = {"releases": self.releases.port} if self.releases.folder else {}
        return releases | {
            "fleet_door": self.fleet_door.port,
            "private_door": self.private_door.port,
            "services": self.services.port,
            "metrics": self.metrics.port,
        }


def load_server_config(path: Path) -> ServerConfig:
    """Read server.toml.

    Raises:
        UsageError: It cannot be read or is no TOML; or a SettingsError that names table and key.
    """
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror}; name a server.toml; deploy/server.toml has every key"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no valid TOML: {error}") from error
    return server_config_from_table(table, str(path), path.parent)


def server_config_from_table(table: Mapping[str, Any], where: str, folder: Path) -> ServerConfig:
    """Build the configuration from a parsed file.

    Args:
        table: The parsed file.
        where: What to call it in errors.
        folder: What relative paths are relative to.

    Raises:
        SettingsError: Names the table, the key and what is expected.
    """
    for key, names in (("fleet_door", "certificate, key and ca"), ("identity", "aggregator")):
        if key not in table:
            raise SettingsError(f"{where}: table [{key}] is missing; it names {names}")
    if "state" not in table:
        raise SettingsError(f"{where}: state is missing: the folder of the service")
    return _resolve_paths(from_table(ServerConfig, table, where), folder.resolve())


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_port(port: int) -> None:
    """Refuse what is no TCP port.

    Raises:
        ValueError: Out of 1..65535.
    """
    if not 1 <= port <= 65535:
        raise ValueError(f"port must be in 1..65535, got {port}")


def _resolve_paths(config: ServerConfig, folder: Path) -> ServerConfig:
    door = config.fleet_door
    authority, releases = config.enrolment.authority, config.releases.folder
    return dataclasses.replace(
        config,
        state=str(folder / config.state),
        fleet_door=dataclasses.replace(
            door,
            certificate=str(folder / door.certificate),
            key=str(folder / door.key),
            ca=str(folder / door.ca),
        ),
        identity=IdentityConfig(aggregator=str(folder / config.identity.aggregator)),
        enrolment=dataclasses.replace(
            config.enrolment, authority=str(folder / authority) if authority else ""
        ),
        releases=dataclasses.replace(
            config.releases, folder=str(folder / releases) if releases else ""
        ),
        runs=dataclasses.replace(config.runs, folder=str(folder / config.runs.folder)),
    )
