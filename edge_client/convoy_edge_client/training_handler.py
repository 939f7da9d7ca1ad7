"""Answer `train`: learn from the vehicle's own recordings, send how the parameters moved."""

# Shapes: N parameters.

import logging
import time

import numpy as np
from numpy.typing import NDArray

from convoy_compression.update.codec import codec_on_wire
from convoy_driving.parameters import flatten, unflatten
from convoy_driving.training import train, vehicle_seed
from convoy_edge_client.devices import prepare_device
from convoy_edge_client.instructions import check_model, read_settings
from convoy_edge_client.update_pipeline import seal_update
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_edge_client.warm_cache import WarmCache
from convoy_protos.v1.federation_pb2 import RoundInstructions, UpdateHeader

logger = logging.getLogger(__name__)


def trained_update(
    instructions: RoundInstructions,
    global_N: NDArray[np.float32],
    vehicle: VehicleConfig,
    warm: WarmCache,
) -> bytes:
    """The envelope with this vehicle's update.

    The same instructions give the same bytes, whatever ran before in this process.

    Raises:
        SettingsError: The instructions hold a setting that this version does not know.
        RefusedInstructionsError: The global model is damaged or does not fit.
        RecordingsMissingError: There is nothing to learn from.
        DivergedTrainingError: The update is not finite.
    """
    started_s = time.monotonic()
    settings = read_settings(instructions.settings_json)
    codec = codec_on_wire(instructions.codec)
    device = prepare_device(vehicle)
    dataset = warm.dataset(vehicle, settings.data)
    size = (settings.data.frame_height, settings.data.frame_width)
    with warm.network(settings.model, *size, device) as (model, schema):
        check_model(instructions, global_N, schema)
        unflatten(global_N, model)
        result = train(
            model,
            dataset,
            settings.training,
            seed=vehicle_seed(instructions.seed, instructions.round, vehicle.vehicle_id),
            device=device,
            global_N=global_N,
            augment=vehicle.augment,
            mirror=vehicle.mirror,
        )
        update_N = flatten(model)
        update_N -= global_N
    header = UpdateHeader(
        run_id=instructions.run_id,
        round=instructions.round,
        vehicle_id=vehicle.vehicle_id,
        schema_digest=schema.digest,
        example_count=result.example_count,
        metrics={"train_loss": result.train_loss},
    )
    blob = seal_update(update_N, header, codec, settings.privacy)
    logger.info(
        "round %d: vehicle %s trained on %d examples in %.1f s, loss %.4f, sends %d bytes",
        instructions.round,
        vehicle.vehicle_id,
        result.example_count,
        time.monotonic() - started_s,
        result.train_loss,
        len(blob),
    )
    return blob
