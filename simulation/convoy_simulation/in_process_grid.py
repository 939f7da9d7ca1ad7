"""A Flower Grid that runs the clients on this machine: no SuperLink, no Ray, no start-up.

The same ServerApp and ClientApp objects run here as in a deployment. Three properties make a
simulated run repeatable and as large as one likes:

- Replies come in the order of the messages, whatever the engine and the number of workers, so that
  sums of floats are the same to the last bit.
- No more requests are in flight than there are workers, plus a few: memory does not grow with the
  cohort, and clients that nobody waits for any more are not run.
- Every simulated vehicle has its own clock: a deadline is compared with the time that the client
  itself took, as if all had worked at the same time.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Literal, NamedTuple, Self

from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.serverapp import Grid

from convoy_protos.flower_internals import (
    Run,
    empty_run,
    make_context,
    server_identity,
    set_message_id,
)
from convoy_simulation.client_engines import (
    ClientAppFactory,
    ClientEngine,
    ClientTask,
    FinishedTask,
    SerialEngine,
    ThreadsEngine,
    isolated,
)
from convoy_simulation.client_processes import ProcessesEngine

EngineName = Literal["serial", "threads", "processes"]


class _Request(NamedTuple):
    key: str
    limit_s: float | None


class InProcessGrid(Grid):
    """Runs one client app for many virtual nodes; a context manager that stops its workers."""

    streams_replies = True
    """`send_and_receive` hands replies over one by one, in the order of the messages."""

    def __init__(
        self,
        client_app_factory: ClientAppFactory,
        nodes: Mapping[int, UserConfig],
        *,
        workers: int = 1,
        engine: EngineName = "processes",
        run_config: UserConfig | None = None,
        run_id: int = 1,
    ) -> None:
        """Start the workers.

        Args:
            client_app_factory: Builds the client app, once a process; for engine "processes" it
                travels by pickle.
            nodes: Node configuration by node id.
            workers: Clients that run at a time; "serial" runs one whatever is said here.
            engine: Run clients in the caller, in threads or in processes.
            run_config: What every client finds in context.run_config.
            run_id: Flower's number of the run.
        """
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self._nodes = {node_id: dict(config) for node_id, config in nodes.items()}
        self._run_config = dict(run_config or {})
        self._states: dict[int, RecordDict] = {}
        self._run = empty_run(run_id)
        self._numbers = itertools.count(1)
        self._open: dict[str, Message] = {}
        self._waiting: deque[_Request] = deque()
        self._finished: dict[str, FinishedTask] = {}
        self._identity = server_identity(run_id)
        self._engine = _engine(engine, client_app_factory, workers)
        self._identity.__enter__()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers."""
        self._engine.close()
        self._identity.__exit__(None, None, None)

    def set_run(self, run: Run) -> None:
        """Describe the run; only Flower's own runtimes have something to say here."""
        self._run = run

    @property
    def run(self) -> Run:
        """The description of the run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Build a message, the deprecated way."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Every virtual node, always in the same order."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Queue messages; as many as there are workers start to run."""
        keys = [self._enqueue(self._name(message), limit_s=None) for message in messages]
        self._fill()
        return keys

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that are there; the serial engine runs one client a call."""
        self._advance(block=False)
        delivered = (self._deliver(key) for key in message_ids if key in self._finished)
        return [reply for reply in delivered if reply is not None]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Run the clients and yield their replies in the order of the messages.

        Clients that never answer are skipped. When the caller stops iterating, clients that have
        not begun are not run.

        Args:
            messages: A sequence gets its message ids at once, any other iterable as clients start.
            timeout: Seconds that a client may take by its own clock; a later reply is dropped.
        """
        ahead = 2 * self._engine.parallelism
        named = map(self._name, messages)
        rest = iter(list(named)) if isinstance(messages, Sequence) else named
        keys: deque[str] = deque()
        try:
            while True:
                new = itertools.islice(rest, ahead - len(keys))
                keys.extend(self._enqueue(message, limit_s=timeout) for message in new)
                if not keys:
                    return
                self._fill()
                while keys[0] not in self._finished:
                    self._advance(block=True)
                reply = self._deliver(keys.popleft())
                if reply is not None:
                    yield reply
        finally:
            self._abandon(set(keys))

    def _name(self, message: Message) -> Message:
        node_id = message.metadata.dst_node_id
        if node_id not in self._nodes:
            raise ValueError(f"there is no node {node_id}; get_node_ids() lists them")
        set_message_id(message, f"{self._run.run_id}-{next(self._numbers)}")
        return message

    def _enqueue(self, message: Message, limit_s: float | None) -> str:
        key = message.metadata.message_id
        self._open[key] = message
        self._waiting.append(_Request(key, limit_s))
        return key

    def _fill(self) -> None:
        while self._waiting and self._engine.has_room:
            request = self._waiting.popleft()
            message = self._open[request.key]
            self._engine.start(
                ClientTask(
                    key=request.key,
                    message=message,
                    context=self._context_of(message.metadata.dst_node_id),
                    limit_s=request.limit_s,
                )
            )

    def _context_of(self, node_id: int) -> Context:
        state = isolated(self._states.get(node_id, RecordDict()))
        return make_context(
            node_id, self._nodes[node_id], self._run_config, run_id=self._run.run_id, state=state
        )

    def _advance(self, *, block: bool) -> None:
        for finished in self._engine.wait(block=block):
            self._finished[finished.key] = finished
        self._fill()

    def _deliver(self, key: str) -> Message | None:
        """Hand a reply over; only now the client's new state counts, whoever ran ahead."""
        finished = self._finished.pop(key)
        node_id = self._open.pop(key).metadata.dst_node_id
        if finished.state is not None:
            self._states[node_id] = finished.state
        if finished.reply is not None:
            set_message_id(finished.reply, f"reply-{key}")
        return finished.reply

    def _abandon(self, keys: set[str]) -> None:
        self._waiting = deque(each for each in self._waiting if each.key not in keys)
        self._engine.abandon(keys)
        for key in keys:
            self._finished.pop(key, None)
            self._open.pop(key, None)


def _engine(name: EngineName, factory: ClientAppFactory, workers: int) -> ClientEngine:
    if name == "serial":
        return SerialEngine(factory)
    if name == "threads":
        return ThreadsEngine(factory, workers)
    if name == "processes":
        return ProcessesEngine(factory, workers)
    raise ValueError(f"engine must be serial, threads or processes, got {name!r}")
