"""Run the secure sums of a round with mask helpers: every vehicle uploads once, then helpers answer.

    helped_upload -> mask_sum, and once more after an overflow, with twice the range

The rules of a sum are in convoy_privacy.secure_sum.helped_aggregator, its numbers in shard_sums.py. A
vehicle that is lost costs the sum nothing; a helper that is lost, silent or refuses costs the shard's
sum: nobody can stand in for it, and a second sum of the same updates with other helpers is nothing that
a vehicle would agree to. The other shards go on, and the next round has other helpers, if there are any.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime

from flwr.app import Message

from convoy_privacy.certificates import Trust
from convoy_privacy.errors import TooFewPeersError
from convoy_privacy.secure_sum.helped_aggregator import HelpedAggregator
from convoy_protos.errors import MalformedMessageError, ProtocolError
from convoy_protos.flower_messages import (
    HELPED_UPLOAD,
    MASK_SUM,
    read_answer,
    request_content,
)
from convoy_protos.v1.secure_sum_pb2 import HelperKey, SumTerms
from convoy_server.admission import Expectation, refusal_of, refuse_failed
from convoy_server.shard_sums import (
    UPDATES,
    Ask,
    OpenSum,
    ShardSum,
    TermsFor,
    sum_until_they_fit,
)

logger = logging.getLogger(__name__)


def run_helped_sums(
    shards: Sequence[Sequence[str]],
    terms_for: TermsFor,
    ask: Ask,
    *,
    helpers: Mapping[str, HelperKey],
    wanted_helpers: int,
    expected: Expectation,
    trust: Trust,
    now: datetime,
    sigma: float,
    guessed: bool,
    max_attempts: int,
) -> list[ShardSum]:
    """Sum every shard's updates without seeing one of them; otherwise as secure_sums.run_secure_sums.

    Args:
        shards: Vehicles that have trained, by shard; each in one shard.
        terms_for: What a shard's vehicles must agree on, helpers and cohort aside.
        ask: How messages travel, to vehicles and to helpers.
        helpers: Whom seeds are sealed to, by the name under which the node is asked.
        wanted_helpers: Without so many of them there are no sums.
        expected: What every upload must say about itself.
        trust: Whose certificates count; its list of revocations goes to the helpers.
        now: For certificates.
        sigma: Deviation of a coordinate of the sum to be ready for, for each unit of weight.
        guessed: Whether nobody knows that yet: a sum with far too wide a range is then made again.
        max_attempts: Sums tried for a shard.
    """

    def helped_terms(number: int, vehicles: Sequence[str], attempt: int, sigma: float) -> SumTerms:
        terms = terms_for(number, vehicles, attempt, sigma)
        terms.helpers.extend(helpers.values())
        terms.cohort.extend(sorted(vehicles))
        return terms

    def begin(shard: ShardSum, attempt: int) -> _HelpedSum:
        one = _HelpedSum(shard, helped_terms, attempt, tuple(helpers))
        one.open(wanted_helpers, trust, now)
        return one

    def run(sums: Sequence[_HelpedSum]) -> None:
        _take_uploads(sums, ask, expected)
        for one in sums:
            _ask_helpers(one, ask)
            _finish(one)

    return sum_until_they_fit(
        shards,
        begin,
        run,
        sigma=sigma,
        guessed=guessed,
        max_attempts=max_attempts,
    )


class _HelpedSum(OpenSum):
    """One sum of one shard whose vehicles mask for helpers.

    Attributes:
        aggregator: None where there can be no sum.
    """

    def __init__(
        self, shard: ShardSum, terms_for: TermsFor, attempt: int, helpers: tuple[str, ...]
    ) -> None:
        super().__init__(shard, UPDATES, terms_for, attempt)
        self.aggregator: HelpedAggregator | None = None
        shard.members, shard.helpers = len(self.present), helpers

    def open(self, wanted_helpers: int, trust: Trust, now: datetime) -> None:
        """Wait for uploads, or say why there can be no sum."""
        shard = self.shard
        needed = shard.terms.minimum_cohort
        revocations = trust.revocations.der if trust.revocations else b""
        terms = shard.terms.SerializeToString(deterministic=True)
        try:
            if len(shard.helpers) < wanted_helpers:
                raise TooFewPeersError("mask helpers", len(shard.helpers), wanted_helpers)
            if len(self.present) < needed:
                raise TooFewPeersError("vehicles", len(self.present), needed)
            self.aggregator = HelpedAggregator(terms, trust, now, revocations)
        except ProtocolError as error:
            self.give_up(str(error))


def _take_uploads(sums: Sequence[_HelpedSum], ask: Ask, expected: Expectation) -> None:
    """Every vehicle's one message, those of all shards together."""
    contents, shard_of = {}, {}
    for one in sums:
        if one.aggregator is None:
            continue
        terms = request_content(one.aggregator.terms.encoded)
        for vehicle in one.present:
            contents[vehicle], shard_of[vehicle] = terms, one
        one.present = []
    for vehicle, reply in ask(HELPED_UPLOAD, contents) if contents else ():
        one = shard_of[vehicle]
        try:
            _upload(one, vehicle, reply, expected)
        except ProtocolError as error:
            one.refuse(vehicle, refusal_of(error))
        else:
            one.present.append(vehicle)


def _upload(one: _HelpedSum, vehicle: str, reply: Message, expected: Expectation) -> None:
    assert one.aggregator is not None  # noqa: S101 - otherwise nobody is asked
    update = one.admit(vehicle, reply, expected, one.aggregator.context)
    seeds = read_answer(reply.content)
    one.aggregator.upload(vehicle, seeds, update.payload, update.header.signature)
    # From here on the update is in the sum: nothing below can fail.
    one.add(update.payload)


def _ask_helpers(one: _HelpedSum, ask: Ask) -> None:
    """All helpers of one shard: a helper gets one request at a time, as its memory grows with each."""
    if one.aggregator is None:
        return
    try:
        one.check_all_wanted()
        request = one.aggregator.close()
    except ProtocolError as error:
        one.give_up(str(error))
        return
    one.close()
    content = request_content(request)
    reasons = dict.fromkeys(one.shard.helpers, "no answer")
    certified = dict(zip(one.shard.helpers, one.aggregator.helper_names, strict=True))
    for helper, reply in ask(MASK_SUM, dict.fromkeys(one.shard.helpers, content)):
        if helper not in reasons:
            continue
        try:
            refuse_failed(reply)
            one.aggregator.helper_reply(certified[helper], read_answer(reply.content))
        except ProtocolError as error:
            reasons[helper] = str(refusal_of(error))
        else:
            del reasons[helper]
    one.shard.helpers_lost = tuple(reasons)
    if reasons:
        one.give_up("; ".join(f"helper {name}: {why}" for name, why in reasons.items()))


def _finish(one: _HelpedSum) -> None:
    """Take out the masks that the helpers added up, or say why not."""
    if one.aggregator is None or one.given_up:
        return
    lanes = one.lanes
    try:
        masks_P, masks_C = one.aggregator.mask_sum(
            lanes.lane_type, lanes.padded_count, len(one.kind.counters)
        )
    except MalformedMessageError as error:
        one.give_up(str(error))
        return
    one.finish(masks_P, masks_C)
