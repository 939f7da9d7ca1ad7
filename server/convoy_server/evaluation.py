"""How the global model does on the vehicles' own held-back laps, from counts they send.

A vehicle can lie about its own laps; it cannot send what would spoil the fleet's figures for
everyone: counts are bounded, sums finite, and balanced accuracy is averaged over vehicles. That holds
of vehicles that tell their counts; one in a masked sum can move the figures of its shard at will.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from convoy_driving.evaluation import EvaluationCounts
from convoy_protos.v1.federation_pb2 import Evaluation
from convoy_server.admission import Expectation, one_line, refuse_foreign
from convoy_server.errors import RefusedReplyError
from convoy_server.round_log import VehicleScore
from convoy_server.score_sums import NO_SCORES, SummedScores

CLASSES: Final = 3
_MAX_ERROR_PER_EXAMPLE: Final = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedEvaluation:
    """One vehicle's counts, found plausible.

    Attributes:
        train_examples: Training examples of the vehicle.
        counts: On its held-back laps; at least one example.
    """

    train_examples: int
    counts: EvaluationCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetScore:
    """The fleet's figures of one global model; None where no vehicle gave any.

    Attributes:
        balanced_accuracy: Mean over the vehicles of each one's own.
        accuracy: Over all held-back examples.
        throttle_mae: Mean absolute error over all held-back examples.
        per_vehicle: Of vehicles that told theirs.
    """

    balanced_accuracy: float | None
    accuracy: float | None
    throttle_mae: float | None
    per_vehicle: Mapping[str, VehicleScore]


def check_evaluation(
    evaluation: Evaluation, vehicle: str, expected: Expectation
) -> CheckedEvaluation:
    """Refuse what cannot be true.

    Raises:
        RefusedReplyError: With the reason.
    """
    refuse_foreign(evaluation.run_id, evaluation.round, evaluation.vehicle_id, vehicle, expected)
    examples, correct = tuple(evaluation.class_examples), tuple(evaluation.class_correct)
    if len(examples) != CLASSES or len(correct) != CLASSES:
        raise RefusedReplyError(
            "wrong_length", f"expected {CLASSES} classes, got {len(examples)} and {len(correct)}"
        )
    total = sum(examples)
    if not 1 <= total <= expected.max_examples or evaluation.train_examples > expected.max_examples:
        raise RefusedReplyError(
            "bad_example_count",
            one_line(f"expected 1..{expected.max_examples} held-back examples, got {examples}"),
        )
    if any(right > all_ for right, all_ in zip(correct, examples, strict=True)):
        raise RefusedReplyError(
            "wrong_metrics", one_line(f"{correct} right of {examples} examples")
        )
    for name in ("throttle_absolute_error_sum", "loss_sum"):
        value = getattr(evaluation, name)
        if not math.isfinite(value):
            raise RefusedReplyError("not_finite", f"{name} is {value}")
        if not 0.0 <= value <= total * _MAX_ERROR_PER_EXAMPLE:
            raise RefusedReplyError("wrong_metrics", f"{name} is {value} over {total} examples")
    return CheckedEvaluation(
        train_examples=evaluation.train_examples,
        counts=EvaluationCounts(
            class_examples=(examples[0], examples[1], examples[2]),
            class_correct=(correct[0], correct[1], correct[2]),
            throttle_absolute_error_sum=evaluation.throttle_absolute_error_sum,
            loss_sum=evaluation.loss_sum,
        ),
    )


def merge(
    evaluations: Mapping[str, CheckedEvaluation], summed: SummedScores = NO_SCORES
) -> FleetScore:
    """The fleet's figures, the same whatever the order in which the vehicles answered.

    Args:
        evaluations: Of vehicles that told theirs.
        summed: Of those that gave them to masked sums only.
    """
    vehicles = len(evaluations) + summed.vehicles
    if not vehicles:
        return FleetScore(balanced_accuracy=None, accuracy=None, throttle_mae=None, per_vehicle={})
    ordered = {vehicle: evaluations[vehicle] for vehicle in sorted(evaluations)}
    fleet = sum((one.counts for one in ordered.values()), EvaluationCounts()) + summed.counts
    own = [one.counts.balanced_accuracy for one in ordered.values()]
    return FleetScore(
        balanced_accuracy=(sum(own) + summed.balanced_accuracy_sum) / vehicles,
        accuracy=fleet.accuracy,
        throttle_mae=fleet.throttle_mae,
        per_vehicle={
            vehicle: VehicleScore(
                examples=one.train_examples,
                balanced_accuracy=one.counts.balanced_accuracy,
                accuracy=one.counts.accuracy,
                throttle_mae=one.counts.throttle_mae,
            )
            for vehicle, one in ordered.items()
        },
    )
