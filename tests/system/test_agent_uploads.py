"""An agent's upload to a real SuperLink behind its fleet door: killed in the middle, it goes on there."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from deadly_agent import PIECES, UPDATE
from flwr.app import ConfigRecord, Message, RecordDict
from small_device import let_in, wait_for
from small_doors import open_doors, server_in

from convoy_protos.flower_internals import (
    act_as_server,
    keep_task,
    server_identity,
    start_run,
    take_task,
)
from convoy_protos.run_bundle import RUN_KEY, build_run_bundle
from convoy_server.polling_grid import PollingGrid


@pytest.fixture
def superlink(tmp_path):
    """Two doors and one node that may come in."""
    config, file = server_in(tmp_path)
    private = f"127.0.0.1:{config.private_door.port}"
    with open_doors(config, file):
        let_in(private, tmp_path / "node.key", "car")
        yield config, private


@pytest.fixture
def start_agent(superlink, tmp_path):
    """Starts agents that die at a piece; none of them outlives the test."""
    config, _ = superlink
    script = Path(__file__).parents[1] / "deadly_agent.py"
    door = config.fleet_door
    started = []

    def start(killed_at):
        place = [str(tmp_path), f"127.0.0.1:{door.port}", door.ca]
        started.append(subprocess.Popen([sys.executable, str(script), *place, str(killed_at)]))
        return started[-1]

    yield start
    for agent in started:
        agent.terminate()
        agent.wait(timeout=30)


@pytest.fixture
def grid(superlink):
    """That of a run's ServerApp, which keeps its task meanwhile."""
    _, private = superlink
    start_run(private, build_run_bundle({RUN_KEY: '{"name": "night"}'}))
    task, _ = take_task(private)
    over = threading.Event()
    beats = threading.Thread(target=beat, args=(private, task, over))
    beats.start()
    with server_identity():  # gives back what act_as_server changes
        own_grid = act_as_server(private, task)
        yield PollingGrid(own_grid)
        own_grid.close()
    over.set()
    beats.join()


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("killed_at", [1, 18])
def test_an_upload_that_was_killed_goes_on_where_it_was(grid, start_agent, tmp_path, killed_at):
    first = start_agent(killed_at)
    wait_for(lambda: list(grid.get_node_ids()), 60, "the agent is there")
    (node,) = grid.get_node_ids()
    question = Message(RecordDict({"ask": ConfigRecord({"text": "a"})}), node, "query.echo")

    replies = []
    asking = threading.Thread(
        target=lambda: replies.extend(grid.send_and_receive([question], timeout=120))
    )
    asking.start()
    assert first.wait(timeout=60) == -signal.SIGKILL
    start_agent(0)
    asking.join()

    (reply,) = replies
    assert not reply.has_error(), reply.error
    assert reply.content["update"]["a"].data == UPDATE
    pieces = (tmp_path / "sent").read_text().split()
    assert len(set(pieces)) == PIECES
    assert len(pieces) <= PIECES + 1  # only the one in whose middle it died


def beat(private, task, over):
    while not over.wait(5):
        keep_task(private, task)
