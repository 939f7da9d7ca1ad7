"""A vehicle's side of a secure sum with mask helpers: one message, no answer to wait for.

The vehicle adds one mask for each helper and seals that mask's seed to it. While one helper keeps its
seeds from the aggregator, the update is hidden. Nobody can stand in for a lost helper, and nobody needs
to for a lost vehicle. The session is as in vehicle.py; the caller drops it with the round, because it
has the seeds until then for a repeated upload.
"""

# Shapes: P padded lanes, C counters.

from datetime import datetime

from convoy_privacy.certificates import Identity, Role, Trust
from convoy_privacy.errors import BadRosterError, OutOfOrderError, RefusedTermsError
from convoy_privacy.key_stream import Counters, Lanes, StreamAdder
from convoy_privacy.sealing import seal, verify_sealing_key
from convoy_privacy.secure_sum.masks import derive, helper_mask_key
from convoy_privacy.secure_sum.messages import (
    KEY_BYTES,
    digest,
    encode,
    helper_seeds_signed,
    listed,
)
from convoy_privacy.secure_sum.terms import (
    Terms,
    VehiclePolicy,
    check_next_attempt,
    check_policy,
    context_digest,
    parse_terms,
)
from convoy_privacy.secure_sum.vehicle import Random, mark_upload
from convoy_protos.v1.secure_sum_pb2 import HelperSeeds, VehicleSession


def seal_seeds(  # noqa: PLR0917 - who, for what, when: each of them is needed
    terms_bytes: bytes,
    identity: Identity,
    policy: VehiclePolicy,
    trust: Trust,
    now: datetime,
    random: Random,
    held: bytes = b"",
) -> tuple[bytes, bytes]:
    """One seed for each helper.

    Args:
        terms_bytes: SumTerms as they travelled.
        identity: Who we are; our place in the cohort is our slot.
        policy: What our own configuration allows.
        trust: Whose helpers we take.
        now: With a time zone.
        random: Gives so many unpredictable bytes.
        held: The session that the vehicle keeps of the same update, if any; see vehicle.check_in.

    Returns:
        The new session and what stands beside the upload (HelperSeeds).

    Raises:
        RefusedTermsError: Impossible, without helpers, against the policy, or no later attempt.
        BadRosterError: We are not in the cohort, or one helper is named twice.
        ProtocolError: A helper is not trusted, or did not sign its key.
    """
    terms = parse_terms(terms_bytes)
    check_policy(terms, policy)
    if not terms.fields.helpers:
        raise RefusedTermsError("a sum without helpers has no seeds for them")
    session = VehicleSession.FromString(held)
    if session.terms == terms_bytes:
        return held, session.last_reply
    if session.terms:
        check_next_attempt(terms, parse_terms(session.terms))
    slot = slot_in_cohort(terms, identity.name)
    context = context_digest(terms.digest, b"")
    root = random(KEY_BYTES)
    names = set()
    sealed = []
    for place, helper in enumerate(terms.fields.helpers):
        names.add(verify_sealing_key(helper, trust, Role.HELPER, now).name)
        sealed.append(
            seal(
                helper.suite,
                helper.sealing_key,
                _seed(root, context, place),
                info=seed_info(context),
                aad=seed_aad(slot, place),
            )
        )
    if len(names) != len(sealed):
        raise BadRosterError("one helper is named twice")
    reply = encode(
        HelperSeeds(
            certificate=identity.certificate,
            context_digest=context,
            sealed=sealed,
            signature=identity.sign(helper_seeds_signed(context, sealed)),
        )
    )
    session = VehicleSession(
        stage=VehicleSession.SHARED,
        terms=terms_bytes,
        slot=slot,
        self_seed=root,
        last_request_digest=digest("", terms_bytes),
        last_reply=reply,
    )
    return encode(session), reply


def masked_for_helpers(
    session_bytes: bytes, lanes_P: Lanes, counters_C: Counters
) -> tuple[bytes, Lanes, Counters]:
    """Hide our vector; otherwise as vehicle.masked. Signed by vehicle.sign_upload.

    Raises:
        MaskReuseError: Another vector than before.
        OutOfOrderError: Not after seal_seeds.
    """
    session = VehicleSession.FromString(session_bytes)
    terms = parse_terms(session.terms) if session.terms else None
    if terms is None or not terms.fields.helpers:
        raise OutOfOrderError("no seeds have been sealed to helpers")
    session = mark_upload(session, terms, lanes_P, counters_C)
    context = context_digest(terms.digest, b"")
    vectors = StreamAdder(lanes_P.copy(), counters_C.copy())
    for place in range(len(terms.fields.helpers)):
        seed = _seed(session.self_seed, context, place)
        vectors.add(helper_mask_key(seed, context, session.slot))
    return encode(session), vectors.lanes_P, vectors.counters_C


def helpers_digest(terms_bytes: bytes) -> bytes:
    """Digest of whose memory keeps the sums of an update apart.

    The caller keeps it for as long as it keeps the update: only the helpers learn over whom a sum is
    opened, so only the same helpers can refuse a second one over others.
    """
    helpers = parse_terms(terms_bytes).fields.helpers
    return digest("convoy helpers/1", listed(helper.certificate for helper in helpers))


def check_same_helpers(opened: bytes, terms_bytes: bytes) -> None:
    """Refuse a sum of an update with other helpers than before, or after one with pairwise masks.

    Args:
        opened: From `helpers_digest`, or from vehicle.members_summed.
        terms_bytes: Of the sum that begins.

    Raises:
        RefusedTermsError: Nobody could tell that it is over the same vehicles.
    """
    if helpers_digest(terms_bytes) != opened:
        raise RefusedTermsError(
            "a second sum of the same update has other helpers: nobody would see to it that both are "
            "over the same vehicles"
        )


def slot_in_cohort(terms: Terms, name: str) -> int:
    """A vehicle's slot, from 1.

    Raises:
        BadRosterError: It is not in the cohort.
    """
    for slot, other in enumerate(terms.fields.cohort, start=1):
        if other == name:
            return slot
    raise BadRosterError(f"{name} is not in the cohort")


def seed_info(context: bytes) -> bytes:
    """What a sealed seed is bound to, as the sum goes."""
    return b"convoy helper seed/1" + context


def seed_aad(slot: int, place: int) -> bytes:
    """What a sealed seed is bound to, as sender and helper go."""
    return slot.to_bytes(4, "big") + place.to_bytes(4, "big")


def _seed(root: bytes, context: bytes, place: int) -> bytes:
    """The seed for the helper at this place of the terms; the others' do not follow from it."""
    return derive(root, "convoy helper seed/1", context, place)
