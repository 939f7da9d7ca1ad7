"""What all parties of one sum agree on.

Everybody hashes the terms as they travelled; the digest enters every key, signature and associated
data. Told different terms, two vehicles have masks that do not cancel, and nobody learns anything.
"""

import math
import re
from dataclasses import dataclass

from convoy_privacy.certificates import check_name
from convoy_privacy.errors import RefusedTermsError
from convoy_privacy.secure_sum.messages import DIGEST_BYTES, SIGNATURE_BYTES, digest, parse
from convoy_protos.errors import MalformedMessageError
from convoy_protos.v1.secure_sum_pb2 import SumTerms

MIN_MEMBERS = 2
MAX_MEMBERS = 128
"""Of a shard with pairwise masks: the graph is complete, so the work of all grows with the square."""

MAX_HELPED_MEMBERS = 4096
MAX_HELPERS = 8

MIN_MODULUS_BITS = 2
MAX_MODULUS_BITS = 16

_MAX_PARAMETERS = 2**31
_MAX_WEIGHT_CAP = 2**32
_MAX_DEADLINE_S = 86_400
# A step below would be lost in float32, one above says that something else went wrong.
_STEPS = (1e-30, 1e30)
_LABEL = re.compile(r"[!-~]([ -~]{0,198}[!-~])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Terms:
    """Checked terms.

    Attributes:
        encoded: The bytes that travelled.
        digest: SHA-256 over a label and these.
        fields: What they say; read only.
    """

    encoded: bytes
    digest: bytes
    fields: SumTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class VehiclePolicy:
    """What a vehicle asks of every sum, whatever the server would like.

    Attributes:
        minimum_cohort: Vehicles in a sum, at least; 2 hides an update only from the other one's eyes.
        max_modulus_bits: Upper bound on the modulus, which bounds the upload.
        max_parameter_count: Upper bound on the vector.
        max_attempts: Sums that one update goes into, at most. Sums over different vehicles have
            differences, so every further one shows a little more.
        minimum_helpers: Mask helpers of a sum without pairwise masks, at least; of these, one may not
            work together with the aggregator.
    """

    minimum_cohort: int = 3
    max_modulus_bits: int = MAX_MODULUS_BITS
    max_parameter_count: int = 2**28
    max_attempts: int = 4
    minimum_helpers: int = 1

    def __post_init__(self) -> None:
        if not MIN_MEMBERS <= self.minimum_cohort <= MAX_MEMBERS:
            raise ValueError(
                f"minimum_cohort must be in {MIN_MEMBERS}..{MAX_MEMBERS}, got {self.minimum_cohort}"
            )
        if not MIN_MODULUS_BITS <= self.max_modulus_bits <= MAX_MODULUS_BITS:
            raise ValueError(
                f"max_modulus_bits must be in {MIN_MODULUS_BITS}..{MAX_MODULUS_BITS}, "
                f"got {self.max_modulus_bits}"
            )
        if not 1 <= self.minimum_helpers <= MAX_HELPERS:
            raise ValueError(
                f"minimum_helpers must be in 1..{MAX_HELPERS}, got {self.minimum_helpers}"
            )
        for name in ("max_parameter_count", "max_attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


def threshold(members: int) -> int:
    """Shares that rebuild a secret of a roster of so many.

    More than two thirds: two groups of so many have an honest vehicle in common as long as fewer than
    a third of the roster work together with a lying server, and that vehicle answers once.
    """
    return 2 * members // 3 + 1


def uploads_needed(members: int, minimum_cohort: int) -> int:
    """Vehicles of a roster of so many that must be in the sum."""
    return max(threshold(members), minimum_cohort)


def smallest_sum(terms: Terms, members: int) -> int:
    """The same under checked terms."""
    return uploads_needed(members, terms.fields.minimum_cohort)


def parse_terms(encoded: bytes) -> Terms:
    """Terms from an aggregator that nobody trusts.

    Raises:
        RefusedTermsError: They do not parse, or a field is out of range; the message names it.
    """
    try:
        fields = parse(SumTerms, encoded)
    except MalformedMessageError as error:
        raise RefusedTermsError(str(error)) from error
    for name, fine in _checks(fields).items():
        if not fine:
            raise RefusedTermsError(f"the terms have an impossible {name}")
    return Terms(encoded, terms_digest(encoded), fields)


def check_policy(terms: Terms, policy: VehiclePolicy) -> None:
    """Refuse terms that the vehicle's own configuration does not allow.

    Raises:
        RefusedTermsError: The message says what is asked for and what is allowed.
    """
    fields = terms.fields
    if fields.minimum_cohort < policy.minimum_cohort:
        raise RefusedTermsError(
            f"a sum of {fields.minimum_cohort} vehicles, at least {policy.minimum_cohort} are asked for"
        )
    if fields.modulus_bits > policy.max_modulus_bits:
        raise RefusedTermsError(
            f"a modulus of {fields.modulus_bits} bits, at most {policy.max_modulus_bits} are allowed"
        )
    if fields.attempt > policy.max_attempts:
        raise RefusedTermsError(
            f"attempt {fields.attempt}, at most {policy.max_attempts} are allowed"
        )
    if fields.parameter_count > policy.max_parameter_count:
        raise RefusedTermsError(
            f"{fields.parameter_count} parameters, at most {policy.max_parameter_count} are allowed"
        )
    if fields.helpers and len(fields.helpers) < policy.minimum_helpers:
        raise RefusedTermsError(
            f"{len(fields.helpers)} mask helpers, at least {policy.minimum_helpers} are asked for"
        )


def check_next_attempt(terms: Terms, held: Terms) -> None:
    """Refuse a second sum of the same round that is not a later attempt.

    Raises:
        RefusedTermsError: The attempt is not above the one that this vehicle took part in.
    """
    fields, before = terms.fields, held.fields
    same_round = (fields.run_id, fields.round) == (before.run_id, before.round)
    if same_round and fields.attempt <= before.attempt:
        raise RefusedTermsError(
            f"attempt {fields.attempt} of round {fields.round} after attempt {before.attempt}"
        )


def terms_digest(encoded: bytes) -> bytes:
    """What names the terms."""
    return digest("convoy terms/1", encoded)


def context_digest(terms_digest: bytes, roster: bytes) -> bytes:
    """What names the sum: terms and members; the roster is empty where helpers mask."""
    return digest("convoy context/1", terms_digest, digest("", roster))


def _checks(terms: SumTerms) -> dict[str, bool]:
    """By field: is it in its range?"""
    helped = len(terms.helpers) > 0
    cohort = list(terms.cohort)
    most = MAX_HELPED_MEMBERS if helped else MAX_MEMBERS
    return {
        "run_id": _LABEL.fullmatch(terms.run_id) is not None,
        "round": terms.round >= 1,
        "attempt": terms.attempt >= 1,
        "model_digest": len(terms.model_digest) == DIGEST_BYTES,
        "schema_digest": len(terms.schema_digest) == DIGEST_BYTES,
        "settings_digest": len(terms.settings_digest) == DIGEST_BYTES,
        # Without a vector there are counters alone, which nobody helps with.
        "parameter_count": (1 if helped else 0) <= terms.parameter_count <= _MAX_PARAMETERS,
        "modulus_bits": MIN_MODULUS_BITS <= terms.modulus_bits <= MAX_MODULUS_BITS,
        "step": _STEPS[0] <= terms.step <= _STEPS[1],
        "clip_norm": 0.0 <= terms.clip_norm < math.inf,
        "weight_cap": 1 <= terms.weight_cap <= _MAX_WEIGHT_CAP,
        "codec_seed": len(terms.codec_seed) == DIGEST_BYTES,
        "minimum_cohort": MIN_MEMBERS <= terms.minimum_cohort <= most,
        "deadline_s": 1 <= terms.deadline_s <= _MAX_DEADLINE_S,
        "noise_variance": 0.0 <= terms.noise_variance < math.inf
        and (terms.parameter_count > 0 or not terms.noise_variance),
        "count_noise_variance": 0.0 <= terms.count_noise_variance < math.inf
        and (terms.noise_variance > 0.0 or not terms.count_noise_variance),
        "helpers": len(terms.helpers) <= MAX_HELPERS
        and all(
            helper.certificate
            and _LABEL.fullmatch(helper.suite)
            and helper.sealing_key
            and len(helper.signature) == SIGNATURE_BYTES
            for helper in terms.helpers
        )
        and len({helper.certificate for helper in terms.helpers}) == len(terms.helpers),
        "cohort": terms.minimum_cohort <= len(cohort) <= most and _is_cohort(cohort)
        if helped
        else not cohort,
    }


def _is_cohort(names: list[str]) -> bool:
    """Names of vehicles, sorted, none twice: everybody's place follows from the names alone."""
    try:
        for name in names:
            check_name(name)
    except ValueError:
        return False
    return names == sorted(set(names))
