"""Answer `query.certainty`: how sure the global model is of this vehicle's frames, as counts of a histogram."""

# Shapes: N parameters.

from typing import Final

import numpy as np
from numpy.typing import NDArray

from convoy_driving.certainty import certainty_counts
from convoy_driving.evaluation import Predictor, torch_predictor
from convoy_driving.parameters import unflatten
from convoy_edge_client.devices import prepare_device
from convoy_edge_client.errors import RefusedInstructionsError
from convoy_edge_client.instructions import check_schema, read_settings
from convoy_edge_client.training_breaks import GiveWay, go_on
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_edge_client.warm_cache import WarmCache
from convoy_protos.v1.federation_pb2 import CertaintyCounts, RoundInstructions

FEWEST_FRAMES: Final = 16
"""Counts over a single frame would say much about it."""
_MOST_FRAMES: Final = 256


def certainty_of(
    instructions: RoundInstructions,
    global_N: NDArray[np.float32],
    vehicle: VehicleConfig,
    warm: WarmCache,
    give_way: GiveWay = go_on,
) -> CertaintyCounts:
    """Let the global model answer held-back frames, spread evenly.

    Args:
        instructions: Which network, and how frames are made.
        global_N: The global model.
        vehicle: Who is asked.
        warm: Its recordings and networks.
        give_way: Called between two batches, and between two frames that are decoded.

    Raises:
        SettingsError: The instructions hold a setting that this version does not know.
        RefusedInstructionsError: This vehicle tells no figures, holds too few frames back, or the global
            model does not fit.
        RecordingsMissingError: The recordings are not where the configuration says.
    """
    if vehicle.metrics != "clear":
        raise RefusedInstructionsError(
            f'metrics = "{vehicle.metrics}": this vehicle tells no certainty in the clear'
        )
    settings = read_settings(instructions.settings_json)
    data = settings.data
    dataset = warm.dataset(vehicle, data, give_way)
    held = dataset.held_indices
    if len(held) < FEWEST_FRAMES:
        raise RefusedInstructionsError(
            f"certainty is told over at least {FEWEST_FRAMES} held-back frames, not over {len(held)}"
        )
    places = np.linspace(0, len(held) - 1, min(_MOST_FRAMES, len(held))).round().astype(np.int64)
    device = prepare_device(vehicle)
    with warm.network(settings.model, data.frame_height, data.frame_width, device) as (model, own):
        check_schema(instructions, global_N, own)
        unflatten(global_N, model)
        predict = _interruptible(torch_predictor(model, device, data.steering_threshold), give_way)
        counts_C = certainty_counts(predict, dataset.frames_at(held[places]))
    return CertaintyCounts(counts=counts_C.tolist())


def _interruptible(predict: Predictor, give_way: GiveWay) -> Predictor:
    def giving_way(
        frames_BHWC: NDArray[np.uint8],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        give_way()
        return predict(frames_BHWC)

    return giving_way
