"""The link to the fleet door: whole messages in, whole messages out, over a network that comes and goes.

Nothing here gives up: a call that failed is made again after a pause that grows, until the link is back or
the agent is asked to stop. What the server refuses is not asked again. An upload goes on where it was cut:
the server says which objects it lacks, an object is named by its digest, and none is sent twice.
"""

import logging
import random
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from convoy_edge_client.agent.link_pace import BackOff
from convoy_edge_client.agent.parcels import Parcel
from convoy_edge_client.errors import AgentStoppedError
from convoy_protos.errors import LinkDownError, LinkRefusedError
from convoy_protos.flower_internals import FleetConnection, object_ids, root_object_id

logger = logging.getLogger(__name__)

T = TypeVar("T")

HEARTBEAT_S: Final = 30.0
_OBJECT_NOT_THERE_YET_S: Final = 0.05
_OBJECT_PATIENCE_S: Final = 5.0
"""The server hands its objects to itself; after so long it has died in the middle."""


class FleetLink:
    """A node's side of the fleet door."""

    def __init__(
        self,
        connection: FleetConnection,
        stop: threading.Event,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Say nothing yet.

        Args:
            connection: Its calls.
            stop: Set from outside to end every wait.
            chance: Uniform in [0, 1).
        """
        self._connection = connection
        self._stop = stop
        self._chance = chance
        self._heartbeats = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self.node_id = 0

    def open(self) -> None:
        """Tell the server that we are there, and keep telling it."""
        self._activate()
        if not self._heartbeats.is_alive():
            self._heartbeats.start()

    def close(self) -> None:
        """Say goodbye if the server is there to hear it."""
        try:
            self._connection.deactivate()
        except (LinkDownError, LinkRefusedError) as error:
            logger.info("left without a goodbye: %s", error)
        self._connection.close()

    def receive(self) -> Parcel | None:
        """The next message whole; None: none waits, or its run was over before it had come.

        Raises:
            AgentStoppedError: Asked to stop.
        """
        pulled = self._persist(self._connection.pull)
        if pulled is None:
            return None
        run_id, message, tree = pulled
        try:
            objects = {key: self._object(run_id, key) for key in object_ids(tree)}
        except LinkRefusedError as error:
            logger.warning("a message is dropped: %s", error)
            return None
        return Parcel(run_id=run_id, message=message, tree=tree, objects=objects)

    def confirm(self, parcel: Parcel) -> None:
        """Say that it has come whole and is kept."""
        root = root_object_id(parcel.tree)
        try:
            self._persist(lambda: self._connection.confirm(parcel.run_id, root))
        except LinkRefusedError as error:
            logger.info("receipt not taken: %s", error)

    def send(self, parcel: Parcel, runtime_s: float = 0.0) -> bool:
        """Hand an answer over, whole; False: the server takes it no more.

        Raises:
            AgentStoppedError: Asked to stop; what was sent stays sent.
        """
        back_off = BackOff()
        while True:
            try:
                missing, session = self._connection.push(parcel.message, parcel.tree, runtime_s)
                for key, content in parcel.objects.items():
                    if key in missing:
                        self._connection.push_object(parcel.run_id, session, key, content)
            except LinkDownError as error:
                back_off = back_off.failed()
                self._wait(back_off, f"upload goes on later: {error}")
            except LinkRefusedError as error:
                logger.warning("an answer is dropped: %s", error)
                return False
            else:
                return True

    def run_bundle(self, run_id: int) -> tuple[bytes, dict[str, Any]]:
        """See FleetConnection.run_bundle.

        Raises:
            LinkRefusedError: The server does not know the run.
            AgentStoppedError: Asked to stop.
        """
        return self._persist(lambda: self._connection.run_bundle(run_id))

    def _object(self, run_id: int, key: str) -> bytes:
        waited_s = 0.0
        while waited_s < _OBJECT_PATIENCE_S:
            content = self._persist(lambda: self._connection.pull_object(run_id, key))
            if content is not None:
                return content
            self._pause(_OBJECT_NOT_THERE_YET_S)
            waited_s += _OBJECT_NOT_THERE_YET_S
        raise LinkRefusedError(f"object {key[:12]} never came: who sent it has died")

    def _persist(self, call: Callable[[], T]) -> T:
        """Call until the link is up; a node that the server has forgotten introduces itself again."""
        back_off = BackOff()
        while True:
            try:
                return call()
            except LinkDownError as error:
                back_off = back_off.failed()
                self._wait(back_off, f"link down: {error}")
            except LinkRefusedError as error:
                if not str(error).startswith("401") or back_off.failures:
                    raise
                back_off = back_off.failed()
                logger.warning("the server does not know us any more: %s", error)
                self._activate()

    def _activate(self) -> None:
        back_off = BackOff()
        while True:
            try:
                self.node_id = self._connection.activate(HEARTBEAT_S)
            except (LinkDownError, LinkRefusedError) as error:
                back_off = back_off.failed()
                self._wait(back_off, f"not let in yet: {error}")
            else:
                logger.info("connected as node %d", self.node_id)
                return

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                if not self._connection.heartbeat(HEARTBEAT_S):
                    self.node_id = self._connection.activate(HEARTBEAT_S)
            except (LinkDownError, LinkRefusedError) as error:
                logger.info("heartbeat: %s", error)

    def _wait(self, back_off: BackOff, why: str) -> None:
        wait_s = back_off.wait_s(self._chance())
        logger.warning("%s; again in %.1f s", why, wait_s)
        self._pause(wait_s)

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise AgentStoppedError("the agent was asked to stop")
