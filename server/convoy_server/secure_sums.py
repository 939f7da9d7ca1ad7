"""Run the secure sums of a round: every shard by itself, all of them at the same time.

    check_in -> share -> upload -> unmask, and once more after an overflow, with twice the range

What is summed is updates, or the scores of a model, which are counters without a vector (SumKind).
The rules of a sum are in convoy_privacy.secure_sum.aggregator, its numbers in shard_sums.py; here
messages go out and come back. Whatever a vehicle sends is taken or becomes one rejection; a shard that
falls below its threshold is given up, the others go on. With mask helpers: helped_sums.py.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from flwr.app import Message, RecordDict

from convoy_privacy.certificates import Trust
from convoy_privacy.errors import BadSharesError, TooFewPeersError
from convoy_privacy.secure_sum.aggregator import Aggregator
from convoy_protos.errors import ProtocolError
from convoy_protos.flower_messages import (
    CHECK_IN,
    SHARE,
    UNMASK,
    UPLOAD,
    read_answer,
    request_content,
)
from convoy_server.admission import Expectation, refusal_of, refuse_failed
from convoy_server.shard_sums import (
    UPDATES,
    Ask,
    OpenSum,
    ShardSum,
    SumKind,
    TermsFor,
    sum_until_they_fit,
)


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
    kind: SumKind = UPDATES,
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
        kind: What is summed.
    """

    def begin(shard: ShardSum, attempt: int) -> _PairwiseSum:
        one = _PairwiseSum(shard, kind, terms_for, attempt)
        one.open(trust, now)
        return one

    return sum_until_they_fit(
        shards,
        begin,
        lambda sums: _Exchanges(sums, ask, expected).run(),
        sigma=sigma,
        guessed=guessed,
        max_attempts=max_attempts,
    )


class _PairwiseSum(OpenSum):
    """One sum of one shard whose vehicles mask with each other."""

    aggregator: Aggregator
    revocations: bytes

    def open(self, trust: Trust, now: datetime) -> None:
        """Wait for check-ins."""
        terms = self.shard.terms.SerializeToString(deterministic=True)
        self.aggregator = Aggregator(terms, trust, now)
        self.revocations = trust.revocations.der if trust.revocations else b""


class _Exchanges:
    """The four exchanges of one attempt, for all shards together."""

    def __init__(self, sums: Sequence[_PairwiseSum], ask: Ask, expected: Expectation) -> None:
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
        requests_of: Callable[[_PairwiseSum], Mapping[str, bytes]],
        take: Callable[[_PairwiseSum, str, Message], None],
    ) -> None:
        """Send each shard's requests; whoever does not answer properly is not present any more."""
        contents: dict[str, RecordDict] = {}
        shard_of: dict[str, _PairwiseSum] = {}
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

    def _upload(self, one: _PairwiseSum, vehicle: str, reply: Message) -> None:
        update = one.admit(vehicle, reply, self._expected, one.aggregator.context)
        one.aggregator.verify_upload(vehicle, update.payload, update.header.signature)
        # From here on the update is in the sum: nothing below can fail.
        one.add(update.payload)


def _terms(one: _PairwiseSum) -> dict[str, bytes]:
    return dict.fromkeys(one.present, one.aggregator.terms.encoded)


def _check_in(one: _PairwiseSum, vehicle: str, reply: Message) -> None:
    one.aggregator.check_in(vehicle, _answer(reply))


def _roster(one: _PairwiseSum) -> dict[str, bytes]:
    one.check_all_wanted()
    one.shard.members = len(one.present)
    return dict.fromkeys(one.present, one.aggregator.close_check_in(one.revocations))


def _share(one: _PairwiseSum, vehicle: str, reply: Message) -> None:
    one.aggregator.shares(vehicle, _answer(reply))


def _deliveries(one: _PairwiseSum) -> dict[str, bytes]:
    one.check_all_wanted()
    return one.aggregator.close_shares()


def _unmask_request(one: _PairwiseSum) -> dict[str, bytes]:
    one.check_all_wanted()
    request = one.aggregator.close_uploads()
    one.close()
    return dict.fromkeys(one.present, request)


def _unmask(one: _PairwiseSum, vehicle: str, reply: Message) -> None:
    one.aggregator.unmask_reply(vehicle, _answer(reply))


def _answer(reply: Message) -> bytes:
    refuse_failed(reply)
    return read_answer(reply.content)


def _finish(one: _PairwiseSum) -> None:
    """Rebuild the masks from the shares, or say why not."""
    lanes = one.lanes
    try:
        masks_P, masks_C = one.aggregator.mask_sum(
            lanes.lane_type, lanes.padded_count, len(one.kind.counters)
        )
    except (TooFewPeersError, BadSharesError) as error:
        one.give_up(str(error))
        return
    finally:
        one.shard.culprits = tuple(sorted(one.aggregator.culprits))
    one.finish(masks_P, masks_C)
