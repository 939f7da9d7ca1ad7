"""A fleet's CA, a server that enrols and a device, in one temporary folder; Flower is a list in memory."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from convoy_edge_client.agent.agent_config import AgentConfig, ServerConfig
from convoy_edge_client.agent.joining import JoinPlaces, join_request
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_privacy import fleet_store
from convoy_privacy.certificates import Role
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_privacy.party import save_party
from convoy_privacy.tls_files import save_server, tls_authority
from convoy_protos.errors import JobFailedError
from convoy_protos.v1.enrolment_pb2 import JoinRequest, JoinToken
from convoy_server.service.enrolment import serving
from convoy_server.service.enrolment_desk import EnrolmentDesk
from convoy_server.service.enrolment_signing import Signed, sign, waiting
from convoy_server.service.enrolment_store import EnrolmentStore
from convoy_server.service.enrolment_token_office import new_token
from convoy_server.service.passes import PassOffice
from convoy_server.service.server_config import ServerConfig as ServiceConfig
from convoy_server.service.server_config import server_config_from_table

NOW = datetime.now(UTC).replace(microsecond=0)


@dataclass
class Nodes:
    """A SuperLink's list of nodes.

    Attributes:
        known: Names by node key.
        down: Whether it cannot be asked.
    """

    known: dict[bytes, str] = field(default_factory=dict)
    down: bool = False

    def register(self, node_key: bytes, name: str) -> None:
        """Let a node in."""
        self._up()
        self.known[node_key] = name

    def unregister(self, node_key: bytes) -> None:
        """Let it in no more."""
        self._up()
        self.known.pop(node_key, None)

    def _up(self) -> None:
        if self.down:
            raise JobFailedError("the SuperLink is not up")


@dataclass
class Office:
    """The folders and what works on them; `desk` may be made anew, as after a restart."""

    folder: Path
    config: ServiceConfig
    nodes: Nodes = field(default_factory=Nodes)

    @property
    def fleet(self) -> Path:
        """The CA's folder."""
        return self.folder / "ca"

    @property
    def depot(self) -> Path:
        """The aggregator's folder."""
        return self.folder / "depot"

    @property
    def store(self) -> EnrolmentStore:
        """The folder of enrolments."""
        return EnrolmentStore(self.config.state_folder / "enrolments")

    def desk(self) -> EnrolmentDesk:
        """A server that has just started."""
        authority = self.config.enrolment.authority
        return EnrolmentDesk(
            self.store,
            self.depot,
            self.nodes,
            days=30,
            fleet=Path(authority) if authority else None,
        )

    def token(self, name: str = "car-07", role: Role = Role.VEHICLE, hours: int = 24) -> JoinToken:
        """As `convoy fleet enroll` makes it."""
        return new_token(self.config, name, role, NOW, valid_hours=hours, random=os.urandom)

    def sign_all(self, now: datetime = NOW) -> list[Signed]:
        """As `convoy fleet sign --yes` does it."""
        return sign(self.store, self.fleet, waiting(self.store), now, days=30)

    def revoke(self, name: str, now: datetime = NOW) -> None:
        """As `convoy fleet revoke` does it."""
        with fleet_store.locked(self.fleet):
            authority = fleet_store.load_fleet(self.fleet)
            authority.revoke(name, now)
            fleet_store.save_fleet(self.fleet, authority)

    @contextmanager
    def serving(
        self, calls_per_minute: int = 10_000, passes: PassOffice | None = None
    ) -> Iterator[str]:
        """The service on a free port; yields its address."""
        door = self.config.fleet_door
        with serving(
            self.desk(),
            "127.0.0.1:0",
            Path(door.certificate),
            Path(door.key),
            wake=threading.Event(),
            calls_per_minute=calls_per_minute,
            passes=passes,
        ) as port:
            yield f"127.0.0.1:{port}"


def make_office(folder: Path, *, online: bool = False) -> Office:
    """A fleet with an aggregator and a server; `online`: the CA's key is on the server."""
    authority = FleetAuthority.create(NOW)
    fleet_store.create_fleet(folder / "ca", authority)
    depot = authority.issue("depot", Role.AGGREGATOR, NOW)
    fleet_store.save_fleet(folder / "ca", authority)
    save_party(folder / "depot", authority, depot.certificate, depot.signing_key)
    tls = tls_authority(folder / "ca", NOW)
    save_server(folder / "cloud", tls, tls.issue(("127.0.0.1",), NOW))
    table = {
        "state": "state",
        "fleet_door": {
            "certificate": "cloud/server.pem",
            "key": "cloud/server.key",
            "ca": "cloud/tls-ca.pem",
        },
        "identity": {"aggregator": "depot"},
        "enrolment": {
            "public_address": "127.0.0.1:9091",
            "authority": "ca" if online else "",
        },
    }
    return Office(folder, server_config_from_table(table, "server.toml", folder))


@dataclass
class Device:
    """Keys of a device that plays by the rules, unless `change` spoils its request."""

    identity_key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    node_key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP384R1())
    )

    def request(
        self, token: JoinToken, change: Callable[[JoinRequest], None] | None = None
    ) -> JoinRequest:
        """What it sends."""
        request = join_request(token, self.identity_key, self.node_key)
        if change is not None:
            change(request)
        return request


def places_in(folder: Path) -> JoinPlaces:
    """Where a device keeps things."""
    return JoinPlaces(
        identity=folder / "identity",
        node_key=folder / "node.key",
        root_certificates=folder / "server-ca.pem",
    )


def agent_config(folder: Path, services: str) -> AgentConfig:
    """The configuration of a device that joined into `folder`."""
    return AgentConfig(
        state=str(folder),
        vehicle=VehicleConfig(
            vehicle_id="car-07",
            recordings=("recordings",),
            cache_dir=str(folder / "cache"),
            identity=str(folder / "identity"),
        ),
        server=ServerConfig(address="127.0.0.1:9091", services=services),
    )
