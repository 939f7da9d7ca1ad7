"""Stay in the fleet: get the next certificate in time, and the newest list of revocations.

The identity's key stays; only the certificate is replaced. Who was revoked gets none.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from enum import Enum

from convoy_edge_client.agent.agent_config import AgentConfig
from convoy_edge_client.agent.enrolment_client import EnrolmentClient, enrolment_client
from convoy_edge_client.errors import EnrolmentError
from convoy_privacy import key_files
from convoy_privacy.certificates import certified
from convoy_privacy.errors import RevocationListError, UntrustedPeerError
from convoy_privacy.party import IDENTITY_CERTIFICATE, Party, load_party, save_revocations
from convoy_protos.enrolment_token import renewal_bytes
from convoy_protos.v1.enrolment_pb2 import RenewRequest

logger = logging.getLogger(__name__)

Connect = Callable[[str, bytes], AbstractContextManager[EnrolmentClient]]


class Renewal(Enum):
    """What came of it."""

    NOT_DUE = "not due"
    PENDING = "waits for the CA"
    RENEWED = "renewed"


def renew_if_due(
    config: AgentConfig, now: datetime, connect: Connect = enrolment_client
) -> Renewal:
    """Ask for the next certificate when less than a third of the life of this one is left.

    Called when the agent starts and once a day. Does nothing on a device that knows no enrolment
    service.

    Args:
        config: Of the device.
        now: With a time zone.
        connect: Opens a connection to an address, trusting a TLS CA.

    Raises:
        EnrolmentError: Refused, nobody answers, or what was issued does not fit.
        FleetFolderError: The device's own files cannot be used, or its certificate has ended.
    """
    if not config.server.services:
        return Renewal.NOT_DUE
    party = load_party(config.identity_path, now)
    tls_ca = key_files.read_certificate(config.root_certificates_path)
    with connect(config.server.services, tls_ca) as client:
        _keep_newest_list(config, party, client.revocations(), now)
        held = party.identity.certificate
        found = certified(party.trust.ca_public_key, held)
        if not is_due(found.not_before, found.not_after, now):
            return Renewal.NOT_DUE
        signature = party.identity.sign(renewal_bytes(held))
        reply = client.renew(RenewRequest(certificate=held, signature=signature))
    if reply.WhichOneof("outcome") != "issued":
        logger.info("the next certificate of %s waits for the CA", party.identity.name)
        return Renewal.PENDING
    _check_next(party, reply.issued.certificate, now)
    key_files.write_certificate(
        config.identity_path / IDENTITY_CERTIFICATE, reply.issued.certificate
    )
    logger.info("%s has its next certificate", party.identity.name)
    return Renewal.RENEWED


def is_due(not_before: datetime, not_after: datetime, now: datetime) -> bool:
    """Whether less than a third of a certificate's life is left."""
    return not_after - now < (not_after - not_before) / 3


def _keep_newest_list(config: AgentConfig, party: Party, revocations: bytes, now: datetime) -> None:
    """A list that cannot be gone by is left: the one held stays."""
    try:
        fresh = party.trust.with_revocations(revocations, now)
    except RevocationListError as error:
        logger.warning("the server's list of revocations is not taken: %s", error)
        return
    if fresh != party.trust:
        save_revocations(config.identity_path, fresh)


def _check_next(party: Party, certificate: bytes, now: datetime) -> None:
    """Refuse what is not this party's next certificate.

    Raises:
        EnrolmentError: Says why.
    """
    try:
        member = party.trust.verify(certificate, party.role, now)
    except UntrustedPeerError as error:
        raise EnrolmentError(f"the server issued a certificate that is refused: {error}") from error
    own_key = party.identity.signing_key.public_key()
    if member.name != party.identity.name or member.public_key != own_key:
        raise EnrolmentError("the server issued a certificate of another name or key")
