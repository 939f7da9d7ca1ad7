"""An agent's process that dies in the middle of handing over a piece: deadly_agent.py FOLDER HOST:PORT CA PIECE.

The folder holds node.key and gets the state and a line in `sent` for each large piece that went out. The
piece is the one at which it dies, counted from 1; 0: it lives until SIGTERM.
"""

import os
import random
import signal
import sys
import threading
from pathlib import Path

from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from convoy_edge_client.agent.agent_config import WorkConfig
from convoy_edge_client.agent.answering import Answering
from convoy_edge_client.agent.fleet_link import FleetLink
from convoy_edge_client.agent.guards import Verdict
from convoy_edge_client.agent.resident import Resident
from convoy_edge_client.agent.run_states import RunStates
from convoy_protos.flower_internals import FleetConnection

CHUNK = 1 << 16
PIECES = 20
UPDATE = random.Random(3).randbytes(PIECES * CHUNK)


class DeadlyConnection(FleetConnection):
    """Notes the large pieces that the server has taken, and dies at one of them."""

    def __init__(self, folder, address, ca, killed_at):
        super().__init__(address, ca.read_bytes(), (folder / "node.key").read_bytes())
        self._sent = folder / "sent"
        self._left = killed_at

    def push_object(self, run_id, session, object_id, content):
        """As FleetConnection; the receipt of the deadly piece is never written down."""
        came = super().push_object(run_id, session, object_id, content)
        if len(content) >= CHUNK:
            with self._sent.open("a") as file:
                file.write(f"{object_id}\n")
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return came


def echo_app():
    """Answers with the update."""
    app = ClientApp()

    @app.query("echo")
    def echo(message, context):  # noqa: ARG001 - as Flower calls it
        array = Array("uint8", (len(UPDATE),), "t/1", UPDATE)
        return Message(RecordDict({"update": ArrayRecord({"a": array})}), reply_to=message)

    return app


def main(folder, address, ca, killed_at):
    """Live."""
    state = folder / "device"
    state.mkdir(exist_ok=True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    node_file = state / "node.id"
    node_id = int(node_file.read_text()) if node_file.exists() else 0
    link = FleetLink(DeadlyConnection(folder, address, ca, killed_at), stop, node_id=node_id)
    answering = Answering(
        make_app=echo_app,
        vehicle_file="vehicle.json",
        work=WorkConfig(),
        verdict=lambda: Verdict(may_work=True, reason="", retry_after_s=0.0, hot=False),
        states=RunStates(state / "runs"),
        fetch_bundle=link.run_bundle,
        chunk_bytes=lambda: CHUNK,
    )
    resident = Resident(link, answering, state)
    link.open()
    node_file.write_text(str(link.node_id))
    while not stop.is_set():
        if not resident.step():
            stop.wait(0.1)
    link.close(goodbye=not resident.holds_work)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
