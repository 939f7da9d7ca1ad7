"""How work gives the machine up for a while, and what training goes on from.

Without breaks, as in a simulation, it runs through. A resident agent hands its own to
`make_client_app`: see convoy_edge_client.agent.paused_training.
"""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch

from convoy_driving.dataset import VehicleDataset
from convoy_driving.training import BetweenBatches
from convoy_driving.training_state import TrainingState
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_protos.v1.federation_pb2 import RoundInstructions

GiveWay = Callable[[], None]
"""Called between two pieces of work; may wait, or raise NotNowError or AgentStoppedError."""


def go_on() -> None:
    """Give way to nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBreak:
    """What `train` takes.

    Attributes:
        resume: Where the same training stood when it had to stop; None: it starts.
        between_batches: Called before every batch; may wait, or raise NotNowError.
    """

    resume: TrainingState | None = None
    between_batches: BetweenBatches | None = None


class TrainingBreaks(Protocol):
    """Who decides when work pauses."""

    def during(self, work: bytes, deadline_s: float) -> AbstractContextManager[TrainingBreak]:
        """The breaks of one training; what it had learned is forgotten once it has ended well.

        Args:
            work: See `work_digest`.
            deadline_s: Unix time after which nobody waits for the update any more.
        """
        ...

    def giving_way(self, deadline_s: float) -> AbstractContextManager[GiveWay]:
        """The breaks of work that begins anew if it is refused in the middle: decoding, evaluation.

        Args:
            deadline_s: Unix time after which nobody waits for its outcome any more.
        """
        ...


def giving_way(breaks: TrainingBreaks | None, deadline_s: float) -> AbstractContextManager[GiveWay]:
    """As `TrainingBreaks.giving_way`; where nobody decides, work goes on."""
    return nullcontext(go_on) if breaks is None else breaks.giving_way(deadline_s)


def work_digest(
    instructions: RoundInstructions, vehicle: VehicleConfig, device: str, dataset: VehicleDataset
) -> bytes:
    """SHA-256 of all that decides the outcome of a training: of the same digest, the same bits.

    Frames count by their number and size, labels by their values.
    """
    digest = hashlib.sha256(b"convoy.work/1\n")
    for part in (
        instructions.run_id.encode(),
        f"{instructions.round} {instructions.seed}".encode(),
        instructions.schema_digest,
        instructions.model_digest,
        instructions.settings_json.encode(),
        vehicle.vehicle_id.encode(),
        f"{vehicle.augment} {vehicle.mirror} {vehicle.torch_threads} {device}".encode(),
        f"{torch.__version__} {dataset.frames_NHWC.shape}".encode(),
        dataset.steering_N.tobytes(),
        dataset.throttle_N.tobytes(),
        dataset.train_indices.tobytes(),
    ):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
