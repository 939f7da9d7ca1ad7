"""A smoke test of every unpublished Flower name we use: a release that moves one fails here."""

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.corestate import sql_corestate

from convoy_protos.flower_internals import (
    CLIENT_APP_RAISED,
    SERVER_NODE_ID,
    empty_run,
    error_reply,
    make_context,
    message_with_content,
    server_identity,
    set_message_id,
)


def an_instruction() -> Message:
    with server_identity(run_id=7):
        return Message(RecordDict({"a": ConfigRecord({"x": 1})}), 42, "train", group_id="3")


def test_inside_a_server_identity_messages_can_be_built():
    message = an_instruction()

    assert (message.metadata.run_id, message.metadata.src_node_id) == (7, SERVER_NODE_ID)


def test_outside_a_server_identity_flower_refuses_to_build_messages():
    with pytest.raises(RuntimeError, match="run_id is not set"):
        Message(RecordDict(), 42, "train")


def test_a_server_identity_gives_back_the_one_before():
    with server_identity(run_id=1):
        with server_identity(run_id=2):
            pass

        assert Message(RecordDict(), 42, "train").metadata.run_id == 1


def test_a_reply_names_the_message_that_it_answers():
    message = an_instruction()
    set_message_id(message, "m-1")

    reply = error_reply(message, CLIENT_APP_RAISED, "no recordings")

    assert reply.metadata.reply_to_message_id == "m-1"
    assert reply.metadata.src_node_id == 42
    assert (reply.error.code, reply.error.reason) == (CLIENT_APP_RAISED, "no recordings")


def test_a_message_can_change_its_content_and_keeps_its_metadata():
    message = an_instruction()

    other = message_with_content(message, RecordDict({"b": ConfigRecord({"y": 2})}))

    assert list(other.content) == ["b"]
    assert other.metadata.group_id == "3"
    assert list(message.content) == ["a"]


def test_a_context_owns_its_configuration():
    shared = {"convoy-out": "runs/demo"}

    context = make_context(42, {"partition-id": 0}, shared)
    context.run_config["convoy-out"] = "elsewhere"

    assert shared == {"convoy-out": "runs/demo"}
    assert context.node_config == {"partition-id": 0}


def test_an_empty_run_has_its_id():
    assert empty_run(9).run_id == 9


def test_flower_says_where_it_keeps_how_long_an_upload_may_rest():
    """`make_superlink` changes it there: a release that moves it fails here."""
    assert sql_corestate.OBJECT_PUSH_SESSION_TTL_SECONDS in (180, 3600)
