"""Answer `evaluate`: how the global model does on the laps that this vehicle holds back.

What the vehicle's configuration tells the server goes with the reply; what it gives to masked sums only
waits for one (secure_sum_handlers). Nothing exact goes beside a noised sum: it would tell what the noise
hides.
"""

# Shapes: N parameters.

import logging
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from convoy_driving.evaluation import EvaluationCounts, evaluate, torch_predictor
from convoy_driving.parameters import unflatten
from convoy_edge_client.devices import prepare_device
from convoy_edge_client.errors import RefusedInstructionsError
from convoy_edge_client.instructions import check_schema, read_settings
from convoy_edge_client.local_update import LocalScores
from convoy_edge_client.training_breaks import GiveWay, go_on
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_edge_client.warm_cache import WarmCache
from convoy_protos.envelope import COUNTER_SCALE, SCORE_COUNTERS
from convoy_protos.protection import Protection, protection_of
from convoy_protos.settings import settings_digest
from convoy_protos.v1.federation_pb2 import Evaluation, RoundInstructions

logger = logging.getLogger(__name__)

_LARGEST_COUNTER: Final = 2**56
"""128 of these do not wrap around."""


def evaluation_of(
    instructions: RoundInstructions,
    global_N: NDArray[np.float32],
    vehicle: VehicleConfig,
    warm: WarmCache,
    give_way: GiveWay = go_on,
) -> tuple[Evaluation, LocalScores | None]:
    """The reply, and what waits for a masked sum if anything does.

    Args:
        instructions: Of the round.
        global_N: The global model.
        vehicle: Who evaluates.
        warm: Its recordings and networks.
        give_way: Called between two batches, and between two frames that are decoded.

    Raises:
        SettingsError: The instructions hold a setting that this version does not know.
        RefusedInstructionsError: The global model does not fit, or its scores cannot be summed.
        RecordingsMissingError: There is nothing to evaluate on.
    """
    evaluation = Evaluation(
        run_id=instructions.run_id, round=instructions.round, vehicle_id=vehicle.vehicle_id
    )
    summed = vehicle.metrics == "summed" and _can_be_summed(instructions)
    if vehicle.metrics != "clear" and not summed:
        evaluation.withheld = True
        return evaluation, None
    counts, train_examples = _held_back_counts(instructions, global_N, vehicle, warm, give_way)
    if summed:
        evaluation.withheld = evaluation.summed = True
        return evaluation, _scores(counts, instructions)
    evaluation.train_examples = train_examples
    evaluation.class_examples.extend(counts.class_examples)
    evaluation.class_correct.extend(counts.class_correct)
    evaluation.throttle_absolute_error_sum = counts.throttle_absolute_error_sum
    evaluation.loss_sum = counts.loss_sum
    return evaluation, None


def score_counters(counts: EvaluationCounts) -> tuple[int, ...]:
    """What a vehicle adds to a sum of scores, in the order of SCORE_COUNTERS.

    Raises:
        RefusedInstructionsError: A figure is not finite, or nothing is held back.
    """
    left, straight, right = counts.class_examples
    left_correct, straight_correct, right_correct = counts.class_correct
    values = {
        "count": 1,
        "balanced_accuracy": _scaled(counts.balanced_accuracy),
        "throttle_error": _scaled(counts.throttle_absolute_error_sum),
        "loss": _scaled(counts.loss_sum),
        "left": left,
        "straight": straight,
        "right": right,
        "left_correct": left_correct,
        "straight_correct": straight_correct,
        "right_correct": right_correct,
    }
    return tuple(values[name] for name in SCORE_COUNTERS)


def _can_be_summed(instructions: RoundInstructions) -> bool:
    masked = protection_of(instructions.codec) is Protection.MASKED
    return masked and read_settings(instructions.settings_json).privacy.noise_multiplier is None


def _held_back_counts(
    instructions: RoundInstructions,
    global_N: NDArray[np.float32],
    vehicle: VehicleConfig,
    warm: WarmCache,
    give_way: GiveWay,
) -> tuple[EvaluationCounts, int]:
    """Over this vehicle's held-back examples, and how many it has to train on."""
    settings = read_settings(instructions.settings_json)
    device = prepare_device(vehicle)
    dataset = warm.dataset(vehicle, settings.data, give_way)
    size = (settings.data.frame_height, settings.data.frame_width)
    with warm.network(settings.model, *size, device) as (model, schema):
        check_schema(instructions, global_N, schema)
        unflatten(global_N, model)
        predict = torch_predictor(model, device, settings.data.steering_threshold)
        counts = evaluate(predict, dataset, dataset.held_indices, between_batches=give_way)
    logger.info(
        "round %d: vehicle %s has balanced accuracy %.3f on %d held-back examples",
        instructions.round,
        vehicle.vehicle_id,
        counts.balanced_accuracy,
        counts.example_count,
    )
    return counts, len(dataset.train_indices)


def _scores(counts: EvaluationCounts, instructions: RoundInstructions) -> LocalScores:
    return LocalScores(
        run_id=instructions.run_id,
        round_number=instructions.round,
        schema_digest=instructions.schema_digest,
        model_digest=instructions.model_digest,
        settings_digest=settings_digest(instructions.settings_json),
        counters=score_counters(counts),
    )


def _scaled(value: float) -> int:
    if not math.isfinite(value):
        raise RefusedInstructionsError(f"the global model's scores here cannot be summed: {value}")
    return min(round(value * COUNTER_SCALE), _LARGEST_COUNTER)
