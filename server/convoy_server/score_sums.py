"""Sum the scores of vehicles that give them to masked sums only: counters, no vector.

The vehicles have scored the model already and keep what they found. Only they are in these sums: beside
others whose scores are known, fewer than the minimum would be hidden.
"""

import hashlib
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from convoy_driving.evaluation import EvaluationCounts
from convoy_privacy.party import Party
from convoy_privacy.secure_sum.terms import MIN_MODULUS_BITS
from convoy_protos.envelope import COUNTER_SCALE, SCORE_COUNTERS
from convoy_protos.v1.secure_sum_pb2 import SumTerms
from convoy_server.admission import Expectation
from convoy_server.cohort import into_shards
from convoy_server.run_config import RunConfig
from convoy_server.secure_sums import run_secure_sums
from convoy_server.shard_sums import Ask, ShardSum, SumKind

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SummedScores:
    """How a model does on the held-back laps of vehicles that nobody knows singly.

    Attributes:
        vehicles: How many.
        balanced_accuracy_sum: Of each vehicle's own.
        counts: Of all of them together.
    """

    vehicles: int = 0
    balanced_accuracy_sum: float = 0.0
    counts: EvaluationCounts = field(default_factory=EvaluationCounts)

    def __add__(self, other: "SummedScores") -> "SummedScores":
        return SummedScores(
            vehicles=self.vehicles + other.vehicles,
            balanced_accuracy_sum=self.balanced_accuracy_sum + other.balanced_accuracy_sum,
            counts=self.counts + other.counts,
        )


NO_SCORES: Final = SummedScores()


def sum_scores(
    vehicles: Collection[str],
    run: RunConfig,
    expected: Expectation,
    model_digest: bytes,
    settings_digest: bytes,
    *,
    keys: Party,
    ask: Ask,
    now: Callable[[], datetime],
) -> list[ShardSum]:
    """One sum a shard of vehicles whose scores wait.

    Args:
        vehicles: Who said so.
        run: What to do.
        expected: What an update of this round must say about itself.
        model_digest: Of the model that was scored.
        settings_digest: Of the settings that scoring goes by.
        keys: Whose fleet this is.
        ask: How messages travel.
        now: For certificates.
    """
    update, number = run.update, expected.round_number
    if len(vehicles) < update.minimum_cohort:
        logger.warning(
            "round %d: %d vehicles give their scores to masked sums only, and [update] minimum_cohort "
            "is %d: they stay unknown",
            number,
            len(vehicles),
            update.minimum_cohort,
        )
        return []

    def terms(shard: int, _vehicles: Sequence[str], attempt: int, _sigma: float) -> SumTerms:
        seed = f"{run.seed} {number} {shard}".encode()
        return SumTerms(
            run_id=expected.run_id,
            round=number,
            shard=shard,
            attempt=attempt,
            model_digest=model_digest,
            schema_digest=expected.schema_digest,
            settings_digest=settings_digest,
            parameter_count=0,
            modulus_bits=MIN_MODULUS_BITS,
            step=1.0,
            weight_cap=1,
            codec_seed=hashlib.sha256(b"convoy score seed/1" + seed).digest(),
            minimum_cohort=update.minimum_cohort,
            deadline_s=max(1, round(update.exchange_deadline_s)),
            equal_weights=True,
        )

    return run_secure_sums(
        into_shards(
            vehicles,
            update.shard_size,
            seed=run.seed,
            round_number=number,
            minimum=update.minimum_cohort,
        ),
        terms,
        ask,
        expected=replace(expected, parameter_count=0),
        trust=keys.trust,
        now=now(),
        sigma=1.0,
        guessed=False,
        max_attempts=1,
        kind=SumKind(SCORE_COUNTERS, lambda shard: _fault(shard, expected.max_examples)),
    )


def summed_scores(sums: Sequence[ShardSum]) -> SummedScores:
    """What the sums that came about say together."""
    done = [_scores(one) for one in sums if one.decoded is not None]
    return sum(done, NO_SCORES)


def _scores(one: ShardSum) -> SummedScores:
    told = one.counters
    return SummedScores(
        vehicles=told["count"],
        balanced_accuracy_sum=told["balanced_accuracy"] / COUNTER_SCALE,
        counts=EvaluationCounts(
            class_examples=(told["left"], told["straight"], told["right"]),
            class_correct=(told["left_correct"], told["straight_correct"], told["right_correct"]),
            throttle_absolute_error_sum=told["throttle_error"] / COUNTER_SCALE,
            loss_sum=told["loss"] / COUNTER_SCALE,
        ),
    )


def _fault(one: ShardSum, max_examples: int) -> str:
    """Why these cannot be the scores of honest vehicles; empty where they can."""
    told, count = one.counters, one.counters["count"]
    if count != len(one.summed):
        return f"the sum counts {count} vehicles, {len(one.summed)} are in it"
    if told["balanced_accuracy"] > count * COUNTER_SCALE:
        share = told["balanced_accuracy"] / COUNTER_SCALE / count
        return f"the vehicles have a balanced accuracy of {share:g} on average"
    for name in ("left", "straight", "right"):
        right, all_ = told[f"{name}_correct"], told[name]
        if not right <= all_ <= count * max_examples:
            return f"{right} of {all_} examples are predicted right"
    if not any(told[name] for name in ("left", "straight", "right")):
        return "the vehicles hold no examples back"
    return ""
