"""How the in-process grid runs clients: one after another, or in threads.

Worker processes are in `worker_processes.py`. An engine is told to start tasks while it has room
and hands back what has finished, in any order; it knows nothing of rounds.
"""

import logging
import queue
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from convoy_protos.flower_internals import (
    CLIENT_APP_RAISED,
    error_reply,
    message_with_content,
)
from convoy_simulation.errors import ClientVanishedError

logger = logging.getLogger(__name__)

ClientAppFactory = Callable[[], ClientApp]

V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTask:
    """One message for one node.

    Attributes:
        key: Names the task; the message's id.
        message: For the client; its content may be shared with other tasks.
        context: The node's own; its state is shared with nobody.
        limit_s: Seconds after which the client counts as lost; None sets no limit.
    """

    key: str
    message: Message
    context: Context
    limit_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedTask:
    """What became of a task.

    Attributes:
        key: Which one.
        reply: None where the client never answers.
        state: The node's state after it; None leaves it as it was.
    """

    key: str
    reply: Message | None
    state: RecordDict | None


class ClientEngine(Protocol):
    """Runs clients; used by one thread."""

    @property
    def has_room(self) -> bool:
        """Whether another task would start at once."""

    @property
    def parallelism(self) -> int:
        """How many tasks can run at a time."""

    def start(self, task: ClientTask) -> None:
        """Take a task; only called while there is room."""

    def wait(self, *, block: bool) -> list[FinishedTask]:
        """What has finished since; if `block`, not before something has or room was made."""

    def abandon(self, keys: Collection[str]) -> None:
        """Nobody wants these any more: they are never handed back, and stop soon if they can."""

    def close(self) -> None:
        """Stop whatever runs."""


class SerialEngine:
    """Runs each client in the caller when its result is waited for."""

    def __init__(self, factory: ClientAppFactory) -> None:
        self._threads_before = torch.get_num_threads()
        self._app = factory()
        self._task: ClientTask | None = None

    @property
    def has_room(self) -> bool:
        """Whether nothing waits to be run."""
        return self._task is None

    @property
    def parallelism(self) -> int:
        """One at a time."""
        return 1

    def start(self, task: ClientTask) -> None:
        """Keep the task until somebody waits for it."""
        self._task = task

    def wait(self, *, block: bool) -> list[FinishedTask]:  # noqa: ARG002 - it is always there at once
        """Run the task."""
        task, self._task = self._task, None
        return [] if task is None else [run_task(self._app, task)]

    def abandon(self, keys: Collection[str]) -> None:
        """Forget the task, which has not begun."""
        if self._task is not None and self._task.key in keys:
            self._task = None

    def close(self) -> None:
        """Give the caller's torch its threads back."""
        torch.set_num_threads(self._threads_before)


class ThreadsEngine:
    """Runs clients in threads; torch computes outside the interpreter lock.

    A thread cannot be stopped: a client that exceeds its limit is lost, but holds its thread.
    """

    def __init__(self, factory: ClientAppFactory, workers: int) -> None:
        self._threads_before = torch.get_num_threads()
        self._app = factory()
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="client")
        self._finished: queue.SimpleQueue[FinishedTask] = queue.SimpleQueue()
        self._running: set[str] = set()
        self._unwanted: set[str] = set()

    @property
    def has_room(self) -> bool:
        """Whether a thread is idle."""
        return len(self._running) < self._workers

    @property
    def parallelism(self) -> int:
        """One task a thread."""
        return self._workers

    def start(self, task: ClientTask) -> None:
        """Hand the task to an idle thread."""
        self._running.add(task.key)
        self._pool.submit(lambda: self._finished.put(run_task(self._app, task)))

    def wait(self, *, block: bool) -> list[FinishedTask]:
        """Collect what the threads have finished."""
        finished: list[FinishedTask] = []
        while self._running:
            try:
                done = self._finished.get(block=block and not finished)
            except queue.Empty:
                break
            self._running.discard(done.key)
            if done.key in self._unwanted:
                self._unwanted.discard(done.key)
                block = False  # room was made
            else:
                finished.append(done)
        return finished

    def abandon(self, keys: Collection[str]) -> None:
        """Drop the results when they come."""
        self._unwanted |= self._running & set(keys)

    def close(self) -> None:
        """Wait for the clients that run, then give the caller's torch its threads back."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self._threads_before)


def run_task(app: ClientApp, task: ClientTask) -> FinishedTask:
    """Run one client on its own copy of the message; its errors become error replies."""
    message = message_with_content(task.message, isolated(task.message.content))
    started_s = time.monotonic()
    reply = answer(app, message, task.context)
    if task.limit_s is not None and time.monotonic() - started_s > task.limit_s:
        reply = None
    return FinishedTask(key=task.key, reply=reply, state=state_after(task.context))


def answer(app: ClientApp, message: Message, context: Context) -> Message | None:
    """What the client sends back, as Flower's runtimes would pass it on; None if nothing comes."""
    try:
        reply = app(message, context)
    except ClientVanishedError:
        return None
    except Exception as error:  # a round outlives any one client's error
        logger.debug("node %d failed", context.node_id, exc_info=True)
        reason = f"{type(error).__name__}: {error}"
        return error_reply(message, CLIENT_APP_RAISED, reason)
    if not isinstance(reply, Message):
        reason = f"the client app returned {type(reply).__name__} instead of a Message"
        return error_reply(message, CLIENT_APP_RAISED, reason)
    return reply


def state_after(context: Context) -> RecordDict | None:
    """The state that the client leaves behind; None if it is nothing that could be kept."""
    state: object = context.state
    return state if isinstance(state, RecordDict) else None


def isolated(content: RecordDict) -> RecordDict:
    """A copy that one node may change without another noticing; the bytes of arrays are shared."""
    copy = RecordDict()
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            copy[name] = ArrayRecord({key: _same_bytes(array) for key, array in record.items()})
        elif isinstance(record, ConfigRecord):
            copy[name] = ConfigRecord({key: _own(value) for key, value in record.items()})
        else:
            copy[name] = MetricRecord({key: _own(value) for key, value in record.items()})
    return copy


def _same_bytes(array: Array) -> Array:
    return Array(array.dtype, array.shape, array.stype, array.data)


def _own(value: V) -> V:
    return type(value)(value) if isinstance(value, list) else value
