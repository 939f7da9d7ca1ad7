"""One run on disk: checkpoint, rounds.jsonl, audit.jsonl, model.safetensors, never out of step.

A round is finished when checkpoint/latest points to it. Its line in rounds.jsonl and its audit event
stand in that checkpoint too and are written after it; opening the directory again writes whichever
of the two a crash prevented.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convoy_driving.parameters import ParameterSchema, save_parameters
from convoy_protos.errors import UsageError
from convoy_server import storage
from convoy_server.audit import AUDIT_FILE, MODEL_FILE, ROUNDS_FILE, AuditLog, Clock, open_audit
from convoy_server.checkpoint import (
    CHECKPOINT_FOLDER,
    Checkpoint,
    discard_others,
    load_checkpoint,
    save_checkpoint,
)
from convoy_server.errors import ChangedRunError, RunExistsError
from convoy_server.round_log import RoundRecord, from_line

logger = logging.getLogger(__name__)

_OURS: Final = (CHECKPOINT_FOLDER, ROUNDS_FILE, AUDIT_FILE, MODEL_FILE)


class RunDirectory:
    """A run directory that is open for the next round; made by `create` or `reopen`."""

    def __init__(
        self, out: Path, schema: ParameterSchema, audit: AuditLog, checkpoint: Checkpoint
    ) -> None:
        self._out = out
        self._schema = schema
        self._audit = audit
        self._checkpoint = checkpoint

    @property
    def checkpoint(self) -> Checkpoint:
        """The last one written."""
        return self._checkpoint

    def records(self) -> list[RoundRecord]:
        """Every finished round."""
        return [from_line(line) for line in _lines(self._out / ROUNDS_FILE)]

    def commit(self, checkpoint: Checkpoint) -> None:
        """Make one more round count; everything about it is on disk when this returns.

        Raises:
            StorageError: The disk is full or refuses; the last round that counts is whole.
        """
        save_checkpoint(self._out / CHECKPOINT_FOLDER, checkpoint, self._schema)
        self._checkpoint = checkpoint
        storage.append_line(self._out / ROUNDS_FILE, checkpoint.round_line)
        self._audit.append(checkpoint.round_event)

    def log(self, event: Mapping[str, Any]) -> None:
        """Add one event to the audit log."""
        self._audit.append(event)

    def publish(self, model_N: NDArray[np.float32], metadata: Mapping[str, str]) -> str:
        """Write model.safetensors; the same model and metadata give the same bytes.

        Returns:
            Its SHA-256, hex.
        """
        path = self._out / MODEL_FILE
        storage.fill_file(
            path, lambda temporary: save_parameters(model_N, self._schema, temporary, metadata)
        )
        return hashlib.sha256(path.read_bytes()).hexdigest()


def create(
    out: Path, schema: ParameterSchema, first: Checkpoint, now: Clock, *, overwrite: bool
) -> RunDirectory:
    """Begin a run.

    Args:
        out: The run directory; made if it is not there.
        schema: Of the global model.
        first: Round 0.
        now: Clock of the audit log.
        overwrite: Delete the run that the directory holds, but nothing else in it.

    Raises:
        RunExistsError: The directory holds a run.
        StorageError: The disk refuses.
    """
    if holds_run(out):
        if not overwrite:
            raise RunExistsError(out)
        # The pointer goes first: half a deletion must not look like a run.
        storage.remove(out / CHECKPOINT_FOLDER / "latest")
    for name in _OURS:
        storage.remove(out / name)
    storage.make_directory(out / CHECKPOINT_FOLDER)
    audit = open_audit(out, now)
    audit.append(
        {
            "kind": "started",
            "run_id": first.run_id,
            "settings_sha256": settings_digest(first.settings),
            "schema_sha256": schema.digest.hex(),
            "model_sha256": model_digest(first.model_N).hex(),
        }
    )
    save_checkpoint(out / CHECKPOINT_FOLDER, first, schema)
    return RunDirectory(out, schema, audit, first)


def reopen(
    out: Path,
    schema: ParameterSchema,
    settings: Mapping[str, Any],
    now: Clock,
    *,
    because: str = "resumed",
) -> RunDirectory | None:
    """Mend what was being written when the run stopped, whenever that was, and log why.

    Args:
        out: The run directory.
        schema: Of the global model.
        settings: Of the run.
        now: Clock of the audit log.
        because: "resumed" or "interrupted".

    Returns:
        The directory at its last finished round; None where no run got to its first checkpoint.

    Raises:
        ChangedRunError: The run began with other settings.
        BrokenAuditError: Someone edited the audit log.
        UsageError: Someone edited rounds.jsonl.
        StorageError: The disk refuses.
    """
    checkpoint = load_checkpoint(out / CHECKPOINT_FOLDER)
    if checkpoint is None:
        return None
    changes = list_changes(checkpoint.settings, settings)
    if changes:
        raise ChangedRunError(out, changes)
    discard_others(out / CHECKPOINT_FOLDER, f"round-{checkpoint.round:06d}")
    _mend_rounds(out / ROUNDS_FILE, checkpoint)
    audit = open_audit(out, now)
    if checkpoint.round > audit.last_round:
        audit.append(checkpoint.round_event)
    audit.append({"kind": because, "round": checkpoint.round, "run_id": checkpoint.run_id})
    return RunDirectory(out, schema, audit, checkpoint)


def holds_run(out: Path) -> bool:
    """Whether `create` would have to delete something."""
    return (out / CHECKPOINT_FOLDER / "latest").exists()


def list_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between two settings tables, "[round] rounds: 5 -> 10"."""
    flat_before, flat_after = _flat(before), _flat(after)
    return [
        f"{name}: {_show(flat_before.get(name))} -> {_show(flat_after.get(name))}"
        for name in sorted(flat_before.keys() | flat_after.keys())
        if flat_before.get(name) != flat_after.get(name)
    ]


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 over the settings, hex; names the settings in the audit log without repeating them."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def model_digest(model_N: NDArray[np.float32]) -> bytes:
    """SHA-256 of the parameters as they travel: float32, little-endian."""
    return hashlib.sha256(np.ascontiguousarray(model_N, "<f4").data).digest()


def _mend_rounds(path: Path, checkpoint: Checkpoint) -> None:
    """Bring rounds.jsonl to what the checkpoint says."""
    kept = _lines(path)[: max(0, checkpoint.round - 1)]
    for number, line in enumerate(kept, start=1):
        if from_line(line).round != number:
            raise UsageError(f"{path}:{number}: expected the line of round {number}; edited?")
    if len(kept) < checkpoint.round - 1:
        raise UsageError(f"{path}:{len(kept) + 1}: the line is missing; edited?")
    mended = [*kept, checkpoint.round_line] if checkpoint.round else []
    storage.write_file(path, "".join(f"{line}\n" for line in mended).encode())


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").split("\n")[:-1] if path.exists() else []


def _flat(table: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"[{key}] ")
        else:
            flat[f"{section}{key}"] = value
    return flat


def _show(value: Any) -> str:
    return "not set" if value is None else json.dumps(value)
