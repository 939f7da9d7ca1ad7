"""A vehicle's side of a secure sum with pairwise masks.

    check_in -> share -> accept_shares -> masked -> sign_upload -> unmask

Between two messages everything is in the session, bytes that the caller keeps and never sends: the
vehicle's process may be another one each time. The caller stores the new session before it lets the
reply go; otherwise a crash could make the vehicle answer twice.

What a lying aggregator cannot have, whatever it asks in whatever order: a second answer to the same
step, both kinds of share of one member, a share when fewer than the threshold uploaded, two vectors
under the same masks. An identical message gets the identical bytes again, so that it can be repeated.
"""

# Shapes: P padded lanes, C counters.

import hashlib
from collections.abc import Callable, Iterable
from datetime import datetime

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from convoy_privacy.certificates import Identity, Trust
from convoy_privacy.errors import (
    BadRosterError,
    BadSharesError,
    MaskReuseError,
    OutOfOrderError,
    RefusedTermsError,
    TooFewPeersError,
    UnknownPeerError,
)
from convoy_privacy.key_stream import Counters, Lanes, StreamAdder
from convoy_privacy.secret_sharing import SHARE_BYTES, check_share, split
from convoy_privacy.secure_sum.masks import (
    SEALED_BYTES,
    PairMasks,
    ShareBoxes,
    self_mask_key,
    self_seed_commitment,
)
from convoy_privacy.secure_sum.messages import (
    KEY_BYTES,
    check_context,
    check_in_signed,
    check_length,
    digest,
    encode,
    listed,
    parse,
    shares_signed,
    unmask_signed,
    upload_signed,
)
from convoy_privacy.secure_sum.roster import check_roster
from convoy_privacy.secure_sum.terms import (
    Terms,
    VehiclePolicy,
    check_next_attempt,
    check_policy,
    context_digest,
    parse_terms,
    smallest_sum,
    threshold,
)
from convoy_protos.v1.secure_sum_pb2 import (
    CheckIn,
    Roster,
    SealedShares,
    ShareDelivery,
    UnmaskReply,
    UnmaskRequest,
    UnmaskShare,
    VehicleSession,
)

Random = Callable[[int], bytes]


def check_in(
    terms_bytes: bytes,
    identity: Identity,
    policy: VehiclePolicy,
    random: Random,
    held: bytes = b"",
) -> tuple[bytes, bytes]:
    """Join a sum with two fresh keys.

    Args:
        terms_bytes: SumTerms as they travelled.
        identity: Who we are.
        policy: What our own configuration allows.
        random: Gives so many unpredictable bytes.
        held: The session that the vehicle keeps of the same update, if any. With it the update is
            in one sum for each attempt, as sums over different vehicles show their difference.

    Returns:
        The new session, which replaces the one held, and the reply (CheckIn).

    Raises:
        RefusedTermsError: The terms are impossible, ask for helpers, are against the policy, or are
            no later attempt than the session held.
        OutOfOrderError: We are further in this very sum already.
    """
    terms = parse_terms(terms_bytes)
    check_policy(terms, policy)
    if terms.fields.helpers:
        raise RefusedTermsError("a sum with helpers has no check-in")
    session = VehicleSession.FromString(held)
    if session.terms == terms_bytes:
        return _answered(session, VehicleSession.CHECKED_IN, terms_bytes)
    if session.terms:
        check_next_attempt(terms, parse_terms(session.terms))
    mask_key = X25519PrivateKey.from_private_bytes(random(KEY_BYTES))
    share_key = X25519PrivateKey.from_private_bytes(random(KEY_BYTES))
    reply = _own_check_in(terms, mask_key, share_key, identity)
    session = VehicleSession(
        stage=VehicleSession.CHECKED_IN,
        terms=terms_bytes,
        mask_private_key=mask_key.private_bytes_raw(),
        share_private_key=share_key.private_bytes_raw(),
    )
    return _answer(session, terms_bytes, encode(reply))


def share(  # noqa: PLR0917 - who, in what, when: each of them is needed
    session_bytes: bytes,
    roster_bytes: bytes,
    identity: Identity,
    trust: Trust,
    now: datetime,
    random: Random,
) -> tuple[bytes, bytes]:
    """Check who is in the sum and share our two secrets among them.

    Returns:
        The new session and the reply (SealedShares).

    Raises:
        BadRosterError: Somebody is in it twice, or we are not.
        TooFewPeersError: Fewer members than the terms promise.
        ProtocolError: A member is not trusted, or its signature does not fit.
        OutOfOrderError: Not after a check-in, or another roster than before.
    """
    session = VehicleSession.FromString(session_bytes)
    if session.stage != VehicleSession.CHECKED_IN:
        return _answered(session, VehicleSession.SHARED, roster_bytes)
    terms = parse_terms(session.terms)
    mask_key = X25519PrivateKey.from_private_bytes(session.mask_private_key)
    share_key = X25519PrivateKey.from_private_bytes(session.share_private_key)
    # Ed25519 signatures are deterministic, so our own entry is known to the last byte.
    own = _own_check_in(terms, mask_key, share_key, identity)
    roster, slot = check_roster(roster_bytes, own, terms, trust, now)
    context = context_digest(terms.digest, roster_bytes)
    members = len(roster.members)
    slots = range(1, members + 1)
    self_seed = random(KEY_BYTES)
    seed_shares = split(self_seed, threshold(members), slots, random)
    key_shares = split(session.mask_private_key, threshold(members), slots, random)
    boxes = ShareBoxes(share_key, slot, context)
    plain = [seed + key for seed, key in zip(seed_shares, key_shares, strict=True)]
    sealed = [
        b"" if peer == slot else boxes.seal(peer, member.share_key, plain[peer - 1])
        for peer, member in enumerate(roster.members, start=1)
    ]
    commitment = self_seed_commitment(self_seed, context, slot)
    reply = SealedShares(
        context_digest=context,
        sealed=sealed,
        self_seed_commitment=commitment,
        signature=identity.sign(shares_signed(context, commitment, sealed)),
    )
    session.stage = VehicleSession.SHARED
    session.roster = roster_bytes
    session.slot = slot
    session.self_seed = self_seed
    # Our own share waits at our own place for what the peers send; see accept_shares.
    session.delivery = encode(
        ShareDelivery(sealed=[plain[slot - 1] if peer == slot else b"" for peer in slots])
    )
    return _answer(session, roster_bytes, encode(reply))


def accept_shares(session_bytes: bytes, delivery_bytes: bytes) -> bytes:
    """Keep what the peers sealed for us; who sealed nothing is not in the sum.

    The boxes stay closed until unmask, where the aggregator may never ask for some of them.

    Returns:
        The new session.

    Raises:
        TooFewPeersError: Fewer than the threshold or the minimum shared, us included.
        WrongContextError: The delivery belongs to another sum.
        MalformedMessageError: It does not parse or a box has a wrong length.
        OutOfOrderError: Not after share, or another delivery than before.
    """
    session = VehicleSession.FromString(session_bytes)
    if _delivered(session) and session.last_request_digest == _request_digest(delivery_bytes):
        return session_bytes
    if session.stage != VehicleSession.SHARED or _delivered(session):
        raise OutOfOrderError("shares are taken once, after ours were given")
    terms, context = _sum_of(session)
    delivery = parse(ShareDelivery, delivery_bytes)
    check_context(delivery.context_digest, context)
    held = ShareDelivery.FromString(session.delivery)
    members = len(held.sealed)
    if len(delivery.sealed) != members:
        raise BadRosterError(f"{len(delivery.sealed)} places for {members} members")
    for slot, box in enumerate(delivery.sealed, start=1):
        if box:
            check_length("a box", box, 0 if slot == session.slot else SEALED_BYTES)
    present = 1 + sum(1 for box in delivery.sealed if box)
    if present < smallest_sum(terms, members):
        raise TooFewPeersError("members that shared", present, smallest_sum(terms, members))
    delivery.sealed[session.slot - 1] = held.sealed[session.slot - 1]
    session.delivery = encode(delivery)
    return _answer(session, delivery_bytes, b"")[0]


def masked(
    session_bytes: bytes, lanes_P: Lanes, counters_C: Counters
) -> tuple[bytes, Lanes, Counters]:
    """Hide our vector from everybody: new arrays, what came is left as it is.

    The result can be computed again from the session, so the caller need not keep it.

    Args:
        session_bytes: After accept_shares.
        lanes_P: uint8 up to 8 modulus bits, uint16 above; modulo their type's size.
        counters_C: uint64, modulo 2^64.

    Raises:
        MaskReuseError: Another vector than before.
        OutOfOrderError: Not after accept_shares.
    """
    session = VehicleSession.FromString(session_bytes)
    if session.stage not in (VehicleSession.SHARED, VehicleSession.UPLOADED):
        raise OutOfOrderError("there are no masks at this point")
    if not _delivered(session):
        raise OutOfOrderError("the peers' shares have not come yet")
    terms, context = _sum_of(session)
    session = mark_upload(session, terms, lanes_P, counters_C)
    vectors = StreamAdder(lanes_P.copy(), counters_C.copy())
    vectors.add(self_mask_key(session.self_seed, context, session.slot))
    roster = Roster.FromString(session.roster)
    mask_key = X25519PrivateKey.from_private_bytes(session.mask_private_key)
    pairs = PairMasks(mask_key, session.slot, context)
    for peer in sorted(_sharers(session) - {session.slot}):
        pairs.add(vectors, peer, roster.members[peer - 1].mask_key)
    return encode(session), vectors.lanes_P, vectors.counters_C


def mark_upload(
    session: VehicleSession, terms: Terms, lanes_P: Lanes, counters_C: Counters
) -> VehicleSession:
    """The session with this vector noted as the only one for its masks.

    Raises:
        MaskReuseError: Another vector is noted.
    """
    lane_type = np.uint8 if terms.fields.modulus_bits <= 8 else np.uint16
    if lanes_P.dtype != lane_type or counters_C.dtype != np.uint64:
        raise ValueError(
            f"lanes are {lane_type.__name__} and counters uint64, "
            f"got {lanes_P.dtype} and {counters_C.dtype}"
        )
    hashed = hashlib.sha256(b"convoy vector/1")
    hashed.update(lanes_P.size.to_bytes(8, "big"))
    hashed.update(np.ascontiguousarray(lanes_P).data)
    hashed.update(np.ascontiguousarray(counters_C).data)
    if session.upload_digest not in (b"", hashed.digest()):
        raise MaskReuseError("these masks already hide another vector")
    session.upload_digest = hashed.digest()
    session.stage = VehicleSession.UPLOADED
    return session


def describe(session_bytes: bytes) -> tuple[Terms, int, bytes]:
    """Terms, our slot from 1, and the context digest of the sum that a session is in.

    Raises:
        OutOfOrderError: Not between share (or seal_seeds) and the answer.
    """
    session = VehicleSession.FromString(session_bytes)
    if session.stage not in (VehicleSession.SHARED, VehicleSession.UPLOADED):
        raise OutOfOrderError("there is no sum at this point")
    terms, context = _sum_of(session)
    return terms, session.slot, context


def members_summed(session_bytes: bytes, request_bytes: bytes) -> bytes:
    """Digest of whose updates are in the sum that an unmask request opens.

    The caller keeps it for as long as it keeps the update: two sums over different vehicles show, as
    their difference, who is in one of them only.
    """
    roster = Roster.FromString(VehicleSession.FromString(session_bytes).roster)
    slots = parse(UnmaskRequest, request_bytes).uploaded
    return _members_digest(roster.members[slot - 1].certificate for slot in slots)


def check_same_members(opened: bytes, roster_bytes: bytes) -> None:
    """Refuse another sum of an update over other vehicles than those of the sum opened before.

    Args:
        opened: From `members_summed`.
        roster_bytes: Of the sum that begins.

    Raises:
        BadRosterError: Somebody is missing or new.
    """
    roster = parse(Roster, roster_bytes)
    if _members_digest(member.certificate for member in roster.members) != opened:
        raise BadRosterError(
            "a second sum of the same update is over other vehicles: the difference would show one"
        )


def check_nobody_lost(session_bytes: bytes, request_bytes: bytes) -> None:
    """Refuse to open a second sum of an update without one of its vehicles.

    Raises:
        BadRosterError: Somebody is missing.
    """
    roster = Roster.FromString(VehicleSession.FromString(session_bytes).roster)
    if len(parse(UnmaskRequest, request_bytes).uploaded) != len(roster.members):
        raise BadRosterError(
            "a second sum of the same update lacks a vehicle: the difference would show it"
        )


def _members_digest(certificates: Iterable[bytes]) -> bytes:
    return digest("convoy members/1", listed(certificates))


def uploads_needed(session_bytes: bytes) -> int:
    """Vehicles whose updates are in the sum, at least: fewer are never unmasked."""
    session = VehicleSession.FromString(session_bytes)
    members = len(Roster.FromString(session.roster).members)
    return smallest_sum(parse_terms(session.terms), members)


def sign_upload(session_bytes: bytes, identity: Identity, body: bytes | memoryview) -> bytes:
    """Signature over the sum and the upload's bytes.

    Raises:
        OutOfOrderError: Nothing was masked in this session.
    """
    session = VehicleSession.FromString(session_bytes)
    if session.stage != VehicleSession.UPLOADED:
        raise OutOfOrderError("only a masked vector is signed")
    return identity.sign(upload_signed(_sum_of(session)[1], body))


def unmask(session_bytes: bytes, request_bytes: bytes, identity: Identity) -> tuple[bytes, bytes]:
    """Give one kind of share of each member, once; then forget every secret.

    A share that its owner sealed wrongly is left out.

    Returns:
        The new session and the reply (UnmaskReply).

    Raises:
        TooFewPeersError: Fewer uploads than the threshold or the minimum.
        BadRosterError: A slot twice, of both kinds, out of order, or we are not among the uploads.
        UnknownPeerError: A slot that shared nothing with us.
        WrongContextError: The request belongs to another sum.
        OutOfOrderError: Not after masked, or another request than the one answered.
    """
    session = VehicleSession.FromString(session_bytes)
    if session.stage != VehicleSession.UPLOADED:
        return _answered(session, VehicleSession.UNMASKED, request_bytes)
    terms, context = _sum_of(session)
    request = parse(UnmaskRequest, request_bytes)
    check_context(request.context_digest, context)
    _check_unmask_request(request, session, terms)
    shares = sorted(
        [
            *_own_shares(session, context, list(request.uploaded), slice(0, SHARE_BYTES)),
            *_own_shares(session, context, list(request.lost), slice(SHARE_BYTES, None)),
        ]
    )
    request_digest = _request_digest(request_bytes)
    reply = UnmaskReply(
        context_digest=context,
        shares=[UnmaskShare(slot=slot, share=share) for slot, share in shares],
        signature=identity.sign(unmask_signed(context, request_digest, shares)),
    )
    spent = VehicleSession(stage=VehicleSession.UNMASKED, terms=session.terms, slot=session.slot)
    return _answer(spent, request_bytes, encode(reply))


def _check_unmask_request(request: UnmaskRequest, session: VehicleSession, terms: Terms) -> None:
    uploaded, lost = list(request.uploaded), list(request.lost)
    for slots in (uploaded, lost):
        if slots != sorted(set(slots)):
            raise BadRosterError("the slots are not in order, or one is there twice")
    if set(uploaded) & set(lost):
        raise BadRosterError("both secrets of one member are asked for")
    if session.slot not in uploaded:
        raise BadRosterError("our own upload is not in the sum")
    strangers = (set(uploaded) | set(lost)) - _sharers(session)
    if strangers:
        raise UnknownPeerError(f"slot {min(strangers)} shared nothing with us")
    needed = smallest_sum(terms, len(ShareDelivery.FromString(session.delivery).sealed))
    if len(uploaded) < needed:
        raise TooFewPeersError("uploads", len(uploaded), needed)


def _own_shares(
    session: VehicleSession, context: bytes, slots: list[int], kind: slice
) -> list[tuple[int, bytes]]:
    """Our shares of these members' secrets."""
    roster = Roster.FromString(session.roster)
    delivery = ShareDelivery.FromString(session.delivery)
    share_key = X25519PrivateKey.from_private_bytes(session.share_private_key)
    boxes = ShareBoxes(share_key, session.slot, context)
    shares = []
    for slot in slots:
        plain = delivery.sealed[slot - 1]
        try:
            if slot != session.slot:
                plain = boxes.open(slot, roster.members[slot - 1].share_key, plain)
            check_share(plain[kind])
        except BadSharesError:
            continue
        shares.append((slot, plain[kind]))
    return shares


def _own_check_in(
    terms: Terms, mask_key: X25519PrivateKey, share_key: X25519PrivateKey, identity: Identity
) -> CheckIn:
    mask_public = mask_key.public_key().public_bytes_raw()
    share_public = share_key.public_key().public_bytes_raw()
    return CheckIn(
        certificate=identity.certificate,
        mask_key=mask_public,
        share_key=share_public,
        signature=identity.sign(check_in_signed(terms.digest, mask_public, share_public)),
    )


def _sum_of(session: VehicleSession) -> tuple[Terms, bytes]:
    """Terms and context digest."""
    terms = parse_terms(session.terms)
    return terms, context_digest(terms.digest, session.roster)


def _sharers(session: VehicleSession) -> set[int]:
    """Slots whose shares we have, ours included."""
    delivery = ShareDelivery.FromString(session.delivery)
    return {slot for slot, box in enumerate(delivery.sealed, start=1) if box}


def _delivered(session: VehicleSession) -> bool:
    return len(_sharers(session)) > 1


def _request_digest(request: bytes) -> bytes:
    return hashlib.sha256(request).digest()


def _answer(session: VehicleSession, request: bytes, reply: bytes) -> tuple[bytes, bytes]:
    """The session that gives the same reply to the same request."""
    session.last_request_digest = _request_digest(request)
    session.last_reply = reply
    return encode(session), reply


def _answered(session: VehicleSession, stage: int, request: bytes) -> tuple[bytes, bytes]:
    """The answer already given.

    Raises:
        OutOfOrderError: The session is at another stage, or the request is another one.
    """
    if session.stage != stage or session.last_request_digest != _request_digest(request):
        raise OutOfOrderError("the message is out of its turn, or differs from the one answered")
    return encode(session), session.last_reply
