"""Answer `train`: learn from the vehicle's own recordings how the parameters should move."""

# Shapes: N parameters.

import contextlib
import logging
import math
import time

import numpy as np
from numpy.typing import NDArray

from convoy_compression.update.changed_part import changed_part
from convoy_driving.parameters import flatten, unflatten
from convoy_driving.training import train, vehicle_seed
from convoy_edge_client.devices import prepare_device
from convoy_edge_client.errors import DivergedTrainingError
from convoy_edge_client.instructions import RoundSettings, check_schema
from convoy_edge_client.local_update import LocalUpdate
from convoy_edge_client.training_breaks import (
    TrainingBreak,
    TrainingBreaks,
    giving_way,
    work_digest,
)
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_edge_client.warm_cache import WarmCache
from convoy_protos.settings import settings_digest
from convoy_protos.v1.federation_pb2 import RoundInstructions

logger = logging.getLogger(__name__)


def trained_update(
    instructions: RoundInstructions,
    settings: RoundSettings,
    global_N: NDArray[np.float32],
    vehicle: VehicleConfig,
    warm: WarmCache,
    *,
    breaks: TrainingBreaks | None = None,
    deadline_s: float = math.inf,
) -> LocalUpdate:
    """This vehicle's update of the global model.

    The same instructions give the same update, whatever ran before in this process and however often
    training was interrupted.

    Args:
        instructions: Of the round.
        settings: Theirs, read.
        global_N: The global model.
        vehicle: Who trains.
        warm: Its recordings and networks.
        breaks: Who decides when work pauses; None: nobody.
        deadline_s: Unix time after which nobody waits for the update any more; only breaks ask.

    Raises:
        NotNowError: The machine was needed for something else until the deadline.
        RefusedInstructionsError: The global model does not fit.
        RecordingsMissingError: There is nothing to learn from.
        DivergedTrainingError: The update is not finite; sending it would only have it refused.
    """
    started_s = time.monotonic()
    device = prepare_device(vehicle)
    with giving_way(breaks, deadline_s) as give_way:
        dataset = warm.dataset(vehicle, settings.data, give_way)
    size = (settings.data.frame_height, settings.data.frame_width)
    with warm.network(settings.model, *size, device) as (model, schema):
        check_schema(instructions, global_N, schema)
        unflatten(global_N, model)
        pauses: contextlib.AbstractContextManager[TrainingBreak] = contextlib.nullcontext(
            TrainingBreak()
        )
        if breaks is not None:
            work = work_digest(instructions, vehicle, device, dataset)
            pauses = breaks.during(work, deadline_s)
        with pauses as pause:
            result = train(
                model,
                dataset,
                settings.training,
                seed=vehicle_seed(instructions.seed, instructions.round, vehicle.vehicle_id),
                device=device,
                global_N=global_N,
                augment=vehicle.augment,
                mirror=vehicle.mirror,
                between_batches=pause.between_batches,
                resume=pause.resume,
            )
        update_N = flatten(model)
        update_N -= global_N
    if not np.isfinite(update_N).all():
        raise DivergedTrainingError(
            f"vehicle {vehicle.vehicle_id}: training diverged in round {instructions.round}: the "
            "update is not finite; lower learning_rate"
        )
    logger.info(
        "round %d: vehicle %s trained on %d examples in %.1f s, loss %.4f",
        instructions.round,
        vehicle.vehicle_id,
        result.example_count,
        time.monotonic() - started_s,
        result.train_loss,
    )
    sent = changed_part(schema.names, schema.sizes, settings.training.freeze)
    return LocalUpdate(
        run_id=instructions.run_id,
        round_number=instructions.round,
        schema_digest=schema.digest,
        model_digest=instructions.model_digest,
        settings_digest=settings_digest(instructions.settings_json),
        update_N=sent.gather(update_N),
        example_count=result.example_count,
        train_loss=result.train_loss,
    )
