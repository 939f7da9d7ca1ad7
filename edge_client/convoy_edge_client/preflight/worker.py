"""The process in which hostile files are read and models are tried: `python -m ...worker`.

It limits itself before it imports anything large, reads orders as JSON from standard input and writes
one line of JSON an answer to standard output. Whatever happens to it, its parent goes on.
"""

import json
import os
import resource
import signal
import sys
from typing import Any, Final, TextIO

from convoy_protos.settings import from_table, to_table

EXAMINE: Final = "examine"
TRY_OUT: Final = "try out"
OBSERVE: Final = "observe"

_LARGEST_FILE: Final = 512 * 2**20
"""Of a profile or of one of TensorRT's engines."""


def main() -> None:
    """One order after the other."""
    message = json.load(sys.stdin)
    limit_process(message["memory_mb"])
    with _answers_alone() as answers:
        for order in message["orders"]:
            # Ends this process even where nobody is left to wait for it.
            signal.setitimer(signal.ITIMER_REAL, order["limit_s"])
            answer = _TASKS[order["task"]](order["content"])
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def limit_process(memory_mb: int) -> None:
    """Allow so many 2^20 bytes of data, no large files, no core dumps; let the alarm through.

    RLIMIT_DATA counts what a process really asks for; RLIMIT_AS would also count the address space
    that CUDA reserves.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    for kind, value in (
        (resource.RLIMIT_DATA, memory_mb * 2**20),
        (resource.RLIMIT_FSIZE, _LARGEST_FILE),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        least = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (least, least))


def _answers_alone() -> TextIO:
    """Standard output for answers; what libraries print there goes nowhere."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return answers


def _examine(content: dict[str, Any]) -> Any:
    # Imports after the limits: they hold for what is imported as well.
    from convoy_edge_client.preflight.file_examination import (  # noqa: PLC0415
        ExamineOrder,
        examine_files,
    )

    found = examine_files(from_table(ExamineOrder, content, "order"))
    return [[one.level.value, one.subject, one.message] for one in found]


def _try_out(content: dict[str, Any]) -> Any:
    from convoy_edge_client.preflight.trial import try_out  # noqa: PLC0415
    from convoy_edge_client.preflight.trial_order import TrialOrder  # noqa: PLC0415

    return to_table(try_out(from_table(TrialOrder, content, "order")))


def _observe(content: dict[str, Any]) -> Any:
    from convoy_edge_client.preflight.observation import (  # noqa: PLC0415
        ObserveOrder,
        observe_frames,
    )

    return to_table(observe_frames(from_table(ObserveOrder, content, "order")))


_TASKS: Final = {EXAMINE: _examine, TRY_OUT: _try_out, OBSERVE: _observe}


if __name__ == "__main__":
    main()
