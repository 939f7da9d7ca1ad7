"""Answer `evaluate`: how the global model does on the laps that this vehicle holds back."""

# Shapes: N parameters.

import logging

import numpy as np
from numpy.typing import NDArray

from convoy_driving.evaluation import evaluate, torch_predictor
from convoy_driving.parameters import unflatten
from convoy_edge_client.devices import prepare_device
from convoy_edge_client.instructions import check_schema, read_settings
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_edge_client.warm_cache import WarmCache
from convoy_protos.v1.federation_pb2 import Evaluation, RoundInstructions

logger = logging.getLogger(__name__)


def held_back_counts(
    instructions: RoundInstructions,
    global_N: NDArray[np.float32],
    vehicle: VehicleConfig,
    warm: WarmCache,
) -> Evaluation:
    """Counts over this vehicle's held-back examples; none where its configuration keeps them.

    Raises:
        SettingsError: The instructions hold a setting that this version does not know.
        RefusedInstructionsError: The global model does not fit.
        RecordingsMissingError: There is nothing to evaluate on.
    """
    if vehicle.metrics == "withheld":
        return Evaluation(
            run_id=instructions.run_id,
            round=instructions.round,
            vehicle_id=vehicle.vehicle_id,
            withheld=True,
        )
    settings = read_settings(instructions.settings_json)
    device = prepare_device(vehicle)
    dataset = warm.dataset(vehicle, settings.data)
    size = (settings.data.frame_height, settings.data.frame_width)
    with warm.network(settings.model, *size, device) as (model, schema):
        check_schema(instructions, global_N, schema)
        unflatten(global_N, model)
        predict = torch_predictor(model, device, settings.data.steering_threshold)
        counts = evaluate(predict, dataset, dataset.held_indices)
    logger.info(
        "round %d: vehicle %s has balanced accuracy %.3f on %d held-back examples",
        instructions.round,
        vehicle.vehicle_id,
        counts.balanced_accuracy,
        counts.example_count,
    )
    return Evaluation(
        run_id=instructions.run_id,
        round=instructions.round,
        vehicle_id=vehicle.vehicle_id,
        train_examples=len(dataset.train_indices),
        class_examples=counts.class_examples,
        class_correct=counts.class_correct,
        throttle_absolute_error_sum=counts.throttle_absolute_error_sum,
        loss_sum=counts.loss_sum,
    )
