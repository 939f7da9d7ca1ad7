"""One line of rounds.jsonl a round: what happened, in counts, bytes and scores."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from convoy_protos.errors import SettingsError
from convoy_protos.settings import from_table
from convoy_server.rounds import Rejection


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleScore:
    """How the global model does on one vehicle's held-back laps.

    Attributes:
        examples: Training examples of the vehicle.
        balanced_accuracy: Mean over the steering classes that its held-back laps contain.
        accuracy: Share of held-back examples whose steering class is right.
        throttle_mae: Mean absolute throttle error.
    """

    examples: int
    balanced_accuracy: float
    accuracy: float
    throttle_mae: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord:
    """One secure sum.

    Attributes:
        vehicles: Who was asked.
        summed: Whose update is in the sum.
        attempts: Sums tried; each after the first because the one before overflowed.
        wrap_ratio: Spread of the sum over its range: 0.22 is right; above 0.30, with few bits and many
            vehicles up to 0.50, it is never applied.
        modulus_bits: Bits a parameter.
        step: Of the quantizer, in parameter units.
        culprits: Who sent wrong shares.
        given_up: Why there is no sum; None where there is one.
        helpers: Whom the vehicles masked for; none: they masked pairwise with each other.
        helpers_lost: Helpers whose mask sum did not come or was refused.
    """

    vehicles: tuple[str, ...]
    summed: tuple[str, ...]
    attempts: int
    wrap_ratio: float | None = None
    modulus_bits: int
    step: float
    culprits: tuple[str, ...] = ()
    given_up: str | None = None
    helpers: tuple[str, ...] = ()
    helpers_lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleBytes:
    """Content of one vehicle's messages in a round, as it was sent."""

    uplink: int
    downlink: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """One line of rounds.jsonl, one entry of report.json "rounds"; null where not measured.

    Attributes:
        outcome: "abandoned" where the global model is that of the round before.
        abandoned_because: One line; None for a round that is done.
        invited: Clients asked to train.
        completed: Updates in the sum.
        lost: Clients that never answered.
        surplus: Clients no longer needed when the round closed.
        rejected: Refused updates by reason.
        uplink_bytes: Content of every reply to train and evaluate as it came, envelope included.
        downlink_bytes: Content of every message of train and evaluate as it was sent.
        update_uplink_bytes: Of uplink_bytes, what brought updates: all but evaluations.
        update_parameters: Parameters that an update has; frozen ones are not sent.
        float32_uplink_bytes: What the same updates would have taken as plain float32.
        float32_downlink_bytes: What the same models would have taken as plain float32.
        bytes_by_vehicle: Of all messages of the round, by vehicle id.
        wall_s: Real time.
        virtual_s: Time on the simulated network.
        train_loss: Mean over the accepted updates, weighted by their examples.
        balanced_accuracy: Mean over vehicles of each one's own.
        accuracy: Over all held-back examples.
        throttle_mae: Mean absolute error over all held-back examples.
        epsilon: Differential privacy spent so far.
        clip_norm: Bound on an update's 2-norm in this round.
        clipped_share: Share of the summed updates that were longer.
        shards: The secure sums.
        left_out: Vehicles or shards that a robust rule gave no share in the aggregate.
        rolled_back: Why the canary check threw the new model away; None where it did not.
        rejections: Every refused update.
        lost_vehicles: Who never answered.
        evaluation_rejections: Every refused evaluation.
        evaluation_lost: Who never sent an evaluation, or is missing in the sum of scores.
        score_sums: Masked sums of the scores of vehicles that tell them to no one; no vector is in
            them.
        per_vehicle: Scores by vehicle id.
    """

    round: int
    outcome: Literal["done", "abandoned"]
    abandoned_because: str | None = None
    invited: int
    completed: int
    lost: int
    surplus: int
    rejected: Mapping[str, int]
    uplink_bytes: int
    downlink_bytes: int
    update_uplink_bytes: int = 0
    update_parameters: int = 0
    float32_uplink_bytes: int = 0
    float32_downlink_bytes: int = 0
    bytes_by_vehicle: Mapping[str, VehicleBytes] = field(default_factory=dict)
    wall_s: float
    virtual_s: float | None = None
    train_loss: float | None = None
    balanced_accuracy: float | None = None
    accuracy: float | None = None
    throttle_mae: float | None = None
    epsilon: float | None = None
    clip_norm: float | None = None
    clipped_share: float | None = None
    shards: tuple[ShardRecord, ...] = ()
    left_out: tuple[str, ...] = ()
    rolled_back: str | None = None
    rejections: tuple[Rejection, ...] = ()
    lost_vehicles: tuple[str, ...] = ()
    evaluation_rejections: tuple[Rejection, ...] = ()
    evaluation_lost: tuple[str, ...] = ()
    score_sums: tuple[ShardRecord, ...] = ()
    per_vehicle: Mapping[str, VehicleScore] = field(default_factory=dict)


def to_line(record: RoundRecord) -> str:
    """JSON without a line break; the same record gives the same bytes."""
    return json.dumps(dataclasses.asdict(record), allow_nan=False)


def line_digest(line: str) -> str:
    """SHA-256 of a line, hex; the audit log's event "round" carries it."""
    return hashlib.sha256(line.encode()).hexdigest()


def from_line(line: str) -> RoundRecord:
    """The inverse of `to_line`.

    Raises:
        SettingsError: The line is not a round record.
    """
    try:
        table: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"rounds.jsonl: not JSON: {error}") from error
    if not isinstance(table, dict):
        raise SettingsError(f"rounds.jsonl: expected an object, got {table!r}")
    return from_table(RoundRecord, table, "rounds.jsonl")
