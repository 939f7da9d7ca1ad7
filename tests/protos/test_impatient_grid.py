"""The ServerApp's grid waits for no reply that is on its way, and no reply ends a run."""

import weakref
from types import SimpleNamespace

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree

from convoy_protos.flower_internals import (
    ServerTask,
    act_as_server,
    deflated_message,
    node_identity,
    object_ids,
    root_object_id,
    server_identity,
    set_message_id,
)
from convoy_server.polling_grid import PollingGrid

RUN_ID, NODE_ID = 7, 42


class RuntimeDouble:
    """What the grid asks the SuperLink; replies are announced once, objects come when the test says so."""

    def __init__(self):
        self.announced = {}
        self.stored = {}
        self.gone = set()
        self.confirmed = []
        self.pulled = []

    def PullMessages(self, request):  # noqa: N802 - Flower's
        found = [
            self.announced.pop(key) for key in list(request.message_ids) if key in self.announced
        ]
        return SimpleNamespace(
            messages_list=[ProtoMessage.FromString(bare) for bare, _ in found],
            message_object_trees=[ObjectTree.FromString(tree) for _, tree in found],
        )

    def PullObject(self, request):  # noqa: N802 - Flower's
        self.pulled.append(request.object_id)
        content = self.stored.get(request.object_id, b"")
        return SimpleNamespace(
            object_found=request.object_id not in self.gone,
            object_available=bool(content),
            object_content=content,
        )

    def ConfirmMessageReceived(self, request):  # noqa: N802 - Flower's
        self.confirmed.append(request.message_object_id)


@pytest.fixture
def runtime():
    return RuntimeDouble()


@pytest.fixture
def grid(runtime):
    with server_identity():  # gives back what act_as_server changes
        grid = act_as_server(
            "127.0.0.1:1", ServerTask(token="t", run_id=RUN_ID, task_id=1, node_id=1)
        )
        grid._client = runtime
        yield grid


def a_reply(text, *others):
    """What it answers, its tree and its objects."""
    with server_identity(run_id=RUN_ID):
        asked = Message(RecordDict({"ask": ConfigRecord({"text": text})}), NODE_ID, "train")
    set_message_id(asked, f"asked {text}")
    arrays = {
        name: Array("uint8", (len(data),), "t/1", data.encode())
        for name, data in zip("abc", (text, *others), strict=False)
    }
    content = RecordDict({"update": ArrayRecord(arrays)})
    with node_identity(RUN_ID, NODE_ID):
        bare, tree, objects = deflated_message(Message(content, reply_to=asked))
    return asked.metadata.message_id, bare, tree, objects


def test_a_reply_comes_once_all_of_it_is_there(grid, runtime):
    key, bare, tree, objects = a_reply("hello")
    assert list(grid.pull_messages([key])) == []
    runtime.announced[key] = (bare, tree)
    for object_id in reversed(object_ids(tree)):
        assert list(grid.pull_messages([key])) == []
        runtime.stored[object_id] = objects[object_id]

    (reply,) = grid.pull_messages([key])

    assert reply.content["update"]["a"].data == b"hello"
    assert reply.metadata.reply_to_message_id == key
    assert reply.metadata.message_id == root_object_id(tree)
    assert runtime.confirmed == [root_object_id(tree)]
    assert list(grid.pull_messages([key])) == []


def test_an_object_that_has_come_is_not_asked_for_again(grid, runtime):
    key, bare, tree, objects = a_reply("hello")
    runtime.announced[key] = (bare, tree)
    *late, root = object_ids(tree)
    runtime.stored[root] = objects[root]
    assert list(grid.pull_messages([key])) == []
    runtime.stored |= {object_id: objects[object_id] for object_id in late}
    assert len(list(grid.pull_messages([key]))) == 1
    assert runtime.pulled.count(root) == 1


def test_a_slow_sender_keeps_nobody_waiting(grid, runtime):
    slow, bare, tree, _ = a_reply("slow")
    runtime.announced[slow] = (bare, tree)
    quick, bare, tree, objects = a_reply("quick")
    runtime.announced[quick] = (bare, tree)
    runtime.stored |= objects

    replies = list(grid.pull_messages([slow, quick]))

    assert [reply.metadata.reply_to_message_id for reply in replies] == [quick]


def test_a_reply_whose_sender_was_gone_too_long_is_an_error_that_names_it(grid, runtime):
    key, bare, tree, _ = a_reply("hello")
    runtime.announced[key] = (bare, tree)
    assert list(grid.pull_messages([key])) == []
    runtime.gone = set(object_ids(tree))

    (reply,) = grid.pull_messages([key])

    assert reply.metadata.reply_to_message_id == key
    assert "never came whole" in reply.error.reason


def test_a_reply_that_is_none_is_an_error_and_not_the_end_of_the_run(grid, runtime):
    key, bare, tree, objects = a_reply("hello")
    runtime.announced[key] = (bare, tree)
    runtime.stored = dict.fromkeys(objects, b"noise")

    (reply,) = grid.pull_messages([key])

    assert reply.metadata.reply_to_message_id == key
    assert "not a message" in reply.error.reason


def test_what_came_of_a_reply_is_let_go_when_something_else_is_asked(grid, runtime):
    """Else the halves of late updates would pile up in the server's memory."""
    key, bare, tree, objects = a_reply("late")
    runtime.announced[key] = (bare, tree)
    runtime.stored[root_object_id(tree)] = objects[root_object_id(tree)]
    assert list(grid.pull_messages([key])) == []
    assert grid._coming

    assert list(grid.pull_messages(["asked something else"])) == []

    assert not grid._coming


def test_replies_are_put_together_one_by_one(grid, runtime):
    """Of a cohort's updates one is in memory at a time."""
    keys = []
    for text in ("one", "two"):
        key, bare, tree, objects = a_reply(text)
        runtime.announced[key] = (bare, tree)
        runtime.stored |= objects
        keys.append(key)
    polling = PollingGrid(grid)
    boxes = polling._boxes(keys)

    key, box = next(boxes)
    reply = weakref.ref(box.pop())
    assert reply() is None
    assert key == keys[0]
    assert len(runtime.confirmed) == 1
    key, box = next(boxes)
    assert box.pop().content["update"]["a"].data == b"two"
    assert list(boxes) == []


def test_an_object_that_is_twice_in_a_reply_is_asked_for_once(grid, runtime):
    key, bare, tree, objects = a_reply("hello", "hello")
    runtime.announced[key] = (bare, tree)
    runtime.stored = objects

    (reply,) = grid.pull_messages([key])

    assert [one.data for one in reply.content["update"].values()] == [b"hello"] * 2
    assert sorted(runtime.pulled) == sorted(objects)
