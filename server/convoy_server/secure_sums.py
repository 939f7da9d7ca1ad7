"""Run the secure sums of a round: every shard by itself, all of them at the same time.

    check_in -> share -> upload -> unmask, and once more after an overflow, with twice the range

What is summed is updates, or the scores of a model, which are counters without a vector (SumKind).

The rules of a sum are in convoy_privacy.secure_sum.aggregator, its numbers in
convoy_compression.update.masked; here messages go out and come back. Whatever a vehicle sends is
taken or becomes one rejection; a shard that falls below its threshold is given up, the others go on.
"""

# Shapes: M parameters that are sent, P padded lanes, C counters.

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import numpy as np
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from convoy_compression.update.masked import DecodedSum, LaneSum, MaskedFormat
from convoy_compression.update.range_control import first_sigma
from convoy_privacy.certificates import Trust
from convoy_privacy.errors import BadSharesError, TooFewPeersError, WrongContextError
from convoy_privacy.secure_sum.aggregator import Aggregator
from convoy_protos.envelope import COUNTER_SCALE, SUM_COUNTERS
from convoy_protos.errors import ProtocolError
from convoy_protos.flower_messages import (
    CHECK_IN,
    SHARE,
    UNMASK,
    UPLOAD,
    read_answer,
    request_content,
)
from convoy_protos.v1.secure_sum_pb2 import SumTerms
from convoy_server.admission import Expectation, admit, envelope_of, refusal_of, refuse_failed
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

    @property
    def weight(self) -> float:
        """Summed weights, in units of the cap."""
        return self.counters["weight"] / self.terms.weight_cap

    def mean(self) -> Float32Vector:
        """The weighted mean of the shard's updates, float32, shape (M,)."""
        assert self.decoded is not None  # noqa: S101 - only shards that were not given up are asked
        return self.decoded.sum_N / np.float32(self.weight)


def run_secure_sums(
    shards: Sequence[Sequence[str]],
    terms_for: TermsFor,
    ask: Ask,
    *,
    expected: Expectation,
    trust: Trust,
    now: datetime,
    sigma: float,
    guessed: bool,
    max_attempts: int,
    kind: SumKind | None = None,
) -> list[ShardSum]:
    """Sum every shard's updates without seeing one of them.

    Args:
        shards: Vehicles that have trained, by shard; each in one shard.
        terms_for: What a shard's vehicles must agree on.
        ask: How messages travel.
        expected: What every upload must say about itself.
        trust: Whose certificates count; its list of revocations goes to the vehicles.
        now: For certificates.
        sigma: Deviation of a coordinate of the sum to be ready for, for each unit of weight.
        guessed: Whether nobody knows that yet: a sum with far too wide a range is then made again.
        max_attempts: Sums tried for a shard.
        kind: What is summed; None: updates.
    """
    kind = kind or UPDATES
    results = [ShardSum(number, tuple(sorted(names)), sigma) for number, names in enumerate(shards)]
    open_shards = list(results)
    for attempt in range(1, max_attempts + 1):
        sums = [_attempt_of(shard, kind, terms_for, attempt, trust, now) for shard in open_shards]
        _Exchanges(sums, ask, expected).run()
        open_shards = [
            one.shard
            for one in sums
            if one.overflowed or (guessed and attempt < max_attempts and _narrowed(one))
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


@dataclass(slots=True)
class _Attempt:
    """One sum of one shard while it is made.

    Attributes:
        kind: What is summed.
        present: Who has answered properly so far.
        wanted: Vehicles without which it must not be made; 0: the threshold decides.
    """

    shard: ShardSum
    kind: SumKind
    aggregator: Aggregator
    lanes: MaskedFormat
    lane_sum: LaneSum
    revocations: bytes
    counters_C: NDArray[np.uint64]
    present: list[str]
    wanted: int
    overflowed: bool = False

    @property
    def given_up(self) -> bool:
        return bool(self.shard.why)

    def give_up(self, why: str) -> None:
        self.shard.why = why

    def check_all_wanted(self) -> None:
        """A sum made again needs all its vehicles: without one, the two would show that one.

        Raises:
            TooFewPeersError: Somebody is missing; the vehicles would refuse as well.
        """
        if len(self.present) < self.wanted:
            raise TooFewPeersError("vehicles of a sum made again", len(self.present), self.wanted)

    def refuse(self, vehicle: str, error: RefusedReplyError) -> None:
        self.shard.rejections.append(Rejection(vehicle, error.reason, error.detail))
        logger.warning("vehicle %s is out of shard %d: %s", vehicle, self.shard.number, error)


def _attempt_of(  # noqa: PLR0917 - what, of whom, when: each of them is needed
    shard: ShardSum,
    kind: SumKind,
    terms_for: TermsFor,
    attempt: int,
    trust: Trust,
    now: datetime,
) -> _Attempt:
    present = list(shard.summed or shard.vehicles)
    shard.terms = terms_for(shard.number, present, attempt, shard.sigma)
    shard.attempts, shard.summed = attempt, ()
    lanes = MaskedFormat.of(shard.terms)
    return _Attempt(
        shard=shard,
        kind=kind,
        aggregator=Aggregator(shard.terms.SerializeToString(deterministic=True), trust, now),
        lanes=lanes,
        lane_sum=LaneSum(lanes),
        revocations=trust.revocations.der if trust.revocations else b"",
        counters_C=np.zeros(len(kind.counters), np.uint64),
        present=present,
        wanted=len(present) if attempt > 1 else 0,
    )


class _Exchanges:
    """The four exchanges of one attempt, for all shards together."""

    def __init__(self, sums: Sequence[_Attempt], ask: Ask, expected: Expectation) -> None:
        self._sums = sums
        self._ask = ask
        self._expected = expected

    def run(self) -> None:
        """Until every shard has a sum or a reason why not."""
        self._exchange(CHECK_IN, _terms, _check_in)
        self._exchange(SHARE, _roster, _share)
        self._exchange(UPLOAD, _deliveries, self._upload)
        self._exchange(UNMASK, _unmask_request, _unmask)
        for one in self._sums:
            if not one.given_up:
                _finish(one)

    def _exchange(
        self,
        kind: str,
        requests_of: Callable[[_Attempt], Mapping[str, bytes]],
        take: Callable[[_Attempt, str, Message], None],
    ) -> None:
        """Send each shard's requests; whoever does not answer properly is not present any more."""
        contents: dict[str, RecordDict] = {}
        shard_of: dict[str, _Attempt] = {}
        for one in self._sums:
            if one.given_up:
                continue
            try:
                requests = requests_of(one)
            except ProtocolError as error:
                one.give_up(str(error))
                continue
            one.present = []
            shared = {request: request_content(request) for request in set(requests.values())}
            for vehicle, request in requests.items():
                contents[vehicle], shard_of[vehicle] = shared[request], one
        for vehicle, reply in self._ask(kind, contents) if contents else ():
            one = shard_of[vehicle]
            try:
                take(one, vehicle, reply)
            except ProtocolError as error:
                one.refuse(vehicle, refusal_of(error))
            else:
                one.present.append(vehicle)

    def _upload(self, one: _Attempt, vehicle: str, reply: Message) -> None:
        payload_bytes = one.lanes.payload_bytes + one.kind.counter_bytes
        update = admit(envelope_of(reply), vehicle, self._expected, payload_bytes)
        if len(update.payload) != payload_bytes:
            detail = f"expected {payload_bytes} payload bytes, got {len(update.payload)}"
            raise RefusedReplyError("wrong_length", detail)
        if update.header.context_digest != one.aggregator.context:
            raise WrongContextError("the upload belongs to another sum")
        one.aggregator.verify_upload(vehicle, update.payload, update.header.signature)
        # From here on the update is in the sum: nothing below can fail.
        vector_bytes = one.lanes.payload_bytes
        one.lane_sum.add(one.lanes.unpack(update.payload[:vector_bytes]))
        one.counters_C += np.frombuffer(update.payload[vector_bytes:], "<u8")


def _terms(one: _Attempt) -> dict[str, bytes]:
    return dict.fromkeys(one.present, one.aggregator.terms.encoded)


def _check_in(one: _Attempt, vehicle: str, reply: Message) -> None:
    one.aggregator.check_in(vehicle, _answer(reply))


def _roster(one: _Attempt) -> dict[str, bytes]:
    one.check_all_wanted()
    one.shard.members = len(one.present)
    return dict.fromkeys(one.present, one.aggregator.close_check_in(one.revocations))


def _share(one: _Attempt, vehicle: str, reply: Message) -> None:
    one.aggregator.shares(vehicle, _answer(reply))


def _deliveries(one: _Attempt) -> dict[str, bytes]:
    one.check_all_wanted()
    return one.aggregator.close_shares()


def _unmask_request(one: _Attempt) -> dict[str, bytes]:
    one.check_all_wanted()
    request = one.aggregator.close_uploads()
    one.shard.summed = tuple(sorted(one.present))
    one.shard.uploads = len(one.present)
    return dict.fromkeys(one.present, request)


def _unmask(one: _Attempt, vehicle: str, reply: Message) -> None:
    one.aggregator.unmask_reply(vehicle, _answer(reply))


def _answer(reply: Message) -> bytes:
    refuse_failed(reply)
    return read_answer(reply.content)


def _finish(one: _Attempt) -> None:
    """Take the masks out and decode, or say why not."""
    shard, lanes, counters = one.shard, one.lanes, one.kind.counters
    try:
        masks_P, masks_C = one.aggregator.mask_sum(
            lanes.lane_type, lanes.padded_count, len(counters)
        )
    except (TooFewPeersError, BadSharesError) as error:
        one.give_up(str(error))
        shard.summed = ()
        return
    finally:
        shard.culprits = tuple(sorted(one.aggregator.culprits))
    shard.opened = True
    one.lane_sum.subtract(masks_P)
    one.counters_C -= masks_C
    shard.counters = dict(zip(counters, map(int, one.counters_C), strict=True))
    decoded = lanes.decode(one.lane_sum.lanes_P, shard.uploads)
    one.overflowed = decoded.overflowed
    if one.overflowed:
        shard.sigma *= 2.0
        logger.warning(
            "shard %d overflows its range (wrap ratio %.2f) in attempt %d: not applied",
            shard.number,
            decoded.wrap_ratio,
            shard.attempts,
        )
        return
    fault = one.kind.fault(shard)
    if fault:
        one.give_up(fault)
        shard.summed = ()
        return
    shard.decoded = decoded


def _narrowed(one: _Attempt) -> bool:
    """Whether the range was far too wide, and is now what the updates' lengths call for."""
    shard = one.shard
    if shard.decoded is None or shard.decoded.wrap_ratio >= _TOO_WIDE:
        return False
    mean_square = shard.counters["squared_norm"] / COUNTER_SCALE / len(shard.summed)
    sigma = first_sigma(max(math.sqrt(mean_square), 1e-12), one.lanes.padded_count)
    if not sigma < shard.sigma / 2.0:
        return False
    shard.sigma, shard.decoded = sigma, None
    return True


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
