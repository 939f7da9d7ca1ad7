"""What a vehicle has to add to a secure sum, and where it waits until the sum asks for it.

That is the update which it has learned in a round, or how the global model does on the laps that it
holds back. Flower keeps a node's state between messages, also where each message has a process of its
own. One thing waits at a time, with the session of the sum that it is in; the next one replaces both.
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
_SCORES: Final = "convoy.scores"
_SESSION: Final = "convoy.session"
_NOISE: Final = "convoy.noise"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalUpdate:
    """The outcome of local training.

    Attributes:
        run_id: Of the run.
        round_number: Of the round.
        schema_digest: Of the whole network.
        model_digest: Of the global model that training began with.
        settings_digest: Of the settings that it went by.
        update_N: float32, shape (N,), local minus global; only the part that is not frozen.
        example_count: Training examples behind it.
        train_loss: Mean loss of the last epoch.
    """

    run_id: str
    round_number: int
    schema_digest: bytes
    model_digest: bytes
    settings_digest: bytes
    update_N: NDArray[np.float32]
    example_count: int
    train_loss: float

    @property
    def parameter_count(self) -> int:
        """N."""
        return int(self.update_N.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalScores:
    """How a global model does on the laps that this vehicle holds back, for a sum over the fleet.

    Attributes:
        run_id: Of the run.
        round_number: Of the round.
        schema_digest: Of the whole network.
        model_digest: Of the global model that was scored.
        settings_digest: Of the settings that scoring went by.
        counters: In the order of SCORE_COUNTERS, each in 0..2**64-1.
    """

    run_id: str
    round_number: int
    schema_digest: bytes
    model_digest: bytes
    settings_digest: bytes
    counters: tuple[int, ...]

    @property
    def parameter_count(self) -> int:
        """No vector goes with them."""
        return 0


Waiting = LocalUpdate | LocalScores


def keep(waiting: Waiting, state: RecordDict) -> None:
    """Put it away for the sum; what was before is dropped, secrets included."""
    drop(state)
    about: dict[str, Any] = {
        "run_id": waiting.run_id,
        "round": waiting.round_number,
        "schema_digest": waiting.schema_digest,
        "model_digest": waiting.model_digest,
        "settings_digest": waiting.settings_digest,
    }
    if isinstance(waiting, LocalScores):
        counters = np.array(waiting.counters, "<u8").tobytes()
        state[_SCORES] = ConfigRecord({**about, "counters": counters})
        return
    state[_UPDATE] = ConfigRecord(
        {
            **about,
            "update": np.ascontiguousarray(waiting.update_N, "<f4").tobytes(),
            "example_count": waiting.example_count,
            "train_loss": waiting.train_loss,
        }
    )


def kept(state: RecordDict) -> Waiting:
    """What waits.

    Raises:
        NoUpdateKeptError: Nothing does.
    """
    record = state.get(_UPDATE) or state.get(_SCORES)
    if not isinstance(record, ConfigRecord):
        raise NoUpdateKeptError("no trained update waits here: the vehicle was restarted meanwhile")
    # Only `keep` writes these records, so every value is of the type that it wrote.
    values: dict[str, Any] = dict(record)
    about = {
        "run_id": values["run_id"],
        "round_number": values["round"],
        "schema_digest": values["schema_digest"],
        "model_digest": values["model_digest"],
        "settings_digest": values["settings_digest"],
    }
    if "counters" in values:
        counters = np.frombuffer(values["counters"], "<u8").tolist()
        return LocalScores(**about, counters=tuple(counters))
    return LocalUpdate(
        **about,
        update_N=np.frombuffer(values["update"], "<f4"),
        example_count=values["example_count"],
        train_loss=values["train_loss"],
    )


def drop(state: RecordDict) -> None:
    """Forget what waits and its session."""
    for name in (_UPDATE, _SCORES, _SESSION, _NOISE):
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
