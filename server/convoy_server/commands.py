"""The verbs that need a finished or interrupted run only."""

from pathlib import Path
from typing import Annotated

import typer

from convoy_protos.errors import JobFailedError, UsageError
from convoy_server.audit import AUDIT_FILE, verify_audit
from convoy_server.errors import BrokenAuditError
from convoy_server.report import on_disk

RunArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="The run directory: what --out named.")
]


def report(directory: RunArgument) -> None:
    """Make report.html of a run, also of one that goes on or was interrupted.

    The page needs nothing beside it: mail it, or open it without a network.

    Example:
        convoy report runs/demo
    """
    found = on_disk.load(directory)
    page = on_disk.save_page(found, directory)
    state = "" if found.complete else f" ({len(found.rounds)} rounds so far: not finished)"
    print(f"{page}{state}")


def audit_verify(directory: RunArgument) -> None:
    """Check that nobody edited the log of a run.

    Every line of audit.jsonl holds the hash of the one before, and that of its round in
    rounds.jsonl; the last one that of model.safetensors. What was changed is named.

    Example:
        convoy audit verify runs/demo
    """
    path = directory / AUDIT_FILE
    if not path.exists():
        raise UsageError(f"{path}: no such file; name the --out directory of a run")
    try:
        events = verify_audit(directory)
    except BrokenAuditError as error:
        raise JobFailedError(str(error)) from error
    print(f"{path}: {events} events, none edited")
