"""Make the token of a new device: what it must know to find and trust the server, and one secret."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from convoy_privacy import fleet_store, key_files
from convoy_privacy.certificates import Role, Trust
from convoy_privacy.party import CA_CERTIFICATE, REVOCATIONS
from convoy_privacy.tls_files import read_tls_ca
from convoy_protos.errors import UsageError
from convoy_protos.v1.enrolment_pb2 import JoinToken
from convoy_server.service.enrolment_book import check_free, new_enrolment
from convoy_server.service.enrolment_store import ENROLMENTS_FOLDER, EnrolmentStore
from convoy_server.service.server_config import ServerConfig


def new_token(
    config: ServerConfig,
    name: str,
    role: Role,
    now: datetime,
    *,
    valid_hours: int,
    random: Callable[[int], bytes],
) -> JoinToken:
    """A token, of which the server's state folder keeps all but the secret.

    An unused token of the same name is void from now on.

    Args:
        config: Of the server.
        name: Of the device.
        role: Of the device.
        now: With a time zone.
        valid_hours: How long it may be used.
        random: Gives so many unpredictable bytes.

    Raises:
        UsageError: The name is taken, or the server is not set up for enrolment.
    """
    address = config.enrolment.public_address
    if not address:
        raise UsageError(
            "[enrolment] public_address is empty: name HOST:PORT of the fleet door as vehicles dial it"
        )
    party = Path(config.identity.aggregator)
    ca_public_key = key_files.read_pinned_key(party / CA_CERTIFICATE)
    trust = Trust(ca_public_key, key_files.read_revocation_file(party / REVOCATIONS, ca_public_key))
    if config.enrolment.authority:
        _check_book(Path(config.enrolment.authority), ca_public_key, name, now)
    enrolment, secret = new_enrolment(name, role, now, valid_hours, random)
    tls_ca = read_tls_ca(Path(config.fleet_door.ca))
    store = EnrolmentStore(config.state_folder / ENROLMENTS_FOLDER)
    with store.locked():
        store.keep_ca(key_files.read_certificate(party / CA_CERTIFICATE))
        known = store.enrolments()
        check_free(name, known, trust, now)
        for one in known:
            if one.name == name and one.keys is None:
                store.remove(one.token_id)
        store.add(enrolment)
    host = address.rpartition(":")[0]
    return JoinToken(
        fleet_address=address,
        services_address=f"{host}:{config.services.port}",
        tls_ca=tls_ca,
        ca_public_key=ca_public_key,
        token_id=enrolment.token_id,
        secret=secret,
        name=name,
        role=role.value,
    )


def _check_book(fleet: Path, ca_public_key: bytes, name: str, now: datetime) -> None:
    """Refuse a name that the CA on this machine will not sign again."""
    book = fleet_store.load_book(fleet)
    if book.ca_public_key != ca_public_key:
        raise UsageError(
            f"{fleet}: [enrolment] authority is the CA of another fleet than [identity] aggregator's"
        )
    if any(one.name == name and one.in_force(now) for one in book.issued):
        raise UsageError(f"{name} is in the fleet already: `convoy fleet revoke` it first")
