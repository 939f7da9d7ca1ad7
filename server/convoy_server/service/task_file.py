"""task.json in the state folder: the run that the executor works on, so that it outlives the executor.

It holds the token that lets its holder act as the ServerApp: readable by the service's user only.
"""

import base64
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from convoy_privacy.key_files import write_file
from convoy_protos.flower_internals import ServerTask

TASK_FILE: Final = "task.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTask:
    """What is worked on.

    Attributes:
        task: Flower's side of it.
        bundle: What the run was submitted with.
    """

    task: ServerTask
    bundle: bytes


def save_task(state_folder: Path, running: RunningTask) -> None:
    """Write it down before the work begins."""
    table: dict[str, Any] = asdict(running.task)
    table["bundle"] = base64.b64encode(running.bundle).decode()
    write_file(state_folder / TASK_FILE, json.dumps(table).encode(), private=True)


def load_task(state_folder: Path) -> RunningTask | None:
    """What was worked on when the executor ended; None: nothing."""
    try:
        table = json.loads((state_folder / TASK_FILE).read_bytes())
        bundle = base64.b64decode(table.pop("bundle"))
        return RunningTask(task=ServerTask(**table), bundle=bundle)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def clear_task(state_folder: Path) -> None:
    """It is over."""
    (state_folder / TASK_FILE).unlink(missing_ok=True)
