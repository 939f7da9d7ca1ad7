"""What replies to `train` are taken into, and what they amount to once nobody is waited for.

Updates that come with the reply are added at once (SingleIntake). Masked updates wait on the vehicles:
the reply only says that training is done, and the secure sums follow (MaskedIntake).
"""

# Shapes: M parameters that are sent.

import functools
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from flwr.app import Message

from convoy_compression.update.codec import UpdateCodec
from convoy_compression.update.range_control import (
    first_sigma,
    next_sigma,
    signal_sigma,
    step_for,
)
from convoy_compression.update.rotation import layout_of
from convoy_privacy.dp_accountant import spend
from convoy_privacy.party import Party
from convoy_privacy.sealed_update import open_update
from convoy_privacy.secure_sum.terms import uploads_needed
from convoy_protos.envelope import COUNTER_SCALE
from convoy_protos.errors import ProtocolError
from convoy_protos.flower_messages import read_trained
from convoy_protos.protection import Protection, protection_of
from convoy_protos.v1.secure_sum_pb2 import HelperKey, SumTerms
from convoy_server.admission import (
    Expectation,
    admit,
    admit_trained,
    envelope_of,
    refusal_of,
    refuse_failed,
)
from convoy_server.aggregation import Aggregate, SingleUpdates, combined
from convoy_server.cohort import into_shards
from convoy_server.helped_sums import run_helped_sums
from convoy_server.noise import NoisePlan
from convoy_server.robust.registry import min_items
from convoy_server.round_log import ShardRecord
from convoy_server.rounds import Rejection
from convoy_server.run_config import RunConfig
from convoy_server.secure_sums import run_secure_sums
from convoy_server.shard_sums import Ask, ShardSum
from convoy_server.update_state import UpdateState

logger = logging.getLogger(__name__)

RunSums = Callable[..., list[ShardSum]]
"""run_secure_sums, or run_helped_sums with its helpers."""

NORM_WITHOUT_A_BOUND = 10.0
"""Updates are expected to be shorter in the first masked sum of a run that does not clip them."""

_NOTHING = 1e-12
"""Parameter units: updates this small change no model."""
_SEALING_OVERHEAD = 4096
"""More than any suite adds to what it seals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What a round's updates came to.

    Attributes:
        aggregate: None where there is nothing that the global model could move by.
        state: For the next round.
        summed: Who is in the secure sums; None where there are none.
        rejections: Whose message of the secure sums was refused.
        shards: The secure sums.
        clipped_share: Of the summed updates; None where nobody tells.
    """

    aggregate: Aggregate | None
    state: UpdateState
    summed: frozenset[str] | None = None
    rejections: tuple[Rejection, ...] = ()
    shards: tuple[ShardRecord, ...] = ()
    clipped_share: float | None = None

    def without_parts(self) -> "Settled":
        """The same without the single updates or shards, which fill memory."""
        if self.aggregate is None:
            return self
        return replace(self, aggregate=self.aggregate._replace(parts=()))


class Intake(Protocol):
    """The replies of one round."""

    def take(self, vehicle: str, reply: Message) -> None:
        """Take one reply.

        Raises:
            RefusedReplyError: It is of no use; nothing has changed.
        """

    def settle(self) -> Settled:
        """Ends the intake's life."""


class SingleIntake:
    """Updates that come with the reply, sealed to the server or in the clear."""

    def __init__(
        self,
        codec: UpdateCodec,
        run: RunConfig,
        expected: Expectation,
        state: UpdateState,
        *,
        keys: Party | None,
        contexts: Mapping[str, bytes],
        now: Callable[[], datetime],
    ) -> None:
        """Nothing taken yet.

        Args:
            codec: In which updates are written.
            run: What to do.
            expected: What every update must say about itself.
            state: From the round before.
            keys: With which sealed updates are opened.
            contexts: By vehicle, the digest of the instructions that it got.
            now: For certificates.
        """
        self._updates = SingleUpdates(codec, expected, run.round.weighting, run.aggregation)
        self._limit = codec.payload_limit(expected.parameter_count)
        self._sealed = protection_of(codec.name) is Protection.SEALED
        self._expected = expected
        self._state = state
        self._keys = keys
        self._contexts = contexts
        self._now = now

    def take(self, vehicle: str, reply: Message) -> None:
        """Open, check and add one update."""
        limit = self._limit + (_SEALING_OVERHEAD if self._sealed else 0)
        update = admit(envelope_of(reply), vehicle, self._expected, limit)
        payload = update.payload
        if self._sealed and self._keys is not None and self._keys.sealing_key is not None:
            try:
                opened = open_update(
                    update.payload,
                    update.header,
                    context_digest=self._contexts.get(vehicle, b""),
                    key=self._keys.sealing_key,
                    trust=self._keys.trust,
                    now=self._now(),
                )
            except ProtocolError as error:
                raise refusal_of(error) from error
            payload = memoryview(opened)
        self._updates.add(update, payload)

    def settle(self) -> Settled:
        """The aggregate of what was taken."""
        return Settled(aggregate=self._updates.result(), state=self._state)


class MaskedIntake:
    """Vehicles that have trained and whose updates nobody will see, only the sums over shards."""

    def __init__(
        self,
        run: RunConfig,
        expected: Expectation,
        state: UpdateState,
        model_digest: bytes,
        settings_digest: bytes,
        *,
        keys: Party,
        ask: Ask,
        now: Callable[[], datetime],
        helpers: Mapping[str, HelperKey] | None = None,
        noise: NoisePlan | None = None,
        rate: float = 1.0,
    ) -> None:
        """Nobody has trained yet.

        Args:
            run: What to do.
            expected: What every upload must say about itself.
            state: From the round before.
            model_digest: Of the global model that training begins with.
            settings_digest: Of the settings that vehicles train by.
            keys: Whose fleet this is.
            ask: How messages travel.
            now: For certificates.
            helpers: Mask helpers by the name under which they are asked; needed where [update] helpers
                asks for some.
            noise: Differential privacy; None: off.
            rate: Share of the fleet that was drawn, for its account.
        """
        self._run = run
        self._noise = noise
        self._rate = rate
        self._expected = expected
        self._state = state
        self._model_digest = model_digest
        self._settings_digest = settings_digest
        self._keys = keys
        self._ask = ask
        self._now = now
        self._helpers = helpers or {}
        self._examples: dict[str, int] = {}

    def take(self, vehicle: str, reply: Message) -> None:
        """Note that a vehicle is ready for the secure sum."""
        refuse_failed(reply)
        try:
            trained = read_trained(reply.content)
            # The loss comes from the sum, also of vehicles that tell it here.
            examples, _ = admit_trained(trained, vehicle, self._expected)
        except ProtocolError as error:
            raise refusal_of(error) from error
        self._examples[vehicle] = examples

    def settle(self) -> Settled:
        """Run the secure sums and combine the shards."""
        update = self._run.update
        shards = into_shards(
            self._examples,
            update.shard_size,
            seed=self._run.seed,
            round_number=self._expected.round_number,
            minimum=update.minimum_cohort,
        )
        sums = self._run_sums()(
            shards,
            self._terms,
            self._ask,
            expected=self._expected,
            trust=self._keys.trust,
            now=self._now(),
            sigma=self._sigma(layout_of(self._expected.parameter_count).padded_count),
            guessed=self._state.sum_sigma is None and self._noise is None,
            # A second sum of the same updates would tell more than the account knows.
            max_attempts=1 if self._noise is not None else update.max_attempts,
        )
        done = [one for one in sums if one.decoded is not None]
        return Settled(
            aggregate=self._combine(done),
            state=self._next_state(done, [one for one in sums if one.opened]),
            summed=frozenset(vehicle for one in done for vehicle in one.summed),
            rejections=tuple(rejection for one in sums for rejection in one.rejections),
            shards=tuple(shard_record(one) for one in sums),
            clipped_share=self._clipped_share(done),
        )

    def _run_sums(self) -> RunSums:
        """With pairwise masks, or with helpers."""
        wanted = self._run.update.helpers
        if not wanted:
            return run_secure_sums
        return functools.partial(run_helped_sums, helpers=self._helpers, wanted_helpers=wanted)

    def _terms(self, shard: int, vehicles: Sequence[str], attempt: int, sigma: float) -> SumTerms:
        update = self._run.update
        declared = [self._examples[vehicle] for vehicle in vehicles]
        private = self._noise is not None
        # The same for all shards of the round, or their weights could not be compared.
        most = max(self._examples.values())
        equal = private or self._run.round.weighting == "equal" or not most
        cap = 1 if equal else most
        # Who withholds its examples may weigh up to the cap.
        weight = float(len(vehicles)) if equal else sum(count or cap for count in declared) / cap
        step, variance, count_variance = step_for(sigma * weight, update.modulus_bits), 0.0, 0.0
        if self._noise is not None:
            step = self._noise.step(len(vehicles), update.minimum_cohort)
            variance, count_variance = self._noise.variance(step), self._noise.count_variance
        minimum = update.minimum_cohort
        if private and update.helpers:
            # Vehicles share the noise among the fewest that a sum may have.
            minimum = uploads_needed(len(vehicles), minimum)
        number = self._expected.round_number
        seed = f"{self._run.seed} {number} {shard} {attempt}".encode()
        return SumTerms(
            run_id=self._expected.run_id,
            round=number,
            shard=shard,
            attempt=attempt,
            model_digest=self._model_digest,
            schema_digest=self._expected.schema_digest,
            settings_digest=self._settings_digest,
            parameter_count=self._expected.parameter_count,
            modulus_bits=update.modulus_bits,
            step=step,
            noise_variance=variance,
            count_noise_variance=count_variance,
            clip_norm=self._state.clip_norm or 0.0,
            weight_cap=cap,
            codec_seed=hashlib.sha256(b"convoy codec seed/1" + seed).digest(),
            minimum_cohort=minimum,
            deadline_s=max(1, round(update.exchange_deadline_s)),
            equal_weights=equal,
        )

    def _sigma(self, padded_count: int) -> float:
        """Deviation of a coordinate of a sum to be ready for, for each unit of weight."""
        if self._state.sum_sigma is None:
            return first_sigma(self._state.clip_norm or NORM_WITHOUT_A_BOUND, padded_count)
        return next_sigma(self._state.sum_sigma, self._run.update.range_slack)

    def _combine(self, done: Sequence[ShardSum]) -> Aggregate | None:
        robust = self._run.aggregation
        if len(done) < min_items(robust):
            return None
        items = [(f"shard {one.number}", one.mean(), one.weight) for one in done]
        return combined(items, robust, self._train_loss(done))

    def _train_loss(self, done: Sequence[ShardSum]) -> float | None:
        """Mean over the summed vehicles, weighted as their updates are; None where nobody tells."""
        weight = sum(one.counters["loss_weight"] for one in done)
        if not weight:
            return None
        return sum(one.counters["loss_sum"] for one in done) / COUNTER_SCALE / weight

    def _next_state(self, done: Sequence[ShardSum], unmasked: Sequence[ShardSum]) -> UpdateState:
        if self._noise is not None and unmasked:
            # A sum that was seen has told what it has told, whether it is applied or not.
            smallest = min(unmasked, key=lambda one: one.members)
            facts = self._noise.facts(
                smallest.terms.step,
                survivors=smallest.uploads,
                needed=uploads_needed(smallest.members, self._run.update.minimum_cohort),
                rounds=self._run.round,
                rate=self._rate,
            )
            return self._state.replace(spent=spend(self._state.spent, facts))
        if self._noise is not None or not unmasked:
            return self._state
        if not done:
            # Every sum overflowed: the next round begins with the range that this one ended with.
            return self._state.replace(sum_sigma=max(one.sigma for one in unmasked))
        sigma = max(
            signal_sigma(one.decoded.rms, len(one.summed), one.terms.step) / one.weight
            for one in done
            if one.decoded is not None
        )
        # A sum of nothing says nothing about the next one.
        return self._state.replace(sum_sigma=sigma if sigma > _NOTHING else None)

    def _clipped_share(self, done: Sequence[ShardSum]) -> float | None:
        told = self._noise is None or self._noise.count_variance > 0.0
        if self._state.clip_norm is None or not told:
            return None
        count = sum(one.counters["count"] for one in done)
        clipped = sum(_signed(one.counters["clipped"]) for one in done)
        return clipped / count if count else None


def _signed(counter: int) -> int:
    """A counter modulo 2^64 as the number nearest to zero: noise may take it below."""
    return counter - (1 << 64) if counter >> 63 else counter


def shard_record(one: ShardSum) -> ShardRecord:
    """What rounds.jsonl says about a sum."""
    return ShardRecord(
        vehicles=one.vehicles,
        summed=one.summed,
        attempts=one.attempts,
        wrap_ratio=one.decoded.wrap_ratio if one.decoded is not None else None,
        modulus_bits=one.terms.modulus_bits,
        step=one.terms.step,
        culprits=one.culprits,
        given_up=one.why or None,
        helpers=one.helpers,
        helpers_lost=one.helpers_lost,
    )
