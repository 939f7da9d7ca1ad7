"""Run the in-process grid's clients in worker processes, which keep recordings and networks warm.

A worker runs one client at a time, so that when it dies it is known whose error that was.

parent to worker, one task:          worker to parent:
  pickle of (origin of each large      first, pickle of None, or of the text of the error that
    byte string, pickle of the task)     prevented it from building the client app
  the byte strings that are new        then pickle of (reply, state), one a task

Large byte strings, such as the global model that a whole cohort shares, stay in the worker until
its next task: what that shares with the one before is not sent again.
"""

# Why pickle (S301): both ends are this program, on a private socket pair.

import io
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch
from flwr.app import Context, Message, RecordDict

from convoy_protos.flower_internals import CLIENT_APP_CRASHED, CLIENT_APP_RAISED, error_reply
from convoy_simulation.client_engines import (
    ClientAppFactory,
    ClientTask,
    FinishedTask,
    answer,
    state_after,
)
from convoy_simulation.errors import WorkerStartError
from convoy_simulation.worker_start import start_context

logger = logging.getLogger(__name__)

LARGE_BYTES = 65_536
"""From this size on a byte string is not pickled with its task."""

ABANDONED_GRACE_S = 0.5
"""How long an unwanted client may still run before its worker is replaced."""

_NEW = -1


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    ready: bool = False
    task: ClientTask | None = None
    unwanted: bool = False
    stop_at_s: float | None = None
    large: list[bytes] = field(default_factory=list)


class ProcessesEngine:
    """Runs each client in one of several worker processes."""

    def __init__(self, factory: ClientAppFactory, workers: int) -> None:
        """Start the workers without waiting for them.

        Args:
            factory: Builds the client app in each worker; travels by pickle.
            workers: Processes.
        """
        self._context = start_context()
        self._factory = factory
        self._workers = [self._new_worker() for _ in range(workers)]

    @property
    def has_room(self) -> bool:
        """Whether a worker has nothing to do."""
        return any(worker.task is None for worker in self._workers)

    @property
    def parallelism(self) -> int:
        """One task a worker."""
        return len(self._workers)

    def start(self, task: ClientTask) -> None:
        """Give the task to a worker without one, if possible to one that is up already."""
        idle = [worker for worker in self._workers if worker.task is None]
        worker = max(idle, key=lambda worker: worker.ready)
        worker.task = task
        if worker.ready:
            self._send(worker)

    def wait(self, *, block: bool) -> list[FinishedTask]:
        """Collect replies, crashes and clients beyond their limit.

        Raises:
            WorkerStartError: A worker cannot build the client app.
        """
        while busy := [worker for worker in self._workers if worker.task is not None]:
            readable = wait([worker.connection for worker in busy], _patience_s(busy, block=block))
            finished: list[FinishedTask] = []
            room_was_made = False
            for worker in busy:
                unwanted = worker.unwanted
                result = self._progress(worker, readable=worker.connection in readable)
                room_was_made |= result is not None
                if result is not None and not unwanted:
                    finished.append(result)
            if room_was_made or not block:
                return finished
        return []

    def abandon(self, keys: Collection[str]) -> None:
        """Stop those clients soon: they finish within a moment or their worker is replaced."""
        for worker in self._workers:
            if worker.task is None or worker.task.key not in keys:
                continue
            if worker.ready:
                worker.unwanted = True
                worker.stop_at_s = time.monotonic() + ABANDONED_GRACE_S
            else:
                worker.task = None

    def close(self) -> None:
        """Kill the workers."""
        for worker in self._workers:
            _kill(worker)
        self._workers = []

    def _progress(self, worker: _Worker, *, readable: bool) -> FinishedTask | None:
        """React to what a worker sent, or to its silence; None while its task is not over."""
        task = worker.task
        assert task is not None  # noqa: S101 - only busy workers are asked
        if readable:
            try:
                received = pickle.loads(worker.connection.recv_bytes())  # noqa: S301 - see above
            except (EOFError, OSError):
                return self._crashed(worker, task)
            if worker.ready:
                worker.task, worker.unwanted, worker.stop_at_s = None, False, None
                reply, state = received
                return FinishedTask(key=task.key, reply=reply, state=state)
            if received is not None:
                raise WorkerStartError(f"a worker process cannot build the client app: {received}")
            worker.ready = True
            self._send(worker)
        elif worker.stop_at_s is not None and time.monotonic() >= worker.stop_at_s:
            self._replace(worker)
            return FinishedTask(key=task.key, reply=None, state=None)
        return None

    def _crashed(self, worker: _Worker, task: ClientTask) -> FinishedTask:
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        if not worker.ready:
            raise WorkerStartError(f"a worker process {how} before it could run a client")
        reason = f"the process that ran the client {how}"
        logger.warning("node %d: %s", task.message.metadata.dst_node_id, reason)
        self._replace(worker)
        reply = error_reply(task.message, CLIENT_APP_CRASHED, reason)
        return FinishedTask(key=task.key, reply=reply, state=None)

    def _send(self, worker: _Worker) -> None:
        """Send a worker its task; one that has died idle meanwhile is replaced first."""
        task = worker.task
        assert task is not None  # noqa: S101 - called for busy workers
        if task.limit_s is not None:
            worker.stop_at_s = time.monotonic() + task.limit_s
        try:
            worker.large = _send_task(worker.connection, task, worker.large)
        except OSError:
            successor = self._replace(worker)
            successor.task = task

    def _replace(self, worker: _Worker) -> _Worker:
        _kill(worker)
        successor = self._new_worker()
        self._workers[self._workers.index(worker)] = successor
        return successor

    def _new_worker(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=run_worker, args=(theirs, self._factory), name="client-worker", daemon=True
        )
        process.start()
        theirs.close()
        return _Worker(process=process, connection=ours)


def run_worker(connection: Connection, factory: ClientAppFactory) -> None:
    """The life of a worker process: run one client after another until the parent is gone."""
    # Ctrl-C reaches the whole process group; the parent decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, name="exit-with-parent", daemon=True).start()
    torch.set_num_threads(1)
    try:
        app = factory()
    except Exception as error:  # noqa: BLE001 - the parent raises it, in one line
        connection.send_bytes(pickle.dumps(f"{type(error).__name__}: {error}"))
        return
    connection.send_bytes(pickle.dumps(None))
    large: list[bytes] = []
    while True:
        try:
            message, context, large = _receive_task(connection, large)
        except EOFError:
            return
        reply = answer(app, message, context)
        connection.send_bytes(_pickled_result(message, reply, state_after(context)))


def _exit_with_parent() -> None:
    """End this process, busy or not, as soon as the parent has ended in whatever way."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _pickled_result(message: Message, reply: Message | None, state: RecordDict | None) -> bytes:
    try:
        return pickle.dumps((reply, state), protocol=5)
    except Exception as error:  # noqa: BLE001 - whatever a client returned must not end its worker
        refusal = error_reply(message, CLIENT_APP_RAISED, f"its reply cannot be sent: {error}")
        return pickle.dumps((refusal, None), protocol=5)


def _send_task(connection: Connection, task: ClientTask, known: list[bytes]) -> list[bytes]:
    """Send a task to a worker that still holds the byte strings `known`; returns those it holds now."""
    buffer = io.BytesIO()
    pickler = _TaskPickler(buffer)
    pickler.dump((task.message, task.context))
    place_of = {id(data): place for place, data in enumerate(known)}
    origins = [place_of.get(id(data), _NEW) for data in pickler.large]
    connection.send_bytes(pickle.dumps((origins, buffer.getvalue()), protocol=5))
    for origin, data in zip(origins, pickler.large, strict=True):
        if origin == _NEW:
            connection.send_bytes(data)
    return pickler.large


def _receive_task(
    connection: Connection, known: list[bytes]
) -> tuple[Message, Context, list[bytes]]:
    """The task, and the byte strings to hold from now on."""
    origins, pickled = pickle.loads(connection.recv_bytes())  # noqa: S301 - see above
    large = [connection.recv_bytes() if origin == _NEW else known[origin] for origin in origins]
    message, context = _TaskUnpickler(io.BytesIO(pickled), large).load()
    return message, context, large


class _TaskPickler(pickle.Pickler):
    """Leaves large byte strings out and lists them; the same object is listed once."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.large: list[bytes] = []
        self._places: dict[int, int] = {}

    def persistent_id(self, obj: object) -> int | None:
        if type(obj) is not bytes or len(obj) < LARGE_BYTES:
            return None
        if id(obj) not in self._places:
            self._places[id(obj)] = len(self.large)
            self.large.append(obj)
        return self._places[id(obj)]


class _TaskUnpickler(pickle.Unpickler):
    """Puts the byte strings back."""

    def __init__(self, file: io.BytesIO, large: list[bytes]) -> None:
        super().__init__(file)
        self._large = large

    def persistent_load(self, pid: int) -> bytes:
        return self._large[pid]


def _patience_s(busy: list[_Worker], *, block: bool) -> float | None:
    """How long to wait for a word from these workers."""
    if not block:
        return 0.0
    stops_s = [worker.stop_at_s for worker in busy if worker.stop_at_s is not None]
    return max(0.0, min(stops_s) - time.monotonic()) if stops_s else None


def _kill(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.process.close()
    worker.connection.close()
