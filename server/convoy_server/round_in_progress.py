"""What one round has gathered so far, and what is written about it at its end."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from convoy_protos.flower_messages import content_bytes
from convoy_server.admission import Expectation
from convoy_server.downlink import PublishedModel
from convoy_server.evaluation import FleetScore, merge
from convoy_server.intake import Intake, Settled
from convoy_server.optimizers.server_optimizer import OptimizerState
from convoy_server.round_log import RoundRecord, ShardRecord, VehicleBytes, line_digest
from convoy_server.rounds import Phase, Rejection, RoundState, why_abandoned
from convoy_server.update_state import UpdateState
from convoy_server.vehicles import Addresses


@dataclass(slots=True)
class Traffic:
    """Bytes of the messages' contents in one round, by vehicle."""

    uplink: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    downlink: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def came(self, vehicle: str, reply: Message) -> None:
        """Count a reply."""
        self.uplink[vehicle] += content_bytes(reply.content) if reply.has_content() else 0

    def goes(self, vehicle: str, content: RecordDict) -> None:
        """Count what is sent."""
        self.downlink[vehicle] += content_bytes(content)

    def by_vehicle(self) -> dict[str, VehicleBytes]:
        """For the round's line."""
        return {
            name: VehicleBytes(uplink=self.uplink[name], downlink=self.downlink[name])
            for name in sorted(set(self.uplink) | set(self.downlink))
        }


@dataclass(slots=True)
class RoundInProgress:
    """What one round has gathered so far; lives from configure_train to the checkpoint."""

    state: RoundState
    expected: Expectation
    addresses: Addresses
    names: Mapping[int, str]
    nodes: Mapping[str, int]
    model: PublishedModel
    settings_json: str
    update_state: UpdateState
    optimizer_state: OptimizerState
    intake: Intake | None = None
    settled: Settled | None = None
    members: tuple[NDArray[np.float32], ...] = ()
    traffic: Traffic = field(default_factory=Traffic)
    models_sent: int = 0
    replies: int = 0
    update_uplink_bytes: int = 0
    rolled_back: str = ""
    too_few_items: str = ""
    sent_model: bytes = b""
    clip_norm: float | None = None
    rate: float = 1.0
    train_loss: float | None = None
    score: FleetScore = field(default_factory=lambda: merge({}))
    evaluation_rejections: list[Rejection] = field(default_factory=list)
    evaluation_lost: tuple[str, ...] = ()
    score_sums: tuple[ShardRecord, ...] = ()


def round_record(
    current: RoundInProgress, wall_s: float, sent_parameters: int, parameters: int
) -> RoundRecord:
    """The round's line of rounds.jsonl.

    Args:
        current: The round, over.
        wall_s: Seconds it took.
        sent_parameters: Of an update.
        parameters: Of the model.
    """
    state, score, settled = current.state, current.score, current.settled
    done = state.phase is Phase.DONE
    traffic = current.traffic.by_vehicle()
    return RoundRecord(
        round=state.number,
        outcome="done" if done else "abandoned",
        abandoned_because=None if done else _why_abandoned(current),
        invited=len(state.cohort),
        completed=len(state.accepted),
        lost=len(state.lost),
        surplus=len(state.surplus),
        rejected=dict(sorted(Counter(one.reason for one in state.rejections).items())),
        uplink_bytes=sum(one.uplink for one in traffic.values()),
        downlink_bytes=sum(one.downlink for one in traffic.values()),
        update_uplink_bytes=current.update_uplink_bytes,
        update_parameters=sent_parameters,
        float32_uplink_bytes=4 * sent_parameters * current.replies,
        float32_downlink_bytes=4 * parameters * current.models_sent,
        bytes_by_vehicle=traffic,
        wall_s=round(wall_s, 3),
        train_loss=current.train_loss,
        balanced_accuracy=score.balanced_accuracy,
        accuracy=score.accuracy,
        throttle_mae=score.throttle_mae,
        clip_norm=current.clip_norm,
        clipped_share=settled.clipped_share if settled else None,
        shards=settled.shards if settled else (),
        left_out=settled.aggregate.left_out if settled and settled.aggregate else (),
        rolled_back=current.rolled_back or None,
        rejections=state.rejections,
        lost_vehicles=state.lost,
        evaluation_rejections=tuple(current.evaluation_rejections),
        evaluation_lost=current.evaluation_lost,
        score_sums=current.score_sums,
        per_vehicle=score.per_vehicle,
    )


def _why_abandoned(current: RoundInProgress) -> str:
    """One line for the user."""
    if current.rolled_back:
        return f"rolled back: {current.rolled_back}"
    if current.too_few_items:
        return current.too_few_items
    shards = current.settled.shards if current.settled else ()
    given_up = [
        f"shard {number}: {shard.given_up}"
        for number, shard in enumerate(shards)
        if shard.given_up is not None
    ]
    return "; ".join([why_abandoned(current.state), *given_up])


def audit_event(current: RoundInProgress, line: str) -> dict[str, Any]:
    """The round in the audit log; `line` is its line of rounds.jsonl."""
    state = current.state
    return {
        "kind": "round",
        "round": state.number,
        "outcome": state.phase.value,
        "cohort": list(state.cohort),
        "accepted": list(state.accepted),
        "rejected": [[one.vehicle, one.reason] for one in state.rejections],
        "lost": list(state.lost),
        "model_sha256": current.model.digest.hex(),
        "record_sha256": line_digest(line),
    }
