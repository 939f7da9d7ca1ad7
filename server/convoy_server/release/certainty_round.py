"""Ask vehicles how sure the global model is of their frames: one Flower query, counts in the answers.

Only the sum over the vehicles is kept. None of them counts more frames than the others may, so that one
that lies moves the sum by its share of the vehicles.
"""

# Shapes: N parameters, C cells of the histogram.

import json
from collections.abc import Sequence
from typing import Final

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid
from numpy.typing import NDArray

from convoy_driving.certainty import COUNTS
from convoy_driving.parameters import ParameterSchema
from convoy_protos.errors import MalformedMessageError
from convoy_protos.flower_messages import (
    QUERY_CERTAINTY,
    instructions_content,
    model_array,
    read_certainty,
)
from convoy_protos.settings import to_table
from convoy_protos.v1.federation_pb2 import RoundInstructions
from convoy_server.errors import RefusedReplyError
from convoy_server.release.proxy_fit import FleetCertainty
from convoy_server.release.vehicle_query import ask_some
from convoy_server.run_config import RunConfig
from convoy_server.run_directory import model_digest

MOST_FRAMES: Final = 256
"""That a vehicle counts."""


def ask_for_certainty(
    grid: Grid,
    nodes: Sequence[int],
    model_N: NDArray[np.float32],
    schema: ParameterSchema,
    run: RunConfig,
    *,
    vehicles: int,
    timeout_s: float,
    rng: np.random.Generator,
) -> FleetCertainty:
    """Send the global model to some vehicles and add up what they count.

    Args:
        grid: With the fleet behind it.
        nodes: Of the vehicles, without mask helpers.
        model_N: The global model.
        schema: Of its parameters.
        run: Sections [data] and [model] tell vehicles how to see and what to build.
        vehicles: How many are asked at most, drawn by chance.
        timeout_s: For all of them together.
        rng: Draws the vehicles.
    """
    instructions = RoundInstructions(
        schema_digest=schema.digest,
        model_digest=model_digest(model_N),
        settings_json=json.dumps({"data": to_table(run.data), "model": to_table(run.model)}),
    )
    told = ask_some(
        grid,
        nodes,
        QUERY_CERTAINTY,
        instructions_content(instructions, model_array(model_N)),
        _counts,
        vehicles=vehicles,
        timeout_s=timeout_s,
        rng=rng,
        subject="certainty",
    )
    total_C = np.sum([*told.values(), np.zeros(COUNTS, np.int64)], axis=0)
    return FleetCertainty(counts_C=total_C, vehicles=len(told))


def _counts(reply: Message) -> NDArray[np.int64]:
    try:
        counts = read_certainty(reply.content).counts
    except MalformedMessageError as error:
        raise RefusedReplyError("malformed", str(error)) from error
    if len(counts) != COUNTS or not 0 < sum(counts) <= MOST_FRAMES:
        raise RefusedReplyError(
            "malformed",
            f"expected {COUNTS} counts of 1..{MOST_FRAMES} frames, got {len(counts)} of {sum(counts)}",
        )
    return np.asarray(counts, np.int64)
