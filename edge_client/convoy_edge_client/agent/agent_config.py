"""agent.toml: what a device's agent may do, and where everything of its own lies.

Its owner writes it; the server never sees it and cannot widen it. deploy/agent.toml has every key.

    STATE/               all that the agent writes; crash-safe
      cache/             decoded frames and global models
      identity/          certificate and key of the device (convoy_privacy.party)
      node.key           EC P-384, OpenSSH: how Flower's SuperLink knows the node
      server-ca.pem      the TLS CA of the fleet's server, pinned
      traffic.json       how much has gone over the network this month
      training/          what training had learned when it had to pause
"""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from convoy_edge_client.agent.work_windows import WorkWindow, parse_window
from convoy_edge_client.preflight.preflight_config import PreflightConfig
from convoy_edge_client.toml_file import read_toml
from convoy_edge_client.updates.releases_config import ReleasesConfig
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_protos.settings import from_table

CACHE_FOLDER: Final = "cache"
IDENTITY_FOLDER: Final = "identity"
NODE_KEY: Final = "node.key"
ROOT_CERTIFICATES: Final = "server-ca.pem"
TRAFFIC_FILE: Final = "traffic.json"
TRAINING_FOLDER: Final = "training"

NetworkKind = Literal["ethernet", "wifi", "cellular"]

_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Table [server]: whom the agent talks to. `convoy agent join` fills it in.

    Attributes:
        address: HOST:PORT of the fleet door.
        services: HOST:PORT of the enrolment service.
        root_certificates: PEM file with the TLS CA that is trusted, and no other; empty:
            server-ca.pem in the state folder.
        node_key: Private key of the node, EC P-384 in OpenSSH's format; empty: node.key in the state
            folder.
    """

    address: str = ""
    services: str = ""
    root_certificates: str = ""
    node_key: str = ""

    def __post_init__(self) -> None:
        for name in ("address", "services"):
            value = getattr(self, name)
            if value:
                host_and_port(value, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkConfig:
    """Table [work]: which work is taken, and when.

    Attributes:
        runs: Names of runs that it joins; * and ? stand for any letters.
        models: Registry names of networks that it trains; * and ? as above.
        windows: Times of the day in which it may work, local time, as "22:00-06:00"; empty: always.
        monthly_megabytes: Most data on the network in a calendar month, in 10^6 bytes, both ways
            together; 0: no limit.
    """

    runs: tuple[str, ...] = ("*",)
    models: tuple[str, ...] = ("*",)
    windows: tuple[str, ...] = ()
    monthly_megabytes: float = 0.0

    def __post_init__(self) -> None:
        for name in ("runs", "models"):
            if not getattr(self, name):
                raise ValueError(f'{name} must name at least one; ["*"] takes any')
        for window in self.windows:
            try:
                parse_window(window)
            except ValueError as error:
                raise ValueError(f"windows: {error}") from error
        if not 0 <= self.monthly_megabytes < float("inf"):
            raise ValueError(
                f"monthly_megabytes must not be negative, got {self.monthly_megabytes}"
            )

    @property
    def work_windows(self) -> tuple[WorkWindow, ...]:
        """The windows, read."""
        return tuple(map(parse_window, self.windows))

    def accepts_run(self, name: str) -> bool:
        """Whether the agent joins a run of that name."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.runs)

    def accepts_model(self, name: str) -> bool:
        """Whether the agent trains networks of that family."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.models)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardConfig:
    """Table [guards]: the state that the machine must be in for work to start and to go on.

    What is asked for here and cannot be measured counts as not met.

    Attributes:
        minimum_battery_percent: Least charge of the battery, in 0..100; 0: not asked.
        require_ignition_off: Work only while signals_command says that the ignition is off.
        maximum_temperature_c: Hottest sensor at which work goes on; 0: not asked.
        resume_temperature_c: Once too hot, work waits until the hottest sensor is below this; not
            above maximum_temperature_c; 0: five degrees below it.
        minimum_free_memory_mb: Least memory that is available to programs, in 10^6 bytes; 0: not
            asked.
        minimum_free_disk_mb: Least free space for the state folder, in 10^6 bytes; 0: not asked.
        networks: Kinds of network that work may use.
        maximum_load: Most load of the processor by other programs, as a share of all cores, in 0..1;
            0: not asked.
        maximum_gpu_load: Most load of the graphics unit at which work starts, in 0..1; 0: not asked.
            Asked before work only: while it runs, the load is its own.
        signals_command: Program and arguments of a plug-in that prints one JSON object with the keys
            it knows: {"driving": false, "ignition": false, "battery_percent": 80, "network": "wifi"};
            empty: there is none. Work stops while "driving" is true or while the plug-in fails.
        signals_timeout_s: Longest time that the plug-in may take, in 0.05..0.8.
        check_every_s: Seconds from one look at the machine to the next during work, in 0.05..0.5.
    """

    minimum_battery_percent: float = 0.0
    require_ignition_off: bool = False
    maximum_temperature_c: float = 0.0
    resume_temperature_c: float = 0.0
    minimum_free_memory_mb: float = 300.0
    minimum_free_disk_mb: float = 500.0
    networks: tuple[NetworkKind, ...] = ("ethernet", "wifi", "cellular")
    maximum_load: float = 0.0
    maximum_gpu_load: float = 0.0
    signals_command: tuple[str, ...] = ()
    signals_timeout_s: float = 0.4
    check_every_s: float = 0.25

    def __post_init__(self) -> None:
        for name, low, high in (
            ("minimum_battery_percent", 0, 100),
            ("maximum_temperature_c", 0, 150),
            ("resume_temperature_c", 0, 150),
            ("minimum_free_memory_mb", 0, 1e9),
            ("minimum_free_disk_mb", 0, 1e9),
            ("maximum_load", 0, 1),
            ("maximum_gpu_load", 0, 1),
            ("signals_timeout_s", 0.05, 0.8),
            ("check_every_s", 0.05, 0.5),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be in {low:g}..{high:g}, got {getattr(self, name)}")
        if self.check_every_s + self.signals_timeout_s > 0.9:
            raise ValueError(
                "check_every_s + signals_timeout_s must be at most 0.9, so that work stops within a "
                f"second, got {self.check_every_s + self.signals_timeout_s:g}"
            )
        if self.resume_temperature_c > self.maximum_temperature_c:
            raise ValueError(
                f"resume_temperature_c must not be above maximum_temperature_c "
                f"({self.maximum_temperature_c:g}), got {self.resume_temperature_c:g}"
            )
        if not self.networks:
            raise ValueError("networks must name at least one of ethernet, wifi, cellular")
        if self.require_ignition_off and not self.signals_command:
            raise ValueError(
                "require_ignition_off needs signals_command, a plug-in that prints "
                '{"ignition": false}'
            )

    @property
    def cool_temperature_c(self) -> float:
        """At which work goes on after it was too hot."""
        return self.resume_temperature_c or max(0.0, self.maximum_temperature_c - 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """Table [link]: how the network is used.

    Attributes:
        largest_chunk_bytes: Most bytes of an upload that a lost link can cost; smaller on slow links;
            in 2^16..5 * 2^20.
        slowest_poll_s: Longest time between two questions for work, in 1..3600.
    """

    largest_chunk_bytes: int = 5 * _MIB
    slowest_poll_s: float = 30.0

    def __post_init__(self) -> None:
        if not 1 << 16 <= self.largest_chunk_bytes <= 5 * _MIB:
            raise ValueError(
                f"largest_chunk_bytes must be in {1 << 16}..{5 * _MIB}, "
                f"got {self.largest_chunk_bytes}"
            )
        if not 1 <= self.slowest_poll_s <= 3600:
            raise ValueError(f"slowest_poll_s must be in 1..3600, got {self.slowest_poll_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """agent.toml.

    Attributes:
        state: The agent's own folder; relative ones start at the folder of agent.toml.
        role: "vehicle", or "roadside", which helps to mask the sums of others and does not train: its
            certificate is a helper's.
        vehicle: Who the device is, what it trains on and what it allows. Relative paths start at the
            folder of agent.toml; cache_dir and identity are in the state folder unless given, and so
            is the helper_identity of a roadside unit.
        server: Whom it talks to.
        work: Which work is taken, and when.
        guards: The state that the machine must be in.
        link: How the network is used.
        releases: Where releases come from; off where no repository is named. Its folder is "releases" in
            the state folder unless given; `convoy drive` shares it.
        preflight: What a release may ask of this vehicle.
    """

    state: str
    vehicle: VehicleConfig
    role: Literal["vehicle", "roadside"] = "vehicle"
    server: ServerConfig = field(default_factory=ServerConfig)
    work: WorkConfig = field(default_factory=WorkConfig)
    guards: GuardConfig = field(default_factory=GuardConfig)
    link: LinkConfig = field(default_factory=LinkConfig)
    releases: ReleasesConfig = field(default_factory=ReleasesConfig)
    preflight: PreflightConfig = field(default_factory=PreflightConfig)

    @property
    def state_path(self) -> Path:
        """The agent's own folder."""
        return Path(self.state)

    @property
    def root_certificates_path(self) -> Path:
        """The TLS CA that is trusted."""
        return Path(self.server.root_certificates or self.state_path / ROOT_CERTIFICATES)

    @property
    def node_key_path(self) -> Path:
        """Private key of the node."""
        return Path(self.server.node_key or self.state_path / NODE_KEY)

    @property
    def identity_path(self) -> Path:
        """The device's certificate and key."""
        return Path(self.vehicle.identity)

    @property
    def traffic_path(self) -> Path:
        """How much has gone over the network this month."""
        return self.state_path / TRAFFIC_FILE

    @property
    def training_path(self) -> Path:
        """Where training that had to pause is kept."""
        return self.state_path / TRAINING_FOLDER


def load_agent_config(path: Path) -> AgentConfig:
    """Read agent.toml.

    Raises:
        SettingsError: The file cannot be read, is not TOML, or a key is unknown, missing or out of
            range; the message names file and key.
    """
    config = from_table(AgentConfig, _with_state_folder(read_toml(path)), str(path))
    return _resolved(config, path.parent.absolute())


def host_and_port(address: str, name: str) -> tuple[str, int]:
    """The two parts of HOST:PORT; an IPv6 address is written in brackets.

    Raises:
        ValueError: It is not that.
    """
    host, separator, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    number = int(port) if port.isascii() and port.isdigit() else 0
    plain = bare == host and ":" not in host
    if not separator or not bare or not (plain or host == f"[{bare}]") or not 0 < number < 1 << 16:
        raise ValueError(f"{name} must be HOST:PORT, got {address!r}")
    return bare, number


def _with_state_folder(table: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what is in the state folder unless the file says otherwise."""
    filled = {"state": "state", **table}
    vehicle, state = filled.get("vehicle"), filled["state"]
    if isinstance(vehicle, dict) and isinstance(state, str):
        own = {"cache_dir": f"{state}/{CACHE_FOLDER}", "identity": f"{state}/{IDENTITY_FOLDER}"}
        if filled.get("role") == "roadside":
            own["helper_identity"] = own["identity"]
        filled["vehicle"] = own | vehicle
    releases = filled.get("releases", {})
    if isinstance(releases, dict) and isinstance(state, str):
        filled["releases"] = {"folder": f"{state}/releases"} | releases
    return filled


def _resolved(config: AgentConfig, folder: Path) -> AgentConfig:
    """The same with absolute paths."""

    def absolute(path: str) -> str:
        return str(folder / path) if path else ""

    vehicle, server = config.vehicle, config.server
    return replace(
        config,
        state=absolute(config.state),
        releases=config.releases.below(folder),
        vehicle=replace(
            vehicle,
            recordings=tuple(map(absolute, vehicle.recordings)),
            cache_dir=absolute(vehicle.cache_dir),
            identity=absolute(vehicle.identity),
            helper_identity=absolute(vehicle.helper_identity),
        ),
        server=replace(
            server,
            root_certificates=absolute(server.root_certificates),
            node_key=absolute(server.node_key),
        ),
    )
