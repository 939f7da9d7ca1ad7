"""Runs that wait for their turn. A run is on disk before the SuperLink hears of it.

    RUNS/NAME/submitted.run   what it is submitted with: settings and its name
    RUNS/NAME/status.json     "queued", until its ServerApp begins

So a run is not lost when a process dies between its being submitted and its being taken on: the executor
finds it here and submits it again.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from convoy_protos.errors import SettingsError, UsageError
from convoy_protos.flower_internals import RunOutcome
from convoy_server.audit import Clock, utc_now
from convoy_server.errors import StorageError
from convoy_server.service.status_file import STATUS_FILE, Status, read_status, write_status
from convoy_server.storage import write_file

logger = logging.getLogger(__name__)

SUBMITTED_FILE: Final = "submitted.run"

FORGOTTEN_AFTER: Final = timedelta(seconds=60)
"""Whoever submits a run writes it down first; so long he may take until the SuperLink knows it."""


def enqueue(run_dir: Path, bundle: bytes, now: Clock = utc_now) -> None:
    """Write down a run that is about to be submitted.

    Raises:
        UsageError: There is a run of that name.
        StorageError: The disk refuses.
    """
    try:
        run_dir.mkdir(parents=True)
    except FileExistsError as error:
        raise UsageError(
            f"{run_dir}: there is a run of that name; choose another with --name"
        ) from error
    except OSError as error:
        raise StorageError(run_dir, error) from error
    write_file(run_dir / SUBMITTED_FILE, bundle)
    time = now().isoformat(timespec="milliseconds")
    write_status(run_dir, Status(run=run_dir.name, state="queued", time=time))


def dequeue(run_dir: Path) -> None:
    """Forget a run that could not be submitted."""
    for name in (STATUS_FILE, SUBMITTED_FILE):
        (run_dir / name).unlink(missing_ok=True)
    run_dir.rmdir()


def queued_runs(runs_folder: Path) -> Iterator[tuple[Path, Status]]:
    """Those that wait, with what their status says, by name; one that cannot be read is none of them."""
    for file in sorted(runs_folder.glob(f"*/{SUBMITTED_FILE}")):
        try:
            status = read_status(file.parent)
        except SettingsError as error:
            logger.warning("%s", error)
            continue
        if status is not None and status.state == "queued":
            yield file.parent, status


def submitted(run_dir: Path) -> bytes:
    """What a run in the queue is submitted with.

    Raises:
        StorageError: The disk refuses.
    """
    try:
        return (run_dir / SUBMITTED_FILE).read_bytes()
    except OSError as error:
        raise StorageError(run_dir / SUBMITTED_FILE, error) from error


def waiting_as(bundle: bytes, outcomes: Mapping[int, RunOutcome]) -> tuple[int, ...]:
    """Flower's ids under which the SuperLink has a run that is not over."""
    sha256 = hashlib.sha256(bundle).hexdigest()
    return tuple(
        run_id
        for run_id, one in outcomes.items()
        if one.bundle_sha256 == sha256 and one.status != "finished"
    )


def is_forgotten(
    status: Status, bundle: bytes, outcomes: Mapping[int, RunOutcome], now: datetime
) -> bool:
    """Whether nobody will take on a run in the queue unless it is submitted again."""
    queued_for = now - datetime.fromisoformat(status.time)
    return queued_for > FORGOTTEN_AFTER and not waiting_as(bundle, outcomes)
