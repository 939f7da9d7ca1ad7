"""Waiting at the fleet door for a ring; with event loops of their own, as the two doors have."""

import asyncio
import threading

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.runtime_pb2 import PushAppMessagesRequest

from convoy_protos.door_bell import BELL_PATH
from convoy_protos.flower_internals import (
    PUSH_PATH,
    addressed_nodes,
    deflated_message,
    server_identity,
)
from convoy_server.service.door_bell import DoorBell, read_query
from convoy_server.service.two_doors import fleet_only, ringing

FOR_EVER = 60.0


async def waits(bell, node, before):
    task = asyncio.create_task(bell.heard(node, before))
    await asyncio.sleep(0.01)
    return task


def test_who_has_not_heard_what_there_is_does_not_wait():
    bell = DoorBell(FOR_EVER)
    first = asyncio.run(bell.heard(7, ""))
    bell.ring([7])
    assert asyncio.run(bell.heard(7, first)) != first
    assert asyncio.run(bell.heard(8, "")) == first


def test_a_ring_wakes_whom_it_is_for_and_nobody_else():
    async def scene():
        bell = DoorBell(FOR_EVER)
        before = await bell.heard(7, "")
        called, other = await waits(bell, 7, before), await waits(bell, 8, before)
        # The private door has another thread.
        ringing_thread = threading.Thread(target=bell.ring, args=([7],))
        ringing_thread.start()
        now = await called
        ringing_thread.join()
        assert now != before
        assert not other.done()
        other.cancel()
        return bell, now

    bell, now = asyncio.run(scene())
    assert not bell._waiting
    assert bell._count == 0
    # A ring between two waits is not lost.
    bell.ring([7])
    assert asyncio.run(bell.heard(7, now)) != now


def test_a_wait_ends_without_a_ring():
    bell = DoorBell(0.01)
    before = asyncio.run(bell.heard(7, ""))
    assert asyncio.run(bell.heard(7, before)) == before
    assert not bell._waiting


def test_after_a_restart_everybody_asks_once():
    assert asyncio.run(DoorBell().heard(7, "")) != asyncio.run(DoorBell().heard(7, ""))


def test_of_too_many_nobody_waits():
    async def scene():
        bell = DoorBell(FOR_EVER, max_waiting=1)
        before = await bell.heard(7, "")
        first = await waits(bell, 7, before)
        assert await bell.heard(8, before) == before
        first.cancel()

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("query", "read"),
    [
        (b"node=7&heard=", (7, "")),
        (b"heard=ab.3&node=18446744073709551615", (2**64 - 1, "ab.3")),
        (b"node=7", (7, "")),
        (b"", None),
        (b"node=-7&heard=", None),
        (b"node=7x&heard=", None),
        (b"node=" + b"9" * 21, None),
        (b"node=7&heard=" + b"a" * 65, None),
        (b"node=7&heard=a&more=b", None),
        (b"node=\xff", None),
    ],
)
def test_only_a_node_and_what_it_heard_is_a_question(query, read):
    assert read_query(query) == read


class Conversation:
    """One request to an ASGI app."""

    def __init__(self, app, **scope):
        self.sent = []
        self._app = app
        self._scope = {"type": "http", "method": "GET", "query_string": b""} | scope
        self._body = [scope.get("body", b"")]

    async def receive(self):
        return {"type": "http.request", "body": self._body.pop(), "more_body": False}

    async def send(self, event):
        self.sent.append(event)

    def run(self):
        asyncio.run(self._app(self._scope, self.receive, self.send))
        return self.sent[0]["status"], self.sent[-1]["body"]


async def superlink(_scope, receive, send):
    """Takes whatever comes."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"taken"})


def test_the_bell_is_at_the_fleet_door():
    door = fleet_only(superlink, DoorBell())
    status, body = Conversation(door, path=BELL_PATH, query_string=b"node=7&heard=").run()
    assert (status, bool(body)) == (200, True)
    assert Conversation(door, path=BELL_PATH, query_string=b"who=7").run()[0] == 400
    assert Conversation(door, path=BELL_PATH, method="POST").run()[0] == 400
    assert Conversation(door, path=BELL_PATH + "/").run()[0] == 404


def test_what_a_serverapp_hands_over_rings_for_whom_it_is():
    bell = DoorBell()
    door = ringing(superlink, bell)
    before = asyncio.run(bell.heard(7, ""))
    asked = Conversation(door, path=PUSH_PATH, method="POST", body=request_to(7, 9))
    assert asked.run() == (200, b"taken")
    assert asyncio.run(bell.heard(7, "")) != before
    assert asyncio.run(bell.heard(9, "")) != before
    assert asyncio.run(bell.heard(8, "")) == before


def test_what_is_no_request_rings_for_nobody():
    assert addressed_nodes(b"\xff\xff") == set()
    assert addressed_nodes(b"") == set()


def request_to(*nodes):
    messages = []
    for node in nodes:
        with server_identity(run_id=3):
            message = Message(RecordDict({"ask": ConfigRecord({})}), node, "train")
        messages.append(ProtoMessage.FromString(deflated_message(message)[0]))
    return PushAppMessagesRequest(messages_list=messages).SerializeToString()
