"""Ask vehicles for the ranges that calibrate a release: one Flower query, no frame in the answers."""

from collections.abc import Sequence

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from convoy_compression.model.errors import CalibrationError
from convoy_compression.model.tensor_ranges import TensorRanges
from convoy_protos.errors import MalformedMessageError
from convoy_protos.flower_messages import QUERY_RANGES, calibration_content, read_ranges
from convoy_protos.v1.federation_pb2 import CalibrationRequest
from convoy_server.errors import RefusedReplyError
from convoy_server.release.vehicle_query import ask_some


def ask_for_ranges(
    grid: Grid,
    nodes: Sequence[int],
    observer: bytes,
    names: tuple[str, ...],
    *,
    vehicles: int,
    frames: int,
    timeout_s: float,
    rng: np.random.Generator,
) -> dict[str, TensorRanges]:
    """Send the observer to some vehicles and wait for what they tell.

    Args:
        grid: With the fleet behind it.
        nodes: Of the vehicles, without mask helpers.
        observer: Of the network to calibrate.
        names: The tensors whose ranges it tells, in its order.
        vehicles: How many are asked at most, drawn by chance.
        frames: How many frames each looks at.
        timeout_s: For all of them together.
        rng: Draws the vehicles.

    Returns:
        By node; see `ask_some`.
    """
    return ask_some(
        grid,
        nodes,
        QUERY_RANGES,
        calibration_content(CalibrationRequest(observer=observer, frames=frames)),
        lambda reply: _ranges(reply, names),
        vehicles=vehicles,
        timeout_s=timeout_s,
        rng=rng,
        subject="ranges",
    )


def _ranges(reply: Message, names: tuple[str, ...]) -> TensorRanges:
    try:
        ranges = read_ranges(reply.content)
        return TensorRanges(
            names=names,
            low_T=np.asarray(ranges.low, np.float32),
            high_T=np.asarray(ranges.high, np.float32),
        )
    except (MalformedMessageError, CalibrationError) as error:
        raise RefusedReplyError("malformed", str(error)) from error
