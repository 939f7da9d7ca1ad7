"""A mask helper: adds up the masks of the vehicles in a sum, and says nothing but their sum.

One answer for each set of terms, over the same vehicles for each update (helper_memory.py): a second one
for others would show, as a difference, the masks of a few. So what was answered is kept over a restart
(`answered`), and the caller stores it before it lets the answer go. The helper trusts the aggregator in
nothing: it checks terms, certificates, signatures and the minimum itself.
"""

# Shapes: P padded lanes, C counters.

import hashlib
from collections.abc import Callable
from datetime import datetime

import numpy as np
from google.protobuf.message import DecodeError

from convoy_privacy.certificates import Identity, Role, Trust
from convoy_privacy.errors import (
    BadRosterError,
    BadSharesError,
    RefusedTermsError,
    SealedMessageError,
    TooFewPeersError,
)
from convoy_privacy.key_stream import KEY_BYTES, StreamAdder
from convoy_privacy.sealing import SealingKey, open_sealed
from convoy_privacy.secure_sum.helped_vehicle import seed_aad, seed_info, slot_in_cohort
from convoy_privacy.secure_sum.helper_memory import check_answerable, with_answer
from convoy_privacy.secure_sum.masks import helper_mask_key
from convoy_privacy.secure_sum.messages import (
    MAX_HELPER_REQUEST_BYTES,
    SIGNATURE_BYTES,
    check_context,
    check_length,
    encode,
    helper_reply_signed,
    helper_seeds_signed,
    parse,
)
from convoy_privacy.secure_sum.terms import MIN_MEMBERS, Terms, context_digest, parse_terms
from convoy_protos.errors import MalformedMessageError
from convoy_protos.v1.secure_sum_pb2 import (
    HelperMemory,
    HelperReply,
    HelperRequest,
    HelperSeeds,
    SumTerms,
)


class MaskHelper:
    """One helper, for any number of sums."""

    def __init__(
        self,
        identity: Identity,
        key: SealingKey,
        lane_count: Callable[[SumTerms], int],
        counter_count: int,
        *,
        minimum_cohort: int = 3,
        answered: bytes = b"",
    ) -> None:
        """A helper as it was when it stopped.

        Args:
            identity: With the role of a helper.
            key: That vehicles seal their seeds to.
            lane_count: P of these terms; may raise RefusedTermsError for what is too long.
            counter_count: C.
            minimum_cohort: Vehicles in a sum, at least, whatever the terms say.
            answered: What `answered` was.
        """
        if minimum_cohort < MIN_MEMBERS:
            raise ValueError(f"minimum_cohort is at least {MIN_MEMBERS}, got {minimum_cohort}")
        self._identity = identity
        self._key = key
        self._lane_count = lane_count
        self._counter_count = counter_count
        self._minimum_cohort = minimum_cohort
        try:
            self._memory = HelperMemory.FromString(answered)
        except DecodeError as error:
            raise ValueError(f"{len(answered)} bytes are no memory of answered sums") from error

    @property
    def answered(self) -> bytes:
        """Which sums have been answered; to be stored before the answer goes."""
        return encode(self._memory)

    def answer(self, request_bytes: bytes, trust: Trust, now: datetime) -> bytes:
        """The sum of the masks of the vehicles in the sum (HelperReply).

        Args:
            request_bytes: HelperRequest of an aggregator that nobody trusts.
            trust: Whose vehicles we help.
            now: With a time zone.

        Raises:
            RefusedTermsError: Impossible terms, or we are not their helper.
            TooFewPeersError: Fewer vehicles than the minimum.
            BadRosterError: A vehicle twice, out of order or not in the cohort, or in a sum of this
                round already, with others.
            BadSharesError: Seeds that do not open; names whose.
            OutOfOrderError: Another request for these terms, or a later round, has been answered.
            ProtocolError: A vehicle is not trusted or did not sign.
        """
        request = parse(HelperRequest, request_bytes, MAX_HELPER_REQUEST_BYTES)
        terms = parse_terms(request.terms)
        request_digest = hashlib.sha256(request_bytes).digest()
        place = self._place(terms)
        needed = max(self._minimum_cohort, terms.fields.minimum_cohort)
        if len(request.accepted) < needed:
            raise TooFewPeersError("uploads", len(request.accepted), needed)
        trust = trust.with_revocations(request.revocations, now)
        context = context_digest(terms.digest, b"")
        names = [check_seeds(seeds, terms, context, trust, now) for seeds in request.accepted]
        if names != sorted(set(names)):
            raise BadRosterError("the vehicles are not sorted by name, or one is there twice")
        check_answerable(self._memory, terms, request_digest, names)
        keys = self._mask_keys(request, names, terms, context, place)
        mask_sum = self._mask_sum(terms, keys)
        self._memory = with_answer(self._memory, terms, request_digest, names)
        return encode(
            HelperReply(
                context_digest=context,
                mask_sum=mask_sum,
                signature=self._identity.sign(
                    helper_reply_signed(context, request_digest, mask_sum)
                ),
            )
        )

    def _place(self, terms: Terms) -> int:
        for place, helper in enumerate(terms.fields.helpers):
            ours = (self._identity.certificate, self._key.suite, self._key.public_key)
            if (helper.certificate, helper.suite, helper.sealing_key) == ours:
                return place
        raise RefusedTermsError("the terms do not name us with our key")

    def _mask_keys(
        self, request: HelperRequest, names: list[str], terms: Terms, context: bytes, place: int
    ) -> list[bytes]:
        keys = []
        unopened = []
        for name, seeds in zip(names, request.accepted, strict=True):
            slot = slot_in_cohort(terms, name)
            try:
                seed = open_sealed(
                    self._key,
                    seeds.sealed[place],
                    info=seed_info(context),
                    aad=seed_aad(slot, place),
                )
                check_length("a seed", seed, KEY_BYTES)
            except (SealedMessageError, MalformedMessageError):
                unopened.append(name)
                continue
            keys.append(helper_mask_key(seed, context, slot))
        if unopened:
            raise BadSharesError(f"no seed from {', '.join(unopened)}", tuple(unopened))
        return keys

    def _mask_sum(self, terms: Terms, keys: list[bytes]) -> bytes:
        lane_type = np.uint8 if terms.fields.modulus_bits <= 8 else np.uint16
        vectors = StreamAdder(
            np.zeros(self._lane_count(terms.fields), lane_type),
            np.zeros(self._counter_count, np.uint64),
        )
        for key in keys:
            vectors.add(key)
        return b"".join(
            vector.astype(vector.dtype.newbyteorder("<"), copy=False).tobytes()
            for vector in (vectors.lanes_P, vectors.counters_C)
        )


def check_seeds(
    seeds: HelperSeeds, terms: Terms, context: bytes, trust: Trust, now: datetime
) -> str:
    """The name of the vehicle that sealed these, in this sum.

    Raises:
        ProtocolError: Another sum, not in the cohort, not trusted, wrong lengths, or not signed.
    """
    check_context(seeds.context_digest, context)
    check_length("a signature", seeds.signature, SIGNATURE_BYTES)
    if len(seeds.sealed) != len(terms.fields.helpers):
        raise MalformedMessageError(
            f"{len(seeds.sealed)} seeds for {len(terms.fields.helpers)} helpers"
        )
    member = trust.verify(seeds.certificate, Role.VEHICLE, now)
    slot_in_cohort(terms, member.name)
    member.check_signature(seeds.signature, helper_seeds_signed(context, seeds.sealed))
    return member.name
