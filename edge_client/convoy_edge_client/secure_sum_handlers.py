"""Answer the exchanges of a secure sum with what waits for it: a trained update, or scores.

    check_in -> share -> upload -> unmask        with pairwise masks
    helped_upload                                with mask helpers

The rules are in convoy_privacy.secure_sum.vehicle and helped_vehicle; here what waits, the numbers of
the codec and this vehicle's configuration meet them. A vehicle that refuses raises, which the server
counts. Scores are summed with pairwise masks alone.
"""

# Shapes: N parameters that are sent, P padded lanes, C counters.

import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from convoy_compression.update.bit_packing import Lanes
from convoy_compression.update.masked import MaskedFormat
from convoy_edge_client.errors import NoUpdateKeptError, RefusedInstructionsError
from convoy_edge_client.local_update import (
    LocalScores,
    Waiting,
    draw_noise_key,
    drop_noise_key,
    kept,
    noise_key,
    save_session,
    session_of,
)
from convoy_edge_client.opened_sums import check_not_earlier, note_opened, opened_members
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_edge_client.vehicle_party import keep_revocations, party_of
from convoy_privacy.clipping import clip, norm
from convoy_privacy.key_stream import KeyStream
from convoy_privacy.rounded_sensitivity import bounded_lanes, rounded_sensitivity
from convoy_privacy.secure_sum import vehicle as protocol
from convoy_privacy.secure_sum.helped_vehicle import (
    check_same_helpers,
    helpers_digest,
    masked_for_helpers,
    seal_seeds,
)
from convoy_privacy.secure_sum.terms import Terms, VehiclePolicy, parse_terms
from convoy_privacy.skellam import share_of_variance, skellam_noise
from convoy_protos import envelope
from convoy_protos.envelope import COUNTER_SCALE
from convoy_protos.protection import MASKED_CODEC
from convoy_protos.v1.federation_pb2 import UpdateHeader
from convoy_protos.v1.secure_sum_pb2 import Roster, VehicleSession

logger = logging.getLogger(__name__)


def check_in(request: bytes, state: RecordDict, vehicle: VehicleConfig) -> bytes:
    """Join the sum that the terms describe, if what waits belongs to it.

    Raises:
        NoUpdateKeptError: It does not, or nothing waits.
        RefusedInstructionsError: The round is an earlier one, or noise would hide nothing.
        ProtocolError: The terms are impossible or against this vehicle's configuration.
    """
    terms = parse_terms(request)
    waiting = kept(state)
    _check_same(waiting, terms)
    check_not_earlier(waiting.run_id, waiting.round_number, state)
    _check_noise(terms, already_opened=bool(opened_members(waiting, state)))
    policy = VehiclePolicy(minimum_cohort=vehicle.minimum_cohort)
    identity = party_of(vehicle).identity
    held = session_of(state)
    session, reply = protocol.check_in(request, identity, policy, os.urandom, held)
    if session != held:
        draw_noise_key(state)
    save_session(session, state)
    return reply


def share(request: bytes, state: RecordDict, vehicle: VehicleConfig) -> bytes:
    """Check the roster against the pinned CA and share our secrets.

    Raises:
        ProtocolError: Somebody in the roster is not trusted, or the message is out of its turn.
    """
    party = party_of(vehicle)
    if members := opened_members(kept(state), state):
        protocol.check_same_members(members, request)
    session, reply = protocol.share(
        session_of(state), request, party.identity, party.trust, datetime.now(UTC), os.urandom
    )
    save_session(session, state)
    keep_revocations(Path(vehicle.identity), Roster.FromString(request).revocations)
    return reply


def upload(request: bytes, state: RecordDict, vehicle: VehicleConfig) -> bytes:
    """The envelope with our masked update; the same request gets the same bytes.

    Raises:
        ProtocolError: Too few peers, or the message is out of its turn.
        InvalidUpdateError: The update is absurdly large for the step.
    """
    session = protocol.accept_shares(session_of(state), request)
    needed = protocol.uploads_needed(session)
    lanes_P, counters_C = _rounded(session, needed, state, vehicle)
    session, lanes_P, counters_C = protocol.masked(session, lanes_P, counters_C)
    save_session(session, state)
    return _signed_envelope(session, lanes_P, counters_C, state, vehicle)


def helped_upload(request: bytes, state: RecordDict, vehicle: VehicleConfig) -> tuple[bytes, bytes]:
    """The envelope with our masked update, and what seals its masks to the helpers (HelperSeeds).

    The only message of this vehicle in a sum with mask helpers; the same terms get the same bytes.

    Raises:
        NoUpdateKeptError: The terms are about another update, or none waits.
        ProtocolError: The terms are impossible or against this vehicle's configuration, a helper is
            not trusted, or a sum of this update was made without these helpers.
        InvalidUpdateError: The update is absurdly large for the step.
    """
    terms = parse_terms(request)
    update = kept(state)
    _check_same(update, terms)
    check_not_earlier(update.run_id, update.round_number, state)
    before = opened_members(update, state)
    if before:
        check_same_helpers(before, request)
    party = party_of(vehicle)
    policy = VehiclePolicy(
        minimum_cohort=vehicle.minimum_cohort, minimum_helpers=vehicle.minimum_helpers
    )
    held = session_of(state)
    session, seeds = seal_seeds(
        request, party.identity, policy, party.trust, datetime.now(UTC), os.urandom, held
    )
    if VehicleSession.FromString(held).terms != request:
        _check_noise(terms, already_opened=bool(before))
        draw_noise_key(state)
    needed = terms.fields.minimum_cohort
    lanes_P, counters_C = _rounded(session, needed, state, vehicle)
    session, lanes_P, counters_C = masked_for_helpers(session, lanes_P, counters_C)
    # From here on the sum may be opened, and only the helpers will know over whom.
    note_opened(update, helpers_digest(request), state)
    save_session(session, state)
    return _signed_envelope(session, lanes_P, counters_C, state, vehicle), seeds


def unmask(request: bytes, state: RecordDict, vehicle: VehicleConfig) -> bytes:
    """Our shares of the others' secrets, once; afterwards every secret of this sum is gone.

    Raises:
        ProtocolError: The request could uncover a single vehicle, or is out of its turn.
    """
    before = session_of(state)
    session, reply = protocol.unmask(before, request, party_of(vehicle).identity)
    if session != before:
        waiting = kept(state)
        if opened_members(waiting, state):
            protocol.check_nobody_lost(before, request)
        note_opened(waiting, protocol.members_summed(before, request), state)
        save_session(session, state)
        drop_noise_key(state)
    return reply


def _rounded(
    session: bytes, needed: int, state: RecordDict, vehicle: VehicleConfig
) -> tuple[Lanes, NDArray[np.uint64]]:
    """Lanes, shape (P,), and counters, shape (C,); noised where the terms ask for it.

    Args:
        session: Of the sum.
        needed: The fewest vehicles that may be in it: their parts make up the whole noise.
        state: With what waits.
        vehicle: Whether it tells its loss.
    """
    terms, slot, _ = protocol.describe(session)
    lanes = MaskedFormat.of(terms.fields)
    tells_loss = vehicle.metrics != "withheld"
    weighted_N, counters_C = contribution(kept(state), terms, tells_loss=tells_loss)
    if not terms.fields.noise_variance:
        return lanes.quantize(weighted_N, slot), counters_C
    # This vehicle's alone, and the same for a repeated upload, so the noise is too.
    noise = KeyStream(noise_key(state))
    lanes_P = _noised_lanes(weighted_N, lanes, noise, slot=slot, terms=terms, needed=needed)
    _add_count_noise(counters_C, noise, terms=terms, needed=needed)
    return lanes_P, counters_C


def _signed_envelope(
    session: bytes,
    lanes_P: Lanes,
    counters_C: NDArray[np.uint64],
    state: RecordDict,
    vehicle: VehicleConfig,
) -> bytes:
    """What goes to the server, once all is masked."""
    update = kept(state)
    terms, _, context = protocol.describe(session)
    body = MaskedFormat.of(terms.fields).pack(lanes_P) + counters_C.astype("<u8").tobytes()
    header = UpdateHeader(
        run_id=update.run_id,
        round=update.round_number,
        vehicle_id=vehicle.vehicle_id,
        schema_digest=update.schema_digest,
        codec=MASKED_CODEC,
        parameter_count=terms.fields.parameter_count,
        context_digest=context,
        signature=protocol.sign_upload(session, party_of(vehicle).identity, body),
    )
    logger.info(
        "round %d: vehicle %s uploads %d masked bytes",
        update.round_number,
        vehicle.vehicle_id,
        len(body),
    )
    return envelope.pack(header, body)


def contribution(
    update: Waiting, terms: Terms, *, tells_loss: bool = True
) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
    """What this vehicle adds to the sum, before it is rounded, noised and masked.

    Args:
        update: What waits.
        terms: Of the sum.
        tells_loss: Whether its training loss may be in the sum.

    Returns:
        The clipped update times its weight over the cap, float32, shape (N,), and the counters in
        the order of SUM_COUNTERS, uint64, shape (C,). Of scores, nothing and SCORE_COUNTERS.
    """
    fields = terms.fields
    if isinstance(update, LocalScores):
        return np.zeros(0, np.float32), np.array(update.counters, np.uint64)
    length = norm(update.update_N)
    clipped = bool(fields.clip_norm) and length > fields.clip_norm
    update_N = clip(update.update_N, fields.clip_norm) if clipped else update.update_N
    weight = 1 if fields.equal_weights else min(update.example_count, fields.weight_cap)
    weighted_N = update_N * np.float32(weight / fields.weight_cap)
    if fields.noise_variance:
        # Exact sums beside a noised one would tell what the noise hides; the flag gets its own.
        told = int(clipped and fields.count_noise_variance > 0.0)
        counters = dict.fromkeys(envelope.SUM_COUNTERS, 0)
        return weighted_N, _counters(counters | {"count": 1, "weight": 1, "clipped": told})
    counters = {
        "count": 1,
        "weight": weight,
        "clipped": int(clipped),
        "loss_sum": round(weight * update.train_loss * COUNTER_SCALE) if tells_loss else 0,
        "squared_norm": round(min(length, fields.clip_norm or length) ** 2 * COUNTER_SCALE),
        "loss_weight": weight if tells_loss else 0,
    }
    return weighted_N, _counters(counters)


def _counters(values: Mapping[str, int]) -> NDArray[np.uint64]:
    return np.array([values[name] for name in envelope.SUM_COUNTERS], np.uint64)


def _noised_lanes(
    update_N: NDArray[np.float32],
    lanes: MaskedFormat,
    noise: KeyStream,
    *,
    slot: int,
    terms: Terms,
    needed: int,
) -> Lanes:
    """The rounded update, of bounded length, with this vehicle's part of the noise."""
    fields = terms.fields
    bound = rounded_sensitivity(fields.clip_norm, fields.step, lanes.padded_count)
    lanes_P = bounded_lanes(
        update_N, lambda shorter_N: lanes.quantize(shorter_N, slot), fields.modulus_bits, bound
    )
    variance = share_of_variance(fields.noise_variance, needed)
    noise_P = skellam_noise(variance, lanes.padded_count, noise.read)
    return lanes_P + noise_P.astype(lanes_P.dtype)


def _add_count_noise(
    counters_C: NDArray[np.uint64], noise: KeyStream, *, terms: Terms, needed: int
) -> None:
    """This vehicle's part of the noise in the count of clipped updates, modulo 2^64, in place."""
    if terms.fields.count_noise_variance:
        variance = share_of_variance(terms.fields.count_noise_variance, needed)
        clipped = envelope.SUM_COUNTERS.index("clipped")
        counters_C[clipped : clipped + 1] += skellam_noise(variance, 1, noise.read).view(np.uint64)


def _check_noise(terms: Terms, *, already_opened: bool) -> None:
    """Refuse noise that hides nothing: without a bound, with weights that tell, or averaged out.

    Raises:
        RefusedInstructionsError: Says what is missing.
    """
    fields = terms.fields
    if fields.noise_variance and not (fields.clip_norm and fields.equal_weights):
        raise RefusedInstructionsError("noise needs a clip_norm and equal weights")
    if fields.noise_variance and already_opened:
        raise RefusedInstructionsError("a second noised sum of one update would show more of it")


def _check_same(update: Waiting, terms: Terms) -> None:
    """Refuse a sum that is not about what waits."""
    fields = terms.fields
    asked = {
        "run": (update.run_id, fields.run_id),
        "round": (update.round_number, fields.round),
        "model": (update.model_digest, fields.model_digest),
        "schema": (update.schema_digest, fields.schema_digest),
        # Or one vehicle could be made to learn while the others of its sum stand still.
        "set of settings": (update.settings_digest, fields.settings_digest),
        "length": (update.parameter_count, fields.parameter_count),
    }
    for what, (ours, theirs) in asked.items():
        if ours != theirs:
            raise NoUpdateKeptError(f"the update that waits here is of another {what}")
