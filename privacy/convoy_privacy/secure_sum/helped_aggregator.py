"""The aggregator's side of a secure sum with mask helpers.

    upload... close -> one request, the same for every helper -> helper_reply... -> mask_sum

As in aggregator.py, whatever a peer sends is taken or raises a ProtocolError and changes nothing.
"""

# Shapes: P padded lanes, C counters.

import hashlib
from datetime import datetime

import numpy as np

from convoy_privacy.certificates import Role, Trust
from convoy_privacy.errors import (
    LateUploadError,
    OutOfOrderError,
    TooFewPeersError,
    UnknownPeerError,
)
from convoy_privacy.key_stream import Counters, Lanes
from convoy_privacy.sealing import verify_sealing_key
from convoy_privacy.secure_sum.helper import check_seeds
from convoy_privacy.secure_sum.messages import (
    MAX_HELPER_REPLY_BYTES,
    SIGNATURE_BYTES,
    check_context,
    check_length,
    encode,
    helper_reply_signed,
    parse,
    upload_signed,
)
from convoy_privacy.secure_sum.terms import context_digest, parse_terms
from convoy_protos.v1.secure_sum_pb2 import HelperReply, HelperRequest, HelperSeeds


class HelpedAggregator:
    """One sum.

    Attributes:
        terms: Checked terms.
        context: Digest that names the sum.
        helper_names: In the order of the terms.
    """

    def __init__(
        self, terms_bytes: bytes, trust: Trust, now: datetime, revocations: bytes = b""
    ) -> None:
        """Wait for uploads.

        Args:
            terms_bytes: SumTerms.
            trust: Whose vehicles and helpers we take.
            now: With a time zone.
            revocations: The fleet CA's revocation list, DER, that the helpers get too: whoever is on
                a newer one would be refused by them after its lanes were added.

        Raises:
            RefusedTermsError: No vehicle would accept these terms.
            ProtocolError: A helper that the terms name is not trusted, or did not sign its key.
        """
        self.terms = parse_terms(terms_bytes)
        if not self.terms.fields.helpers:
            raise ValueError("these terms name no helpers")
        self.context = context_digest(self.terms.digest, b"")
        self._trust = trust.with_revocations(revocations, now)
        self._now = now
        self._revocations = revocations
        self._helpers = [
            verify_sealing_key(helper, self._trust, Role.HELPER, now)
            for helper in self.terms.fields.helpers
        ]
        self.helper_names = [helper.name for helper in self._helpers]
        self._seeds: dict[str, HelperSeeds] = {}
        self._request_digest = b""
        self._mask_sums: dict[str, bytes] = {}

    def upload(
        self, name: str, seeds_bytes: bytes, body: bytes | memoryview, signature: bytes
    ) -> None:
        """Take a vehicle's upload as part of the sum; the caller then adds its lanes.

        Raises:
            LateUploadError: The helpers have been asked.
            ProtocolError: Not in the cohort, not trusted, uploaded already, or a bad signature.
        """
        if self._request_digest:
            raise LateUploadError(f"the upload of {name} comes too late")
        if name in self._seeds:
            raise OutOfOrderError(f"{name} has uploaded already")
        seeds = parse(HelperSeeds, seeds_bytes)
        signer = check_seeds(seeds, self.terms, self.context, self._trust, self._now)
        if signer != name:
            raise UnknownPeerError(f"{name} sent the seeds of {signer}")
        member = self._trust.verify(seeds.certificate, Role.VEHICLE, self._now)
        member.check_signature(signature, upload_signed(self.context, body))
        self._seeds[name] = seeds

    def close(self) -> bytes:
        """Fix which updates are in the sum; what every helper is asked (HelperRequest).

        Raises:
            TooFewPeersError: Fewer uploads than the minimum; uploads are still taken.
        """
        if self._request_digest:
            raise OutOfOrderError("the helpers have been asked")
        needed = self.terms.fields.minimum_cohort
        if len(self._seeds) < needed:
            raise TooFewPeersError("uploads", len(self._seeds), needed)
        request = encode(
            HelperRequest(
                terms=self.terms.encoded,
                accepted=[seeds for _, seeds in sorted(self._seeds.items())],
                revocations=self._revocations,
            )
        )
        self._request_digest = hashlib.sha256(request).digest()
        return request

    def helper_reply(self, name: str, reply_bytes: bytes) -> None:
        """Take a helper's answer.

        Raises:
            ProtocolError: Not a helper of the terms, another sum, or not signed for our request.
        """
        if not self._request_digest:
            raise OutOfOrderError("the helpers have not been asked yet")
        if name not in self.helper_names:
            raise UnknownPeerError(f"{name} is no helper of this sum")
        helper = self._helpers[self.helper_names.index(name)]
        reply = parse(HelperReply, reply_bytes, MAX_HELPER_REPLY_BYTES)
        check_context(reply.context_digest, self.context)
        check_length("a signature", reply.signature, SIGNATURE_BYTES)
        helper.check_signature(
            reply.signature,
            helper_reply_signed(self.context, self._request_digest, reply.mask_sum),
        )
        self._mask_sums[name] = reply.mask_sum

    @property
    def removable(self) -> bool:
        """Has every helper answered?"""
        return len(self._mask_sums) == len(self._helpers)

    def mask_sum(
        self, lane_type: type[np.uint8] | type[np.uint16], lane_count: int, counter_count: int
    ) -> tuple[Lanes, Counters]:
        """What to subtract from the sum of the uploads.

        Args:
            lane_type: uint8 up to 8 modulus bits, uint16 above.
            lane_count: P.
            counter_count: C.

        Raises:
            TooFewPeersError: A helper has not answered.
            MalformedMessageError: A helper's sum has another length.
        """
        if not self.removable:
            raise TooFewPeersError("helpers", len(self._mask_sums), len(self._helpers))
        lanes_P: Lanes = np.zeros(lane_count, lane_type)
        counters_C = np.zeros(counter_count, np.uint64)
        lane_bytes = lanes_P.nbytes
        for name, mask_sum in self._mask_sums.items():
            check_length(f"the mask sum of {name}", mask_sum, lane_bytes + counters_C.nbytes)
            lanes_P += np.frombuffer(mask_sum[:lane_bytes], lanes_P.dtype.newbyteorder("<"))
            counters_C += np.frombuffer(mask_sum[lane_bytes:], "<u8")
        return lanes_P, counters_C
