"""Answer `query.ranges`: the ranges of a network's tensors on private frames, never a frame."""

import tempfile
from pathlib import Path
from typing import Final

import numpy as np

from convoy_driving.data_config import DataConfig
from convoy_edge_client.errors import RefusedInstructionsError, WorkerError
from convoy_edge_client.preflight.limited_process import WorkerOrder, ask_worker
from convoy_edge_client.preflight.observation import (
    FRAMES_FILE,
    OBSERVER_FILE,
    Observed,
    ObserveOrder,
)
from convoy_edge_client.preflight.preflight_config import FileLimits
from convoy_edge_client.preflight.worker import OBSERVE
from convoy_edge_client.training_breaks import GiveWay, go_on
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_edge_client.warm_cache import WarmCache
from convoy_protos.settings import from_table, to_table
from convoy_protos.v1.federation_pb2 import CalibrationRanges, CalibrationRequest

FEWEST_FRAMES: Final = 16
"""The extremes over a single frame would say much about it."""
_MOST_FRAMES: Final = 512
_MEMORY_MB: Final = 1024
_LIMIT_S: Final = 60.0


def ranges_of(
    request: CalibrationRequest,
    vehicle: VehicleConfig,
    data: DataConfig,
    warm: WarmCache,
    give_way: GiveWay = go_on,
) -> CalibrationRanges:
    """Run the server's observer on this vehicle's training frames, spread evenly.

    Args:
        request: Observer, and over how many frames.
        vehicle: Who is asked.
        data: How frames are made.
        warm: Its recordings.
        give_way: Called between two frames that are decoded.

    Raises:
        RefusedInstructionsError: This vehicle tells no figures, has too few frames or was asked about
            too few, or the observer is none.
        RecordingsMissingError: The recordings are not where the configuration says.
    """
    if vehicle.metrics != "clear":
        raise RefusedInstructionsError(
            f'metrics = "{vehicle.metrics}": this vehicle tells no ranges in the clear'
        )
    dataset = warm.dataset(vehicle, data, give_way)
    count = min(request.frames, _MOST_FRAMES, len(dataset.train_indices))
    if count < FEWEST_FRAMES:
        raise RefusedInstructionsError(
            f"ranges are told over at least {FEWEST_FRAMES} frames, not over {count}"
        )
    places = np.linspace(0, len(dataset.train_indices) - 1, count).round().astype(np.int64)
    with tempfile.TemporaryDirectory(prefix="convoy-ranges-") as folder:
        (Path(folder) / OBSERVER_FILE).write_bytes(request.observer)
        np.save(Path(folder) / FRAMES_FILE, dataset.frames_at(dataset.train_indices[places]))
        order = ObserveOrder(folder=folder, limits=FileLimits())
        (answer,) = ask_worker(
            [WorkerOrder(task=OBSERVE, content=to_table(order), limit_s=_LIMIT_S)], _MEMORY_MB
        )
    if isinstance(answer, WorkerError):
        raise RefusedInstructionsError(f"the observer does not run here: {answer}")
    observed = from_table(Observed, answer, "ranges")
    if observed.fault:
        raise RefusedInstructionsError(f"the observer does not run here: {observed.fault}")
    return CalibrationRanges(low=observed.low, high=observed.high)
