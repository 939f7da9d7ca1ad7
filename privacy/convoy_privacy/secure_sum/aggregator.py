"""The aggregator's side of a secure sum with pairwise masks: one shard, one attempt.

    check_in... close_check_in -> shares... close_shares -> verify_upload... close_uploads
    -> unmask_reply... -> mask_sum

Whatever a peer sends is taken or raises a ProtocolError and changes nothing. A vehicle that checks in
and shares nothing is not in the sum; one that shared and has no valid upload is lost, and its masks are
rebuilt from its peers' shares. A repeated message is taken silently, an upload only once, because its
caller adds it. The aggregator never asks for both secrets of one vehicle.
"""

# Shapes: P padded lanes, C counters.

import enum
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from convoy_privacy.certificates import Member, Role, Trust
from convoy_privacy.errors import (
    BadRosterError,
    BadSharesError,
    LateUploadError,
    OutOfOrderError,
    TooFewPeersError,
    UnknownPeerError,
    UntrustedPeerError,
)
from convoy_privacy.key_stream import Counters, Lanes, StreamAdder
from convoy_privacy.secret_sharing import check_share
from convoy_privacy.secure_sum.masks import (
    SEALED_BYTES,
    PairMasks,
    agree,
    self_mask_key,
    self_seed_commitment,
)
from convoy_privacy.secure_sum.messages import (
    DIGEST_BYTES,
    SIGNATURE_BYTES,
    check_context,
    check_length,
    encode,
    parse,
    shares_signed,
    unmask_signed,
    upload_signed,
)
from convoy_privacy.secure_sum.recovery import Wanted, recover
from convoy_privacy.secure_sum.roster import check_check_in
from convoy_privacy.secure_sum.terms import (
    MAX_MEMBERS,
    context_digest,
    parse_terms,
    smallest_sum,
    threshold,
)
from convoy_protos.errors import MalformedMessageError
from convoy_protos.v1.secure_sum_pb2 import (
    CheckIn,
    Roster,
    SealedShares,
    ShareDelivery,
    UnmaskReply,
    UnmaskRequest,
)

# Any scalar: agreeing with it shows a point of small order, which would make every honest vehicle
# refuse the roster.
_PROBE = X25519PrivateKey.from_private_bytes(bytes(32))


class Stage(enum.Enum):
    """What the aggregator waits for."""

    CHECK_IN = enum.auto()
    SHARES = enum.auto()
    UPLOADS = enum.auto()
    UNMASK = enum.auto()


@dataclass(slots=True)
class _Vehicle:
    """What one vehicle has sent so far; slot 0 is none yet."""

    member: Member
    keys: CheckIn
    encoded: bytes
    slot: int = 0
    shares: SealedShares | None = None
    uploaded: bool = False
    unmask_shares: dict[int, bytes] | None = None


class Aggregator:
    """One sum over one shard.

    Attributes:
        terms: Checked terms.
        stage: What is waited for.
        context: Digest that names the sum; empty until the roster is closed.
        culprits: Names of the vehicles whose shares were wrong, as the last mask_sum found.
    """

    def __init__(self, terms_bytes: bytes, trust: Trust, now: datetime) -> None:
        """Wait for check-ins.

        Raises:
            RefusedTermsError: No vehicle would accept these terms.
        """
        self.terms = parse_terms(terms_bytes)
        if self.terms.fields.helpers:
            raise ValueError("these terms are for a sum with helpers")
        self.stage = Stage.CHECK_IN
        self.context = b""
        self.culprits: set[str] = set()
        self._trust = trust
        self._now = now
        self._vehicles: dict[str, _Vehicle] = {}
        self._request_digest = b""

    def check_in(self, name: str, reply_bytes: bytes) -> None:
        """Take a vehicle's fresh keys.

        Raises:
            ProtocolError: Not trusted, not who the transport says, a bad key or signature, too late,
                or the shard is full.
        """
        self._expect(Stage.CHECK_IN)
        known = self._vehicles.get(name)
        if known is not None:
            _same(known.encoded, reply_bytes)
            return
        if len(self._vehicles) >= MAX_MEMBERS:
            raise BadRosterError(f"the shard has {MAX_MEMBERS} members already")
        keys = parse(CheckIn, reply_bytes)
        member = check_check_in(keys, self.terms, self._trust, self._now)
        if member.name != name:
            raise UnknownPeerError(f"{name} sent the certificate of {member.name}")
        taken = {
            key
            for other in self._vehicles.values()
            for key in (other.keys.mask_key, other.keys.share_key)
        }
        if keys.mask_key == keys.share_key or {keys.mask_key, keys.share_key} & taken:
            raise BadRosterError(f"{name} has a key that is there already")
        for key in (keys.mask_key, keys.share_key):
            agree(_PROBE, key)
        self._vehicles[name] = _Vehicle(member, keys, reply_bytes)

    def close_check_in(self, revocations: bytes) -> bytes:
        """Fix who is in the shard; the same bytes (Roster) go to every member.

        Args:
            revocations: The fleet CA's revocation list, DER; empty if there is none.

        Raises:
            TooFewPeersError: Fewer than the minimum; check-ins are still taken.
            RevocationListError: It is not our CA's, or too old.
        """
        self._expect(Stage.CHECK_IN)
        trust = self._trust.with_revocations(revocations, self._now)
        present = {}
        for name, vehicle in sorted(self._vehicles.items()):
            try:
                trust.verify(vehicle.keys.certificate, Role.VEHICLE, self._now)
            except UntrustedPeerError:
                continue  # revoked since it checked in; the others would refuse a roster with it
            present[name] = vehicle
        minimum = self.terms.fields.minimum_cohort
        if len(present) < minimum:
            raise TooFewPeersError("members", len(present), minimum)
        for slot, vehicle in enumerate(present.values(), start=1):
            vehicle.slot = slot
        self._vehicles = present
        roster = encode(
            Roster(members=[vehicle.keys for vehicle in present.values()], revocations=revocations)
        )
        self.context = context_digest(self.terms.digest, roster)
        self.stage = Stage.SHARES
        return roster

    def shares(self, name: str, reply_bytes: bytes) -> None:
        """Take what a member sealed for its peers.

        Raises:
            ProtocolError: Not a member, another sum, wrong lengths, a bad signature, too late.
        """
        self._expect(Stage.SHARES)
        vehicle = self._member(name)
        if vehicle.shares is not None:
            _same(encode(vehicle.shares), reply_bytes)
            return
        shares = parse(SealedShares, reply_bytes)
        check_context(shares.context_digest, self.context)
        check_length("a commitment", shares.self_seed_commitment, DIGEST_BYTES)
        check_length("a signature", shares.signature, SIGNATURE_BYTES)
        if len(shares.sealed) != len(self._vehicles):
            raise MalformedMessageError(
                f"{len(shares.sealed)} boxes for {len(self._vehicles)} members"
            )
        for slot, box in enumerate(shares.sealed, start=1):
            check_length("a box", box, 0 if slot == vehicle.slot else SEALED_BYTES)
        signed = shares_signed(self.context, shares.self_seed_commitment, shares.sealed)
        vehicle.member.check_signature(shares.signature, signed)
        vehicle.shares = shares

    def close_shares(self) -> dict[str, bytes]:
        """Fix who is in the sum; by name what each member gets (ShareDelivery).

        Raises:
            TooFewPeersError: Fewer than the threshold or the minimum; shares are still taken.
        """
        self._expect(Stage.SHARES)
        sharers = {
            name: vehicle for name, vehicle in self._vehicles.items() if vehicle.shares is not None
        }
        self._enough("members that shared", len(sharers))
        self.stage = Stage.UPLOADS
        return {
            name: encode(
                ShareDelivery(
                    context_digest=self.context,
                    sealed=[
                        sender.shares.sealed[vehicle.slot - 1] if sender.shares else b""
                        for sender in self._vehicles.values()
                    ],
                )
            )
            for name, vehicle in sharers.items()
        }

    def verify_upload(self, name: str, body: bytes | memoryview, signature: bytes) -> None:
        """Take a member's upload as part of the sum; the caller then adds its lanes.

        The caller checks the body's length before, so that an upload taken here can be added.

        Raises:
            LateUploadError: The members without an upload have been declared lost.
            ProtocolError: Not in the sum, uploaded already, or a bad signature.
        """
        if self.stage is Stage.UNMASK:
            raise LateUploadError(f"the upload of {name} comes too late")
        self._expect(Stage.UPLOADS)
        vehicle = self._sharer(name)
        if vehicle.uploaded:
            raise OutOfOrderError(f"{name} has uploaded already")
        vehicle.member.check_signature(signature, upload_signed(self.context, body))
        vehicle.uploaded = True

    def close_uploads(self) -> bytes:
        """Fix which updates are in the sum; the same bytes (UnmaskRequest) go to all who uploaded.

        Raises:
            TooFewPeersError: Fewer than the threshold or the minimum; uploads are still taken.
        """
        self._expect(Stage.UPLOADS)
        uploaded = [vehicle.slot for vehicle in self._vehicles.values() if vehicle.uploaded]
        self._enough("uploads", len(uploaded))
        lost = [
            vehicle.slot
            for vehicle in self._vehicles.values()
            if vehicle.shares is not None and not vehicle.uploaded
        ]
        request = UnmaskRequest(context_digest=self.context, uploaded=uploaded, lost=lost)
        encoded = encode(request)
        self._request_digest = hashlib.sha256(encoded).digest()
        self.stage = Stage.UNMASK
        return encoded

    def unmask_reply(self, name: str, reply_bytes: bytes) -> None:
        """Take a member's shares.

        Raises:
            ProtocolError: Its upload is not in the sum, another sum, slots that nobody asked for,
                impossible shares, a bad signature, or too early.
        """
        self._expect(Stage.UNMASK)
        vehicle = self._sharer(name)
        if not vehicle.uploaded:
            raise UnknownPeerError(f"{name} is lost; its shares are not asked for")
        reply = parse(UnmaskReply, reply_bytes)
        check_context(reply.context_digest, self.context)
        check_length("a signature", reply.signature, SIGNATURE_BYTES)
        slots = [share.slot for share in reply.shares]
        asked = {other.slot for other in self._vehicles.values() if other.shares is not None}
        if slots != sorted(set(slots)) or not asked.issuperset(slots):
            raise BadRosterError(f"{name} gives shares of slots that are not asked for")
        shares = {share.slot: share.share for share in reply.shares}
        for share in shares.values():
            check_share(share)
        signed = unmask_signed(self.context, self._request_digest, shares.items())
        vehicle.member.check_signature(reply.signature, signed)
        if vehicle.unmask_shares not in (None, shares):
            raise OutOfOrderError(f"{name} has answered otherwise before")
        vehicle.unmask_shares = shares

    @property
    def removable(self) -> bool:
        """Are there enough shares of every secret?"""
        if self.stage is not Stage.UNMASK:
            return False
        needed = threshold(len(self._vehicles))
        return all(len(shares) >= needed for shares in self._shares_by_owner().values())

    def mask_sum(
        self, lane_type: type[np.uint8] | type[np.uint16], lane_count: int, counter_count: int
    ) -> tuple[Lanes, Counters]:
        """What to subtract from the sum of the uploads.

        Args:
            lane_type: uint8 up to 8 modulus bits, uint16 above.
            lane_count: P.
            counter_count: C.

        Raises:
            TooFewPeersError: Too few members have answered.
            BadSharesError: A secret cannot be rebuilt; names who sent or dealt bad shares.
        """
        self._expect(Stage.UNMASK)
        secrets = self._secrets()
        vectors = StreamAdder(np.zeros(lane_count, lane_type), np.zeros(counter_count, np.uint64))
        uploaded = [vehicle for vehicle in self._vehicles.values() if vehicle.uploaded]
        for vehicle in self._vehicles.values():
            if vehicle.slot not in secrets:
                continue
            secret = secrets[vehicle.slot]
            if vehicle.uploaded:
                vectors.add(self_mask_key(secret, self.context, vehicle.slot))
                continue
            # The survivors' masks against the lost one are the lost one's own with the other sign.
            masks = PairMasks(
                X25519PrivateKey.from_private_bytes(secret), vehicle.slot, self.context
            )
            for peer in uploaded:
                masks.remove(vectors, peer.slot, peer.keys.mask_key)
        return vectors.lanes_P, vectors.counters_C

    def _secrets(self) -> dict[int, bytes]:
        """By slot the self seed of who uploaded, the mask key of who is lost."""
        needed = threshold(len(self._vehicles))
        by_owner = self._shares_by_owner()
        names = {vehicle.slot: name for name, vehicle in self._vehicles.items()}
        short = {names[slot] for slot, shares in by_owner.items() if len(shares) < needed}
        answers = sum(1 for vehicle in self._vehicles.values() if vehicle.unmask_shares is not None)
        if short:
            if answers >= needed:  # enough holders, but their boxes did not open
                self.culprits = short
            raise TooFewPeersError(
                "shares of one member's secret", min(map(len, by_owner.values())), needed
            )
        recovered = recover(
            {
                vehicle.slot: Wanted(by_owner[vehicle.slot], self._recognizer(vehicle))
                for vehicle in self._vehicles.values()
                if vehicle.slot in by_owner
            },
            needed,
        )
        self.culprits = {names[slot] for slot in recovered.liars | recovered.hopeless}
        if recovered.hopeless:
            owners = ", ".join(names[slot] for slot in sorted(recovered.hopeless))
            raise BadSharesError(
                f"no secret fits the shares that {owners} dealt", tuple(sorted(self.culprits))
            )
        return recovered.secrets

    def _recognizer(self, vehicle: _Vehicle) -> Callable[[bytes], bool]:
        """Is this the secret that the vehicle signed for?"""

        def fits_commitment(secret: bytes) -> bool:
            commitment = self_seed_commitment(secret, self.context, vehicle.slot)
            return vehicle.shares is not None and commitment == vehicle.shares.self_seed_commitment

        def fits_public_key(secret: bytes) -> bool:
            public_key = X25519PrivateKey.from_private_bytes(secret).public_key()
            return public_key.public_bytes_raw() == vehicle.keys.mask_key

        return fits_commitment if vehicle.uploaded else fits_public_key

    def _shares_by_owner(self) -> dict[int, dict[int, bytes]]:
        """By slot of the owner: shares by slot of the holder."""
        by_owner: dict[int, dict[int, bytes]] = {
            vehicle.slot: {} for vehicle in self._vehicles.values() if vehicle.shares is not None
        }
        for holder in self._vehicles.values():
            for owner, share in (holder.unmask_shares or {}).items():
                by_owner[owner][holder.slot] = share
        return by_owner

    def _enough(self, what: str, present: int) -> None:
        needed = smallest_sum(self.terms, len(self._vehicles))
        if present < needed:
            raise TooFewPeersError(what, present, needed)

    def _expect(self, stage: Stage) -> None:
        if self.stage is not stage:
            raise OutOfOrderError(f"this is the time of {self.stage.name}, not of {stage.name}")

    def _member(self, name: str) -> _Vehicle:
        vehicle = self._vehicles.get(name)
        if vehicle is None:
            raise UnknownPeerError(f"{name} is not in the roster")
        return vehicle

    def _sharer(self, name: str) -> _Vehicle:
        vehicle = self._member(name)
        if vehicle.shares is None:
            raise UnknownPeerError(f"{name} shared nothing, so it is not in the sum")
        return vehicle


def _same(before: bytes, again: bytes) -> None:
    """A repeated message is fine, a second one is not."""
    if before != again:
        raise OutOfOrderError("another message of this kind came before")
