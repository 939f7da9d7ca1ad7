"""Ask vehicles for the ranges that calibrate a release: one Flower query, no frame in the answers."""

import logging
from collections.abc import Sequence

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from convoy_compression.model.errors import CalibrationError
from convoy_compression.model.tensor_ranges import TensorRanges
from convoy_protos.errors import MalformedMessageError
from convoy_protos.flower_messages import QUERY_RANGES, calibration_content, read_ranges
from convoy_protos.v1.federation_pb2 import CalibrationRequest
from convoy_server.admission import refuse_failed
from convoy_server.errors import RefusedReplyError
from convoy_server.vehicles import Addresses

logger = logging.getLogger(__name__)


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
        By node: what a vehicle calls itself could be another's name. Those that refuse, fail or tell
        what is no range are left out and logged.
    """
    drawn = rng.choice(len(nodes), min(vehicles, len(nodes)), replace=False)
    chosen = sorted(nodes[place] for place in drawn)
    request = CalibrationRequest(observer=observer, frames=frames)
    messages = [Message(calibration_content(request), node, QUERY_RANGES) for node in chosen]
    addresses = Addresses(messages)
    told: dict[str, TensorRanges] = {}
    for reply in grid.send_and_receive(messages, timeout=timeout_s):
        node = addresses.node_of(reply)
        if node is None:
            continue
        try:
            told[f"node-{node}"] = _ranges(reply, names)
        except RefusedReplyError as error:
            logger.warning("calibration: node %d told no ranges: %s", node, error)
    logger.info("calibration: %d of %d vehicles told ranges", len(told), len(chosen))
    return told


def _ranges(reply: Message, names: tuple[str, ...]) -> TensorRanges:
    refuse_failed(reply)
    try:
        ranges = read_ranges(reply.content)
        return TensorRanges(
            names=names,
            low_T=np.asarray(ranges.low, np.float32),
            high_T=np.asarray(ranges.high, np.float32),
        )
    except (MalformedMessageError, CalibrationError) as error:
        raise RefusedReplyError("malformed", str(error)) from error
