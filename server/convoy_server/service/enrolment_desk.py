"""What the enrolment service does with its folder and the CA: answer devices, and tend what is left.

Threads may call it at the same time.
"""

import logging
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

from convoy_privacy import key_files
from convoy_privacy.certificates import Revocations, Trust, certified
from convoy_privacy.party import CA_CERTIFICATE, REVOCATIONS
from convoy_protos.enrolment_token import TOKEN_ID_BYTES
from convoy_protos.errors import ConvoyError
from convoy_protos.v1.enrolment_pb2 import (
    EnrolmentReply,
    Issued,
    JoinRequest,
    Pending,
    RenewRequest,
    RevocationsReply,
)
from convoy_server.errors import EnrolmentRefusedError, Refusal
from convoy_server.service.enrolment_book import (
    Enrolment,
    Node,
    bind,
    check_renewal,
    node_after,
)
from convoy_server.service.enrolment_signing import Signed, sign, waiting
from convoy_server.service.enrolment_store import EnrolmentStore, Renewal

logger = logging.getLogger(__name__)


class NodeRegistry(Protocol):
    """Whom Flower's SuperLink lets in. Both calls may be repeated."""

    def register(self, node_key: bytes, name: str) -> None:
        """Let a node in.

        Raises:
            ConvoyError: The SuperLink is not up, or refuses.
        """

    def unregister(self, node_key: bytes) -> None:
        """Let it in no more; as `register`."""


class EnrolmentDesk:
    """The service without its network."""

    def __init__(
        self,
        store: EnrolmentStore,
        party: Path,
        registry: NodeRegistry,
        *,
        days: int,
        fleet: Path | None = None,
        passphrase: bytes | None = None,
    ) -> None:
        """Nobody has asked.

        Args:
            store: Tokens and what came of them.
            party: The aggregator's folder: whose CA this is, and the list of revocations that rounds
                go by.
            registry: Flower's.
            days: How long certificates last.
            fleet: The CA's folder, if it is on this machine; None: somebody signs elsewhere.
            passphrase: Of its key.
        """
        self._store = store
        self._party = party
        self._registry = registry
        self._days = days
        self._fleet = fleet
        self._passphrase = passphrase

    def join(self, request: JoinRequest, now: datetime) -> EnrolmentReply:
        """Answer a device that has a token.

        Raises:
            EnrolmentRefusedError: It may not join.
        """
        sized = len(request.token_id) == TOKEN_ID_BYTES
        with self._store.locked():
            found = self._store.enrolment(request.token_id) if sized else None
            bound = bind(found, request, now)
            if found is not None and found.keys is None and bound.keys is not None:
                self._store.bind(bound.token_id, bound.keys)
                logger.info("%s %s has used its token", bound.role.value, bound.name)
        if bound.waits:
            self._sign([bound], now)
        bound = self._store.enrolment(request.token_id) or bound
        return self._reply(bound.certificate, bound.refusal)

    def renew(self, request: RenewRequest, now: datetime) -> EnrolmentReply:
        """Answer a member whose certificate ends soon.

        Raises:
            EnrolmentRefusedError: It is no member any more, or it is too early.
        """
        member = check_renewal(request, self._trust(), now).member
        with self._store.locked():
            self._store.add_renewal(member.serial, request)
        renewal = self._renewal(member.serial)
        if not renewal.certificate:
            self._sign([renewal], now)
            renewal = self._renewal(member.serial)
        return self._reply(renewal.certificate, renewal.refusal)

    def revocations(self) -> RevocationsReply:
        """The newest list that this server has."""
        return RevocationsReply(revocations=self._newest_list().der)

    def tend(self, now: datetime) -> None:
        """Sign what waits, bring the CA's list to the rounds, tell Flower who comes and goes.

        Raises:
            ConvoyError: Something is not possible now; everything else has been done.
        """
        self._keep_newest_list()
        for outcome in self._sign([one for one in waiting(self._store) if not one.refusal], now):
            logger.info("%s: %s", outcome.what, outcome.refusal or "signed")
        revoked = self._revoked_keys()
        failed: ConvoyError | None = None
        for one in self._store.enrolments():
            try:
                self._tell_flower(one, node_after(one, revoked))
            except ConvoyError as error:
                failed = error
        if failed is not None:
            raise failed

    def _sign(self, wanted: Sequence[Enrolment | Renewal], now: datetime) -> list[Signed]:
        """What can be signed here: nothing, where the CA is elsewhere."""
        if self._fleet is None or not wanted:
            return []
        return sign(
            self._store, self._fleet, wanted, now, days=self._days, passphrase=self._passphrase
        )

    def _tell_flower(self, one: Enrolment, node: Node) -> None:
        if node is one.node or one.keys is None:
            return
        if node is Node.REGISTERED:
            self._registry.register(one.keys.node_key, one.name)
        else:
            self._registry.unregister(one.keys.node_key)
        self._store.set_node(one.token_id, node)
        logger.info("node of %s %s is %s", one.role.value, one.name, node.value)

    def _reply(self, certificate: bytes, refusal: str) -> EnrolmentReply:
        if certificate:
            issued = Issued(
                certificate=certificate,
                ca_certificate=key_files.read_certificate(self._party / CA_CERTIFICATE),
                revocations=self._newest_list().der,
            )
            return EnrolmentReply(issued=issued)
        if refusal:
            raise EnrolmentRefusedError(Refusal.NOT_SIGNED, refusal)
        return EnrolmentReply(pending=Pending())

    def _renewal(self, serial: int) -> Renewal:
        found = self._store.renewal(serial)
        assert found is not None  # noqa: S101 - it was added just now
        return found

    def _ca_public_key(self) -> bytes:
        return key_files.read_pinned_key(self._party / CA_CERTIFICATE)

    def _trust(self) -> Trust:
        return Trust(self._ca_public_key(), self._newest_list())

    def _newest_list(self) -> Revocations:
        """However old."""
        folders = [self._party] if self._fleet is None else [self._party, self._fleet]
        ca_public_key = self._ca_public_key()
        lists = [
            key_files.read_revocation_file(each / REVOCATIONS, ca_public_key) for each in folders
        ]
        return max(lists, key=lambda one: one.number)

    def _keep_newest_list(self) -> None:
        newest = self._newest_list()
        path = self._party / REVOCATIONS
        if key_files.read_revocation_file(path, self._ca_public_key()).number < newest.number:
            key_files.write_file(path, newest.der)
            logger.info("list of revocations %d is in force from the next round on", newest.number)

    def _revoked_keys(self) -> set[bytes]:
        """Identity keys that have a revoked certificate, raw Ed25519."""
        trust = self._trust()
        assert trust.revocations is not None  # noqa: S101 - there always is a list
        issued = [one.certificate for one in self._store.enrolments()]
        issued += [one.certificate for one in self._store.renewals()]
        revoked = set()
        for certificate in filter(None, issued):
            member = certified(trust.ca_public_key, certificate).member
            if member.serial in trust.revocations.serials:
                revoked.add(member.public_key.public_bytes_raw())
        return revoked
