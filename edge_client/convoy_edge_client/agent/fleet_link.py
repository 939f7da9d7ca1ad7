"""The link to the fleet door: whole messages in, whole messages out, over a network that comes and goes.

Nothing here gives up: a call that failed is made again after a pause that grows, until the link is back or
the agent is asked to stop. What the server refuses is not asked again. An upload goes on where it was cut,
see `upload`: an object is named by its digest, and none is sent twice.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from convoy_edge_client.agent.link_pace import SMALLEST_CHUNK_BYTES, BackOff, Throughput
from convoy_edge_client.agent.parcels import Parcel
from convoy_edge_client.agent.upload import Upload, UploadRecord, announced
from convoy_edge_client.errors import AgentStoppedError
from convoy_protos.errors import LinkDownError, LinkError, LinkRefusedError, NodeUnknownError
from convoy_protos.flower_internals import object_ids, root_object_id

logger = logging.getLogger(__name__)

T = TypeVar("T")

HEARTBEAT_S: Final = 30.0
"""The server takes a node for lost after two of these."""
_MISSED_HEARTBEAT_S: Final = 5.0
_OBJECT_NOT_THERE_YET_S: Final = 0.05
_OBJECT_PATIENCE_S: Final = 5.0
"""The server hands its objects to itself; after so long it has died in the middle."""


class Connection(Protocol):
    """What the link needs of convoy_protos.flower_internals.FleetConnection."""

    def resume(self, node_id: int) -> None:
        """Be the node of an earlier `activate`."""
        ...

    def activate(self, heartbeat_interval_s: float) -> int:
        """Say that the node is there; returns its id."""
        ...

    def deactivate(self) -> None:
        """Say goodbye."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...

    def heartbeat(self, interval_s: float) -> bool:
        """Say that the node is still there; False: it is not known."""
        ...

    def pull(self) -> tuple[int, bytes, bytes] | None:
        """Run, message and tree of the next message."""
        ...

    def pull_object(self, run_id: int, object_id: str) -> bytes | None:
        """One object; None: not there yet."""
        ...

    def confirm(self, run_id: int, object_id: str) -> None:
        """Say that a message has come whole."""
        ...

    def push(self, reply: bytes, tree: bytes, runtime_s: float) -> tuple[set[str], str]:
        """Announce a reply; what is lacking, and the session."""
        ...

    def push_object(self, run_id: int, session: str, object_id: str, content: bytes) -> bool:
        """Hand over one object; False: nobody waits for it."""
        ...

    def run_bundle(self, run_id: int) -> tuple[bytes, dict[str, Any]]:
        """The bundle of a run, and what overrides its settings."""
        ...


class FleetLink:
    """A node's side of the fleet door."""

    def __init__(
        self,
        connection: Connection,
        stop: threading.Event,
        chance: Callable[[], float] = random.random,
        pulls: int = 3,
        node_id: int = 0,
    ) -> None:
        """Say nothing yet.

        Args:
            connection: Its calls; several threads make them.
            stop: Set from outside to end every wait.
            chance: Uniform in [0, 1).
            pulls: Objects that are asked for at a time; a message has half a dozen, most of them small.
            node_id: By which the server knows this node from an earlier `open`; 0: there was none.
        """
        self._connection = connection
        self._stop = stop
        self._chance = chance
        self._pulls = pulls
        self._heartbeats = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self.node_id = node_id
        self.throughput = Throughput()

    def open(self) -> None:
        """Tell the server that we are there, and keep telling it.

        A node that the server believes alive cannot introduce itself: whoever starts again within a minute
        of a crash goes on as the one before.
        """
        if not (self.node_id and self._resumed()):
            self._activate()
        if not self._heartbeats.is_alive():
            self._heartbeats.start()

    def close(self, *, goodbye: bool) -> None:
        """Leave.

        Args:
            goodbye: Tell the server, if it is there to hear it: it then takes for lost what this node was
                asked and has not answered. Without it, it does so after two heartbeats: who is back by
                then goes on.
        """
        if goodbye:
            try:
                self._connection.deactivate()
            except LinkError as error:
                logger.info("left without a goodbye: %s", error)
        self._connection.close()

    def announcement(self) -> Parcel | None:
        """The next message that the server has for us, without its objects; None: none waits.

        Raises:
            LinkRefusedError: The server does not let this node ask.
            AgentStoppedError: Asked to stop.
        """
        pulled = self._persist(self._connection.pull)
        if pulled is None:
            return None
        run_id, message, tree = pulled
        return Parcel(run_id=run_id, message=message, tree=tree)

    def objects(self, parcel: Parcel) -> dict[str, bytes]:
        """All that the message consists of.

        Raises:
            LinkRefusedError: Its run is over, or whoever sent it has died while sending.
            MalformedMessageError: It names no objects.
            AgentStoppedError: Asked to stop.
        """
        keys = object_ids(parcel.tree)
        with ThreadPoolExecutor(self._pulls, "pull") as pool:
            return dict(
                zip(keys, pool.map(partial(self._object, parcel.run_id), keys), strict=True)
            )

    def confirm(self, parcel: Parcel) -> None:
        """Say that it has come whole and is kept."""
        root = root_object_id(parcel.tree)
        try:
            self._persist(lambda: self._connection.confirm(parcel.run_id, root))
        except LinkRefusedError as error:
            logger.info("receipt not taken: %s", error)

    def send(self, parcel: Parcel, record: UploadRecord, runtime_s: float = 0.0) -> bool:
        """Hand an answer over, whole, from where the record says.

        Args:
            parcel: The answer.
            record: How far it has come; kept up to date.
            runtime_s: How long it took to make, for the server's statistics.

        Returns:
            False: the server does not say that it has come whole, and wants nothing more of it.

        Raises:
            FleetFolderError: The disk refuses the record.
            NodeUnknownError: The server does not let this device in; what was sent stays sent.
            AgentStoppedError: Asked to stop; what was sent stays sent.
        """
        try:
            begun = record.load(parcel.objects)
            if begun is not None and self._hand_over(parcel, begun, record):
                return True
            # What is left of an upload is offered once more: its session may be over and its round not.
            if self._hand_over(parcel, self._announce(parcel, record, runtime_s), record):
                return True
            logger.warning("an answer is done with: it had come before, or its round is over")
        except NodeUnknownError:
            raise
        except LinkRefusedError as error:
            logger.warning("an answer is dropped: %s", error)
        return False

    def run_bundle(self, run_id: int) -> tuple[bytes, dict[str, Any]]:
        """See FleetConnection.run_bundle.

        Raises:
            LinkRefusedError: The server does not know the run.
            AgentStoppedError: Asked to stop.
        """
        return self._persist(lambda: self._connection.run_bundle(run_id))

    def _announce(self, parcel: Parcel, record: UploadRecord, runtime_s: float) -> Upload:
        missing, session = self._persist(
            lambda: self._connection.push(parcel.message, parcel.tree, runtime_s)
        )
        upload = announced(missing, session, root_object_id(parcel.tree), parcel.objects)
        record.begin(upload, durable=any(map(_is_large, parcel.objects.values())))
        return upload

    def _hand_over(self, parcel: Parcel, begun: Upload, record: UploadRecord) -> bool:
        left: Upload | None = begun
        while left is not None and left.waiting:
            left = self._hand_over_one(parcel, left, record)
        return left is not None and left.done

    def _hand_over_one(self, parcel: Parcel, left: Upload, record: UploadRecord) -> Upload | None:
        key = left.waiting[0]
        content = parcel.objects[key]
        interrupted = False

        def interruption() -> None:
            nonlocal interrupted
            interrupted = True

        began_s = time.monotonic()
        came = self._persist(
            lambda: self._connection.push_object(parcel.run_id, left.session, key, content),
            interruption,
        )
        if interrupted:
            left = left.interrupted()
        elif came:
            self.throughput = self.throughput.measured(len(content), time.monotonic() - began_s)
        after = left.came() if came else left.refused(large=_is_large(content))
        if after is not None:
            record.came(len(after.waiting), durable=_is_large(content))
        return after

    def _object(self, run_id: int, key: str) -> bytes:
        waited_s = 0.0
        while waited_s < _OBJECT_PATIENCE_S:
            began_s = time.monotonic()
            content = self._persist(lambda: self._connection.pull_object(run_id, key))
            if content is not None:
                took_s = time.monotonic() - began_s
                self.throughput = self.throughput.measured(len(content), took_s)
                return content
            self._pause(_OBJECT_NOT_THERE_YET_S)
            waited_s += _OBJECT_NOT_THERE_YET_S
        raise LinkRefusedError(f"object {key[:12]} never came: who sent it has died")

    def _persist(self, call: Callable[[], T], interruption: Callable[[], None] | None = None) -> T:
        """Call until the link is up; a node that the server has forgotten introduces itself again.

        Args:
            call: What to do.
            interruption: Told about every time that the link was down in the middle of it.
        """
        back_off = BackOff()
        unknown = False
        while True:
            try:
                return call()
            except LinkDownError as error:
                if interruption is not None:
                    interruption()
                back_off = back_off.failed()
                self._wait(back_off, f"link down: {error}")
            except NodeUnknownError as error:
                if unknown:
                    raise
                unknown = True
                logger.warning("the server does not know us: %s", error)
                self._activate()

    def _resumed(self) -> bool:
        self._connection.resume(self.node_id)
        try:
            return self._persist(lambda: self._connection.heartbeat(HEARTBEAT_S))
        except LinkRefusedError as error:
            logger.info("not known as node %d: %s", self.node_id, error)
            return False

    def _activate(self) -> None:
        back_off = BackOff()
        while True:
            try:
                self.node_id = self._connection.activate(HEARTBEAT_S)
            except LinkError as error:
                back_off = back_off.failed()
                self._wait(back_off, f"not let in yet: {error}")
            else:
                logger.info("connected as node %d", self.node_id)
                return

    def _beat(self) -> None:
        pause_s = HEARTBEAT_S
        while not self._stop.wait(pause_s * (0.8 + 0.2 * self._chance())):
            pause_s = HEARTBEAT_S
            try:
                if not self._connection.heartbeat(HEARTBEAT_S):
                    self.node_id = self._connection.activate(HEARTBEAT_S)
            except LinkError as error:
                logger.info("heartbeat: %s", error)
                pause_s = _MISSED_HEARTBEAT_S

    def _wait(self, back_off: BackOff, why: str) -> None:
        wait_s = back_off.wait_s(self._chance())
        logger.warning("%s; again in %.1f s", why, wait_s)
        self._pause(wait_s)

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise AgentStoppedError("the agent was asked to stop")


def _is_large(content: bytes) -> bool:
    return len(content) >= SMALLEST_CHUNK_BYTES
