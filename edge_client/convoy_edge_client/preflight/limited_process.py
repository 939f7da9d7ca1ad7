"""Ask a process of its own to do what could hang, crash or eat the memory; then go on."""

import dataclasses
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from convoy_edge_client.errors import WorkerError

_WORKER: Final = "convoy_edge_client.preflight.worker"
_PATIENCE_S: Final = 2.0
"""The worker's own alarm comes first; this is for one that cannot be alarmed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOrder:
    """What a worker shall do.

    Attributes:
        task: One of those that worker.py names.
        content: As JSON knows it.
        limit_s: Wall time for it.
    """

    task: str
    content: dict[str, Any]
    limit_s: float


def ask_worker(orders: Sequence[WorkerOrder], memory_mb: int) -> list[Any]:
    """Have orders done, all by one process unless one of them ends it.

    Args:
        orders: One after the other.
        memory_mb: Data that the process may allocate, in 2^20 bytes.

    Returns:
        An answer an order, as JSON knows it; a WorkerError for the order that ended the process,
        after which another process goes on with the rest.
    """
    answers: list[Any] = []
    while len(answers) < len(orders):
        left = orders[len(answers) :]
        given, code = _one_process(left, memory_mb)
        answers += given
        if len(given) < len(left):
            answers.append(WorkerError(_how_it_ended(code, left[len(given)], memory_mb)))
    return answers


def _one_process(orders: Sequence[WorkerOrder], memory_mb: int) -> tuple[list[Any], int]:
    """Answers to the first orders, and the exit code."""
    message = {"memory_mb": memory_mb, "orders": [dataclasses.asdict(order) for order in orders]}
    with (
        tempfile.TemporaryDirectory(prefix="convoy-preflight-") as folder,
        subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
        ) as process,
    ):
        limit_s = sum(order.limit_s for order in orders) + _PATIENCE_S
        try:
            output, _ = process.communicate(json.dumps(message).encode(), timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
    return _answers(output)[: len(orders)], process.returncode


def _answers(output: bytes) -> list[Any]:
    """Whole lines up to the first that is no JSON; a line without an end was cut off."""
    answers = []
    for line in output.split(b"\n")[:-1]:
        try:
            answers.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return answers


def _how_it_ended(code: int, order: WorkerOrder, memory_mb: int) -> str:
    if -code == signal.SIGALRM:
        return f"not finished after {order.limit_s:g} s"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}; {memory_mb} MB were allowed"
