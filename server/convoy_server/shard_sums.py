"""One shard's sum of masked updates, whoever took its masks out: what is added, checked, made again.

How masks come about and go is in secure_sums.py (pairwise) and helped_sums.py (mask helpers).
"""

# Shapes: M parameters that are sent, P padded lanes, C counters.

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from convoy_compression.update.bit_packing import Lanes
from convoy_compression.update.masked import DecodedSum, LaneSum, MaskedFormat
from convoy_compression.update.range_control import first_sigma
from convoy_privacy.errors import TooFewPeersError, WrongContextError
from convoy_protos.envelope import COUNTER_SCALE, SUM_COUNTERS
from convoy_protos.v1.secure_sum_pb2 import SumTerms
from convoy_server.admission import AdmittedUpdate, Expectation, admit, envelope_of
from convoy_server.errors import RefusedReplyError
from convoy_server.rounds import Rejection

logger = logging.getLogger(__name__)

Float32Vector = NDArray[np.float32]

Ask = Callable[[str, Mapping[str, RecordDict]], Iterator[tuple[str, Message]]]
"""Send contents by vehicle as messages of a kind; yields the vehicle and its reply, as they come."""

TermsFor = Callable[[int, Sequence[str], int, float], SumTerms]
"""The terms for a shard's number, its vehicles, the attempt, from 1, and a deviation to be ready for."""

_TOO_WIDE: Final = 0.11
"""Half of what a sum fills of the right range: a bit less of precision than there could be."""


@dataclass(frozen=True, slots=True)
class SumKind:
    """What is summed.

    Attributes:
        counters: Their names, in the order on the wire.
        fault: Why a shard's counters cannot be those of honest vehicles; empty where they can.
    """

    counters: tuple[str, ...]
    fault: Callable[["ShardSum"], str]

    @property
    def counter_bytes(self) -> int:
        """Of all counters."""
        return 8 * len(self.counters)


@dataclass(slots=True)
class ShardSum:
    """What became of one shard.

    Attributes:
        number: From 0.
        vehicles: Who was asked, sorted.
        summed: Whose update is in the sum; empty where the shard was given up.
        rejections: Whose message was refused, and why.
        culprits: Who dealt or sent wrong shares; their updates may be in the sum all the same.
        sigma: Deviation that the next attempt is ready for, for each unit of weight.
        members: Vehicles in the roster of the last attempt.
        uploads: Updates in the sum of the last attempt, applied or not.
        opened: Whether a sum has been unmasked, applied or not.
        attempts: Sums that were tried.
        terms: Of the last attempt.
        decoded: The sum of the weighted updates; None where the shard was given up.
        counters: By name, as the vehicles say.
        why: Why it was given up; empty where it was not.
        helpers: Names of the mask helpers of the last attempt; none: vehicles mask pairwise.
        helpers_lost: Of these, whose mask sum did not come or was refused.
    """

    number: int
    vehicles: tuple[str, ...]
    sigma: float
    summed: tuple[str, ...] = ()
    rejections: list[Rejection] = field(default_factory=list)
    culprits: tuple[str, ...] = ()
    members: int = 0
    uploads: int = 0
    opened: bool = False
    attempts: int = 0
    terms: SumTerms = field(default_factory=SumTerms)
    decoded: DecodedSum | None = None
    counters: dict[str, int] = field(default_factory=dict)
    why: str = ""
    helpers: tuple[str, ...] = ()
    helpers_lost: tuple[str, ...] = ()

    @property
    def weight(self) -> float:
        """Summed weights, in units of the cap."""
        return self.counters["weight"] / self.terms.weight_cap

    def mean(self) -> Float32Vector:
        """The weighted mean of the shard's updates, float32, shape (M,)."""
        assert self.decoded is not None  # noqa: S101 - only shards that were not given up are asked
        return self.decoded.sum_N / np.float32(self.weight)


class OpenSum:
    """One attempt at one shard's sum while it is made; each way of masking has its own kind.

    Attributes:
        shard: What becomes of it.
        kind: What is summed.
        lanes: How updates became lanes.
        present: Who has answered properly so far.
        overflowed: Whether the sum was opened and does not fit its range.
    """

    def __init__(self, shard: ShardSum, kind: SumKind, terms_for: TermsFor, attempt: int) -> None:
        """Agree on terms with whoever is left of the shard."""
        self.shard = shard
        self.kind = kind
        self.present = list(shard.summed or shard.vehicles)
        self.overflowed = False
        # A sum made again needs all its vehicles: without one, the two would show that one.
        self._wanted = len(self.present) if attempt > 1 else 0
        shard.terms = terms_for(shard.number, self.present, attempt, shard.sigma)
        shard.attempts, shard.summed = attempt, ()
        self.lanes = MaskedFormat.of(shard.terms)
        self._lane_sum = LaneSum(self.lanes)
        self._counters_C = np.zeros(len(kind.counters), np.uint64)

    @property
    def given_up(self) -> bool:
        """Whether there will be no sum."""
        return bool(self.shard.why)

    def give_up(self, why: str) -> None:
        """There will be no sum."""
        self.shard.why = why
        self.shard.summed = ()

    def check_all_wanted(self) -> None:
        """Refuse to make a sum again without one of its vehicles.

        Raises:
            TooFewPeersError: Somebody is missing; the vehicles would refuse as well.
        """
        if len(self.present) < self._wanted:
            raise TooFewPeersError("vehicles of a sum made again", len(self.present), self._wanted)

    def refuse(self, vehicle: str, error: RefusedReplyError) -> None:
        """A vehicle's message is of no use."""
        self.shard.rejections.append(Rejection(vehicle, error.reason, error.detail))
        logger.warning("vehicle %s is out of shard %d: %s", vehicle, self.shard.number, error)

    def admit(
        self, vehicle: str, reply: Message, expected: Expectation, context: bytes
    ) -> AdmittedUpdate:
        """The masked update in a reply; signature and masks are not looked at.

        Raises:
            RefusedReplyError: With the first reason that applies.
            WrongContextError: It belongs to another sum.
        """
        payload_bytes = self.lanes.payload_bytes + self.kind.counter_bytes
        update = admit(envelope_of(reply), vehicle, expected, payload_bytes)
        if len(update.payload) != payload_bytes:
            detail = f"expected {payload_bytes} payload bytes, got {len(update.payload)}"
            raise RefusedReplyError("wrong_length", detail)
        if update.header.context_digest != context:
            raise WrongContextError("the upload belongs to another sum")
        return update

    def add(self, payload: memoryview) -> None:
        """Add what was admitted and verified; cannot fail."""
        vector_bytes = self.lanes.payload_bytes
        self._lane_sum.add(self.lanes.unpack(payload[:vector_bytes]))
        self._counters_C += np.frombuffer(payload[vector_bytes:], "<u8")

    def close(self) -> None:
        """Nobody else's update comes into the sum."""
        self.shard.summed = tuple(sorted(self.present))
        self.shard.uploads = len(self.present)

    def finish(self, masks_P: Lanes, masks_C: NDArray[np.uint64]) -> None:
        """Take the masks out and decode, or say why not.

        Args:
            masks_P: Sum of the masks in the lanes.
            masks_C: And in the counters.
        """
        shard = self.shard
        shard.opened = True
        self._lane_sum.subtract(masks_P)
        self._counters_C -= masks_C
        shard.counters = dict(zip(self.kind.counters, map(int, self._counters_C), strict=True))
        decoded = self.lanes.decode(self._lane_sum.lanes_P, shard.uploads)
        self.overflowed = decoded.overflowed
        if self.overflowed:
            shard.sigma *= 2.0
            logger.warning(
                "shard %d overflows its range (wrap ratio %.2f) in attempt %d: not applied",
                shard.number,
                decoded.wrap_ratio,
                shard.attempts,
            )
            return
        fault = self.kind.fault(shard)
        if fault:
            self.give_up(fault)
            return
        shard.decoded = decoded

    def narrowed(self) -> bool:
        """Whether the range was far too wide, and is now what the updates' lengths call for."""
        shard = self.shard
        if shard.decoded is None or shard.decoded.wrap_ratio >= _TOO_WIDE:
            return False
        mean_square = shard.counters["squared_norm"] / COUNTER_SCALE / len(shard.summed)
        sigma = first_sigma(max(math.sqrt(mean_square), 1e-12), self.lanes.padded_count)
        if not sigma < shard.sigma / 2.0:
            return False
        shard.sigma, shard.decoded = sigma, None
        return True


AnySum = TypeVar("AnySum", bound=OpenSum)


def sum_until_they_fit(
    shards: Sequence[Sequence[str]],
    begin: Callable[[ShardSum, int], AnySum],
    run: Callable[[Sequence[AnySum]], None],
    *,
    sigma: float,
    guessed: bool,
    max_attempts: int,
) -> list[ShardSum]:
    """Sum every shard, and those that do not fit their range once more with twice of it.

    Args:
        shards: Vehicles that have trained, by shard; each in one shard.
        begin: A new attempt, from 1, at a shard.
        run: Brings attempts to their end, all together.
        sigma: Deviation of a coordinate of the sum to be ready for, for each unit of weight.
        guessed: Whether nobody knows that yet: a sum with far too wide a range is then made again.
        max_attempts: Sums tried for a shard.
    """
    results = [ShardSum(number, tuple(sorted(names)), sigma) for number, names in enumerate(shards)]
    open_shards = list(results)
    for attempt in range(1, max_attempts + 1):
        sums = [begin(shard, attempt) for shard in open_shards]
        run(sums)
        open_shards = [
            one.shard
            for one in sums
            if one.overflowed or (guessed and attempt < max_attempts and one.narrowed())
        ]
        if not open_shards:
            break
    for shard in open_shards:
        shard.why = f"the sum overflowed its range {max_attempts} times"
        shard.summed, shard.decoded = (), None
    for shard in results:
        if shard.why:
            logger.warning("shard %d of %d is given up: %s", shard.number, len(results), shard.why)
    return results


def _update_fault(shard: ShardSum) -> str:
    """Why the counters cannot be those of honest vehicles; empty where they can."""
    count, weight = shard.counters["count"], shard.counters["weight"]
    if count != len(shard.summed):
        return f"the sum counts {count} vehicles, {len(shard.summed)} are in it"
    if not count <= weight <= count * shard.terms.weight_cap:
        return f"the sum weighs {weight} examples, {count} vehicles can have {shard.terms.weight_cap} each"
    # With noise the count of clipped updates may be anything.
    if not shard.terms.count_noise_variance and shard.counters["clipped"] > count:
        return f"the sum counts {shard.counters['clipped']} clipped updates of {count}"
    if shard.counters["loss_weight"] > weight:
        return f"{shard.counters['loss_weight']} examples stand behind the loss, of {weight}"
    return ""


UPDATES: Final = SumKind(SUM_COUNTERS, _update_fault)
