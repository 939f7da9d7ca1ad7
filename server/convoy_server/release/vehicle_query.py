"""Put one question to some vehicles when a release is made; whoever does not answer it is left out."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from convoy_server.admission import refuse_failed
from convoy_server.errors import RefusedReplyError
from convoy_server.vehicles import Addresses

logger = logging.getLogger(__name__)

Told = TypeVar("Told")


def ask_some(
    grid: Grid,
    nodes: Sequence[int],
    kind: str,
    question: RecordDict,
    read: Callable[[Message], Told],
    *,
    vehicles: int,
    timeout_s: float,
    rng: np.random.Generator,
    subject: str,
) -> dict[str, Told]:
    """One Flower query.

    Args:
        grid: With the fleet behind it.
        nodes: Of the vehicles, without mask helpers.
        kind: Message type.
        question: The same for everybody.
        read: Gives what a reply tells; RefusedReplyError leaves the vehicle out.
        vehicles: How many are asked at most, drawn by chance.
        timeout_s: For all of them together.
        rng: Draws the vehicles.
        subject: What they are asked for, for the log.

    Returns:
        By node: what a vehicle calls itself could be another's name. Those that refuse, fail or tell
        nonsense are left out and logged.
    """
    drawn = rng.choice(len(nodes), min(vehicles, len(nodes)), replace=False)
    chosen = sorted(nodes[place] for place in drawn)
    messages = [Message(question, node, kind) for node in chosen]
    addresses = Addresses(messages)
    told: dict[str, Told] = {}
    for reply in grid.send_and_receive(messages, timeout=timeout_s):
        node = addresses.node_of(reply)
        if node is None:
            continue
        try:
            refuse_failed(reply)
            told[f"node-{node}"] = read(reply)
        except RefusedReplyError as error:
            logger.warning("release: node %d told no %s: %s", node, subject, error)
    logger.info("release: %d of %d vehicles told %s", len(told), len(chosen), subject)
    return told
