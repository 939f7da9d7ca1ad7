"""health.json in the state folder: what the supervisor says about the processes that it runs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from convoy_protos.errors import SettingsError
from convoy_protos.settings import from_table, to_table
from convoy_server.storage import write_file

HEALTH_FILE: Final = "health.json"

HEALTH_EVERY_S: Final = 2.0
HEALTH_LASTS_S: Final = 10.0
"""An older one says nothing about now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessHealth:
    """One supervised process.

    Attributes:
        name: "superlink", "executor", …
        running: Whether it runs right now.
        restarts: How often it had to be started again.
        rss_bytes: Its memory; 0 where it does not run or that is not known.
    """

    name: str
    running: bool
    restarts: int = 0
    rss_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceHealth:
    """The service as its supervisor sees it.

    Attributes:
        processes: What it supervises.
        superlink_answers: Whether Flower's SuperLink answered when it was asked last.
        executor_alive: Whether runs that are submitted are started.
        draining: Whether the service is on its way down: nothing new is begun.
    """

    processes: tuple[ProcessHealth, ...] = ()
    superlink_answers: bool = False
    executor_alive: bool = False
    draining: bool = False


def save_health(state_folder: Path, health: ServiceHealth) -> None:
    """Replace the file as a whole.

    Raises:
        StorageError: The disk refuses.
    """
    write_file(state_folder / HEALTH_FILE, json.dumps(to_table(health), indent=1).encode() + b"\n")


def load_health(state_folder: Path) -> ServiceHealth:
    """What the supervisor said last; nothing runs where it has said nothing.

    Raises:
        SettingsError: The file is not one that `save_health` writes.
    """
    path = state_folder / HEALTH_FILE
    try:
        table = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return ServiceHealth()
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    if not isinstance(table, dict):
        raise SettingsError(f"{path}: expected an object, got {table!r}")
    return from_table(ServiceHealth, table, str(path))
