"""Everything a run needs to go on, written whole after every round.

checkpoint/
    round-000012/               one directory a finished round; the one before it is deleted after
        model.safetensors       the global model
        optimizer.*.safetensors what the server optimizer remembers, one vector a file
        snapshot.*.safetensors  earlier global models for the release, oldest first
        member.*.safetensors    models of the last round's shards, where the release wants them
        delta.bin               from the model before to this one, as vehicles get it
        average.safetensors     mean of the last global models, while section [round] asks for one
        state.json              the rest: round, settings, line of rounds.jsonl, event for the audit
    latest                      name of the directory that counts; replacing it is the commit
    audit_head.json             see convoy_server.audit

A directory is written under another name, synced, renamed; then `latest` is replaced. A crash at any
point leaves the old or the new checkpoint, never half of one.
"""

# Shapes: N parameters.

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convoy_driving.parameters import ParameterSchema, load_parameters, save_parameters
from convoy_server import storage
from convoy_server.errors import BrokenCheckpointError

CHECKPOINT_FOLDER: Final = "checkpoint"

_SCHEMA: Final = "convoy.checkpoint/2"
_LATEST: Final = "latest"
_DELTA: Final = "delta.bin"

Float32Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A run after `round` finished rounds.

    Attributes:
        run_id: Random, once a run.
        round: Finished rounds; 0 before the first.
        settings: The run configuration as a table.
        model_N: The global model.
        optimizer_state: By name.
        snapshots: Earlier global models and this one, oldest first; at least one.
        members: Models of the last round's shards, or of single vehicles; see release.ensemble.
        average_N: Mean of the last `average_count` global models; None while that is 0.
        average_count: How many.
        abandoned_in_a_row: Rounds since the last one that was not.
        base_digest: SHA-256 of the model that `delta` starts from; empty where there is none.
        delta: The way from there to model_N; see convoy_server.downlink.
        update_state: What the next round's updates need to know of the last: see
            convoy_server.update_state; a table.
        round_line: The round's line of rounds.jsonl; empty for round 0.
        round_event: The round's audit event; empty for round 0.
    """

    run_id: str
    round: int
    settings: Mapping[str, Any]
    model_N: Float32Vector
    optimizer_state: Mapping[str, Float32Vector] = field(default_factory=dict)
    snapshots: tuple[Float32Vector, ...]
    members: tuple[Float32Vector, ...] = ()
    average_N: Float32Vector | None = None
    average_count: int = 0
    abandoned_in_a_row: int = 0
    base_digest: bytes = b""
    delta: bytes = b""
    update_state: Mapping[str, Any] = field(default_factory=dict)
    round_line: str = ""
    round_event: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(folder: Path, checkpoint: Checkpoint, schema: ParameterSchema) -> None:
    """Write it, point to it, delete the ones before it.

    Raises:
        StorageError: The disk is full or refuses; the checkpoint before is untouched.
    """
    name = f"round-{checkpoint.round:06d}"
    storage.fill_directory(folder / name, lambda path: _write(path, checkpoint, schema))
    storage.write_file(folder / _LATEST, f"{name}\n".encode())
    discard_others(folder, name)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The last one written; None where there is none.

    Raises:
        BrokenCheckpointError: What `latest` points to is not there or not readable.
    """
    pointer = folder / _LATEST
    if not pointer.exists():
        return None
    path = folder / pointer.read_text().strip()
    try:
        table = json.loads((path / "state.json").read_text())
        if table.pop("schema") != _SCHEMA:
            raise BrokenCheckpointError(f"{path}: not written by this version; expected {_SCHEMA}")
        names, snapshots = table.pop("optimizer_state"), table.pop("snapshots")
        members = table.pop("members", 0)  # younger than the schema
        average = path / "average.safetensors"
        table["base_digest"] = bytes.fromhex(table["base_digest"])
        return Checkpoint(
            delta=(path / _DELTA).read_bytes(),
            **table,
            model_N=_vector(path / "model.safetensors"),
            optimizer_state={n: _vector(path / f"optimizer.{n}.safetensors") for n in names},
            snapshots=tuple(_vector(path / f"snapshot.{i}.safetensors") for i in range(snapshots)),
            members=tuple(_vector(path / f"member.{i}.safetensors") for i in range(members)),
            average_N=_vector(average) if table["average_count"] else None,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokenCheckpointError(f"{path}: not a readable checkpoint ({error})") from error


def discard_others(folder: Path, name: str) -> None:
    """Delete older checkpoints and what a crash left behind."""
    for path in sorted(folder.iterdir()):
        old = path.name.startswith("round-") and path.name != name
        if old or path.name.startswith(storage.TEMPORARY_PREFIX):
            storage.remove(path)


def _write(path: Path, checkpoint: Checkpoint, schema: ParameterSchema) -> None:
    vectors = {"model": checkpoint.model_N}
    vectors |= {f"optimizer.{n}": v for n, v in checkpoint.optimizer_state.items()}
    vectors |= {f"snapshot.{i}": v for i, v in enumerate(checkpoint.snapshots)}
    vectors |= {f"member.{i}": v for i, v in enumerate(checkpoint.members)}
    if checkpoint.average_N is not None:
        vectors["average"] = checkpoint.average_N
    for name, vector_N in vectors.items():
        save_parameters(vector_N, schema, path / f"{name}.safetensors", {})
    table = {
        "schema": _SCHEMA,
        "run_id": checkpoint.run_id,
        "round": checkpoint.round,
        "settings": checkpoint.settings,
        "optimizer_state": sorted(checkpoint.optimizer_state),
        "snapshots": len(checkpoint.snapshots),
        "members": len(checkpoint.members),
        "average_count": checkpoint.average_count,
        "abandoned_in_a_row": checkpoint.abandoned_in_a_row,
        "base_digest": checkpoint.base_digest.hex(),
        "update_state": checkpoint.update_state,
        "round_line": checkpoint.round_line,
        "round_event": checkpoint.round_event,
    }
    (path / _DELTA).write_bytes(checkpoint.delta)
    (path / "state.json").write_text(json.dumps(table, indent=1, allow_nan=False))


def _vector(path: Path) -> Float32Vector:
    return load_parameters(path)[0]
