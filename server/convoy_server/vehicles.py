"""Which vehicle answers behind which Flower node.

A vehicle introduces itself once, in reply to `query.profile`. Until it has done so properly it is
known as "node-<id>", takes part under that name and is refused under it.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from convoy_protos.errors import MalformedMessageError
from convoy_protos.flower_messages import QUERY_PROFILE, read_profile
from convoy_protos.v1.federation_pb2 import VehicleProfile
from convoy_protos.v1.secure_sum_pb2 import HelperKey
from convoy_server.admission import one_line, refuse_failed
from convoy_server.errors import RefusedReplyError

logger = logging.getLogger(__name__)

_MAX_ATTEMPTS: Final = 3
_MAX_NAME: Final = 100


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a vehicle says about itself.

    Attributes:
        vehicle_id: Unique in the fleet.
        train_examples: Training examples it has.
        helper: What seeds are sealed to, if it says that it is a mask helper; not checked.
        helper_only: Whether it never trains.
    """

    vehicle_id: str
    train_examples: int
    helper: HelperKey | None = None
    helper_only: bool = False


class Addresses:
    """To whom each message of one exchange went, so that replies can be told apart.

    The error reply for a node that vanished names the server as its source; only the id of the
    message it replies to says who it was.
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages
        self._by_message: dict[str, int] = {}

    def node_of(self, reply: Message) -> int | None:
        """The node that replied; None where the reply belongs to none of the messages."""
        if not self._by_message:
            # Ids are given when the grid sends, after the messages were handed over.
            self._by_message = {
                message.metadata.message_id: message.metadata.dst_node_id
                for message in self._messages
            }
        return self._by_message.get(reply.metadata.reply_to_message_id)


class VehicleDirectory:
    """Every node met so far."""

    def __init__(self, max_examples: int) -> None:
        self._max_examples = max_examples
        self._introductions: dict[int, Introduction] = {}
        self._attempts: dict[int, int] = {}

    def meet(self, grid: Grid, timeout_s: float) -> None:
        """Ask every node that has not introduced itself, a few times at most."""
        connected = frozenset(grid.get_node_ids())
        strangers = [
            node
            for node in sorted(connected)
            if node not in self._introductions and self._attempts.get(node, 0) < _MAX_ATTEMPTS
        ]
        if not strangers:
            return
        messages = [Message(RecordDict(), node, QUERY_PROFILE) for node in strangers]
        addresses = Addresses(messages)
        for node in strangers:
            self._attempts[node] = self._attempts.get(node, 0) + 1
        answers: dict[int, Introduction] = {}
        for reply in grid.send_and_receive(messages, timeout=timeout_s):
            sender = addresses.node_of(reply)
            if sender is None:
                continue
            try:
                answers[sender] = read_introduction(reply, self._max_examples)
            except RefusedReplyError as error:
                logger.warning("node %d did not introduce itself: %s", sender, error)
                if error.reason == "not_now":  # a vehicle that drives when a run starts
                    self._attempts[sender] -= 1
        # In the order of node ids, not of arrival: who may keep a name must not be a race.
        for node in sorted(answers):
            self._admit(node, answers[node], connected)

    def name_of(self, node: int) -> str:
        """The vehicle's id, or "node-<id>"."""
        introduction = self._introductions.get(node)
        return introduction.vehicle_id if introduction else f"node-{node}"

    def nodes_by_name(self, nodes: Iterable[int]) -> dict[str, int]:
        """Nodes by the name of their vehicle."""
        return {self.name_of(node): node for node in nodes}

    def training(self, nodes: Iterable[int]) -> dict[str, int]:
        """The same without those that only help to mask."""
        known = self._introductions
        return self.nodes_by_name(
            node for node in nodes if node not in known or not known[node].helper_only
        )

    def helpers(self, nodes: Iterable[int]) -> dict[str, HelperKey]:
        """What those nodes that say they are mask helpers offer, by name."""
        known = [self._introductions[node] for node in nodes if node in self._introductions]
        return {one.vehicle_id: one.helper for one in known if one.helper is not None}

    def examples(self) -> dict[str, int]:
        """Training examples by vehicle id, of those that introduced themselves and train."""
        known = sorted(self._introductions.values(), key=lambda one: one.vehicle_id)
        return {one.vehicle_id: one.train_examples for one in known if not one.helper_only}

    def _admit(self, node: int, introduction: Introduction, connected: Collection[int]) -> None:
        name = introduction.vehicle_id
        others = [other for other, one in self._introductions.items() if one.vehicle_id == name]
        if any(other in connected for other in others):
            logger.warning(
                "node %d claims the id %s of another node and keeps its number", node, name
            )
            return
        for other in others:
            logger.info("vehicle %s is back as node %d; it was node %d", name, node, other)
            # Should that one come back as well, it must introduce itself again.
            del self._introductions[other], self._attempts[other]
        self._introductions[node] = introduction


def read_introduction(reply: Message, max_examples: int) -> Introduction:
    """What a vehicle says about itself, if it can be believed.

    Raises:
        RefusedReplyError: client_error, malformed or bad_example_count.
    """
    refuse_failed(reply)
    try:
        profile: VehicleProfile = read_profile(reply.content)
    except MalformedMessageError as error:
        raise RefusedReplyError("malformed", str(error)) from error
    name = profile.vehicle_id
    printable = name.isprintable() and name == name.strip() and 1 <= len(name) <= _MAX_NAME
    if not printable or name.startswith("node-"):
        raise RefusedReplyError("malformed", one_line(f"{name!r} is no name for a vehicle"))
    if profile.train_examples > max_examples:
        raise RefusedReplyError(
            "bad_example_count",
            f"expected at most {max_examples}, got {profile.train_examples}",
        )
    return Introduction(
        name,
        profile.train_examples,
        helper=profile.helper if profile.HasField("helper") else None,
        helper_only=profile.helper_only,
    )
