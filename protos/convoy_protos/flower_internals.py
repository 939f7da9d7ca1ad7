"""The few names that Flower does not publish and that running its apps without a runtime needs.

No other file of this repository imports from flwr beyond flwr.app, flwr.clientapp and
flwr.serverapp. When a Flower release moves something, this is the file to change;
tests/protos/test_flower_internals.py says which.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "CLIENT_APP_CRASHED",
    "CLIENT_APP_RAISED",
    "SERVER_NODE_ID",
    "Run",
    "empty_run",
    "error_reply",
    "make_context",
    "message_with_content",
    "server_identity",
    "set_message_id",
]

SERVER_NODE_ID = 1
"""The node id that Flower gives to the server side."""

CLIENT_APP_RAISED = int(ErrorCode.CLIENT_APP_RAISED_EXCEPTION)
CLIENT_APP_CRASHED = int(ErrorCode.CLIENT_APP_CRASHED)


@contextmanager
def server_identity(run_id: int = 1) -> Iterator[None]:
    """Let this process build instruction Messages, as if it were the ServerApp of run `run_id`.

    Flower keeps the identity in the process; what was there before comes back at the end.
    """
    before = (TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, SERVER_NODE_ID, 1
    try:
        yield
    finally:
        TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before


def make_context(
    node_id: int,
    node_config: UserConfig | None = None,
    run_config: UserConfig | None = None,
    *,
    run_id: int = 1,
    state: RecordDict | None = None,
) -> Context:
    """What Flower hands to a handler beside the message."""
    return Context(
        run_id=run_id,
        node_id=node_id,
        node_config=dict(node_config or {}),
        state=RecordDict() if state is None else state,
        run_config=dict(run_config or {}),
    )


def set_message_id(message: Message, message_id: str) -> None:
    """Name a message, which only Flower's SuperLink does otherwise."""
    message.metadata.__dict__["_message_id"] = message_id


def message_with_content(message: Message, content: RecordDict) -> Message:
    """The same message with other content; the metadata is shared."""
    return make_message(metadata=message.metadata, content=content)


def error_reply(message: Message, code: int, reason: str) -> Message:
    """The reply of a client that failed, as Flower's runtimes send it."""
    return Message(Error(code=code, reason=reason), reply_to=message)


def empty_run(run_id: int) -> Run:
    """A description of a run that no SuperLink knows."""
    return Run.create_empty(run_id)
