"""What a vehicle has learned in one round, and where it waits until a secure sum asks for it.

Flower keeps a node's state between messages, also where each message has a process of its own. One
update is kept at a time, with the session of the sum that it is in; the next round's replaces both.
"""

# Shapes: N parameters that are sent.

import os
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from flwr.app import ConfigRecord, RecordDict
from numpy.typing import NDArray

from convoy_edge_client.errors import NoUpdateKeptError

_UPDATE: Final = "convoy.update"
_SESSION: Final = "convoy.session"
_NOISE: Final = "convoy.noise"
_OPENED: Final = "convoy.opened"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalUpdate:
    """The outcome of local training.

    Attributes:
        run_id: Of the run.
        round_number: Of the round.
        schema_digest: Of the whole network.
        model_digest: Of the global model that training began with.
        update_N: float32, shape (N,), local minus global; only the part that is not frozen.
        example_count: Training examples behind it.
        train_loss: Mean loss of the last epoch.
    """

    run_id: str
    round_number: int
    schema_digest: bytes
    model_digest: bytes
    update_N: NDArray[np.float32]
    example_count: int
    train_loss: float


def keep(update: LocalUpdate, state: RecordDict) -> None:
    """Put the update away; what was before is dropped, secrets included.

    Trained again in the same round, it is the same update: which sum of it has been opened is not
    forgotten.
    """
    before = state.get(_OPENED)
    drop(state)
    if isinstance(before, ConfigRecord) and _is_of(update, before):
        state[_OPENED] = before
    state[_UPDATE] = ConfigRecord(
        {
            "run_id": update.run_id,
            "round": update.round_number,
            "schema_digest": update.schema_digest,
            "model_digest": update.model_digest,
            "update": np.ascontiguousarray(update.update_N, "<f4").tobytes(),
            "example_count": update.example_count,
            "train_loss": update.train_loss,
        }
    )


def kept(state: RecordDict) -> LocalUpdate:
    """The update that waits.

    Raises:
        NoUpdateKeptError: None does.
    """
    record = state.get(_UPDATE)
    if not isinstance(record, ConfigRecord):
        raise NoUpdateKeptError("no trained update waits here: the vehicle was restarted meanwhile")
    # Only `keep` writes this record, so every value is of the type that it wrote.
    values: dict[str, Any] = dict(record)
    return LocalUpdate(
        run_id=values["run_id"],
        round_number=values["round"],
        schema_digest=values["schema_digest"],
        model_digest=values["model_digest"],
        update_N=np.frombuffer(values["update"], "<f4"),
        example_count=values["example_count"],
        train_loss=values["train_loss"],
    )


def drop(state: RecordDict) -> None:
    """Forget update and session."""
    for name in (_UPDATE, _SESSION, _NOISE, _OPENED):
        if name in state:
            del state[name]


def session_of(state: RecordDict) -> bytes:
    """The session of the sum that the update is in; empty before there is one."""
    record = state.get(_SESSION)
    session = record.get("session") if isinstance(record, ConfigRecord) else b""
    return session if isinstance(session, bytes) else b""


def save_session(session: bytes, state: RecordDict) -> None:
    """Keep the session; do this before the reply goes."""
    state[_SESSION] = ConfigRecord({"session": session})


def draw_noise_key(state: RecordDict) -> None:
    """A new key for the noise of one sum. No peer and no server may ever learn it."""
    state[_NOISE] = ConfigRecord({"key": os.urandom(32)})


def noise_key(state: RecordDict) -> bytes:
    """The key drawn for this sum.

    Raises:
        NoUpdateKeptError: None was.
    """
    record = state.get(_NOISE)
    key = record.get("key") if isinstance(record, ConfigRecord) else None
    if not isinstance(key, bytes):
        raise NoUpdateKeptError("no noise was drawn for this sum")
    return key


def drop_noise_key(state: RecordDict) -> None:
    """Forget the key once the sum is over."""
    if _NOISE in state:
        del state[_NOISE]


def note_opened(update: LocalUpdate, members: bytes, state: RecordDict) -> None:
    """Remember over whom a sum with this update has been opened; do this before the reply goes."""
    state[_OPENED] = ConfigRecord(
        {"run_id": update.run_id, "round": update.round_number, "members": members}
    )


def opened(state: RecordDict) -> bytes:
    """Digest of the members of a sum of this update that has been opened; empty where none has."""
    record = state.get(_OPENED)
    members = record.get("members") if isinstance(record, ConfigRecord) else b""
    return members if isinstance(members, bytes) else b""


def _is_of(update: LocalUpdate, record: ConfigRecord) -> bool:
    return (record.get("run_id"), record.get("round")) == (update.run_id, update.round_number)
