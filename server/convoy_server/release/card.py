"""card.json: what a person should know about a release before signing it; card.html shows the same.

It lies in the release folder and in its manifest, so it is signed with the rest. It names no vehicle of the
fleet: every vehicle may read it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from convoy_driving.models.driving_model import DrivingModel
from convoy_protos.protection import Protection, protection_of
from convoy_protos.settings import to_table
from convoy_server.federation import FederationResult
from convoy_server.release.candidate import Candidate
from convoy_server.release.gates import AT_LEAST, Measurements
from convoy_server.release.manifest import Origin, code_digest, sha256
from convoy_server.release.proxy_fit import ProxyFit
from convoy_server.release.slices import Slice
from convoy_server.report.contract import Gate, Privacy
from convoy_server.report.machine import machine
from convoy_server.report.travel import privacy_of
from convoy_server.run_config import RunConfig
from convoy_server.run_directory import settings_digest

CARD_FILE: Final = "card.json"
CARD_SCHEMA: Final = "convoy.card/1"
CARD_PAGE_FILE: Final = "card.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """The last round; None where the run has none.

    Attributes:
        invited: Vehicles asked to train.
        completed: Updates in the model.
        lost: Vehicles that never answered.
        rejected: Updates refused.
    """

    invited: int
    completed: int
    lost: int
    rejected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where the model comes from.

    Attributes:
        origin: As in manifest.json.
        settings_sha256: Of the run's settings, as in audit.jsonl.
        code_sha256: Of the program that made the release: `manifest.code_digest`.
        rounds_done: Rounds that moved the global model.
        rounds: Rounds in all.
        cohort: Of the last round.
        vehicles: That ever took part.
        examples: Their training examples, as far as they tell.
    """

    origin: Origin
    settings_sha256: str
    code_sha256: str
    rounds_done: int
    rounds: int
    cohort: Cohort | None
    vehicles: int
    examples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Teaching:
    """How the student learned.

    Attributes:
        teachers: "shards", "vehicles", "snapshots" or "global": who taught beside the global model.
        count: All of them.
        entropy: How unsure they were of the proxy frames, in 0..1; None where it did not come to that.
        disagreement: How often one was of another opinion than the ensemble.
        remedies: What a gate asked for on the way.
    """

    teachers: str
    count: int
    entropy: float | None
    disagreement: float | None
    remedies: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """The release card.

    Attributes:
        accepted: Every gate passed.
        reasons: Why not.
        warnings: What a person should know all the same.
        gates: Value and limit.
        measured: Every figure; None where it did not come to that.
        machine: Where latencies were measured, on one thread.
        slices: Of the int8 file on held-back proxy frames.
        files: SHA-256 by name.
        proxy: How the proxy frames compare with the vehicles'.
        teaching: How the student learned.
        lineage: Where the model comes from.
        privacy: What protected a single vehicle.
        privacy_statement: The same in words.
    """

    accepted: bool
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    gates: tuple[Gate, ...]
    measured: Measurements
    machine: str
    slices: tuple[Slice, ...]
    files: Mapping[str, str]
    proxy: ProxyFit | None
    teaching: Teaching
    lineage: Lineage
    privacy: Privacy
    privacy_statement: str


def card_of(
    candidate: Candidate,
    student: DrivingModel,
    files: Mapping[str, bytes],
    reasons: Sequence[str],
    warnings: Sequence[str],
) -> Card:
    """Gather the card.

    Args:
        candidate: As far as it has come.
        student: For its number of parameters, where the candidate did not come to files.
        files: Content by name.
        reasons: Why it is refused; none: it is accepted.
        warnings: For a person.
    """
    run, result, lessons = candidate.run, candidate.result, candidate.lessons
    privacy = privacy_of(run, result.records)
    teachers = candidate.teachers
    return Card(
        accepted=not reasons,
        reasons=tuple(reasons),
        warnings=tuple(warnings),
        gates=candidate.gates,
        measured=candidate.measured,
        machine=machine(),
        slices=candidate.slices,
        files={name: sha256(content) for name, content in files.items()},
        proxy=candidate.fit,
        teaching=Teaching(
            teachers=teachers.kind if teachers else "",
            count=len(teachers.models) if teachers else 0,
            entropy=lessons.entropy if lessons else None,
            disagreement=lessons.disagreement if lessons else None,
            remedies=tuple(remedy.value for remedy in candidate.remedies),
        ),
        lineage=lineage_of(run, result, candidate.origin or candidate.origin_with(student)),
        privacy=privacy,
        privacy_statement=privacy_statement(run, privacy),
    )


def card_json(card: Card) -> str:
    """The text of card.json."""
    table: dict[str, Any] = {"schema": CARD_SCHEMA, **asdict(card)}
    for gate in table["gates"]:
        gate["bound"] = "at least" if gate["name"] in AT_LEAST else "at most"
    return json.dumps(table, indent=1, sort_keys=True, allow_nan=False) + "\n"


def lineage_of(run: RunConfig, result: FederationResult, origin: Origin) -> Lineage:
    """From the rounds of the run."""
    records = result.records
    last = records[-1] if records else None
    return Lineage(
        origin=origin,
        settings_sha256=settings_digest(to_table(run)),
        code_sha256=code_digest(),
        rounds_done=sum(record.outcome == "done" for record in records),
        rounds=len(records),
        cohort=Cohort(
            invited=last.invited,
            completed=last.completed,
            lost=last.lost,
            rejected=sum(last.rejected.values()),
        )
        if last
        else None,
        vehicles=len(result.vehicles),
        examples=sum(result.vehicles.values()),
    )


def privacy_statement(run: RunConfig, privacy: Privacy) -> str:
    """What protected a vehicle while the model learned, without a promise that nobody can keep."""
    protection = protection_of(run.update.wire_name)
    if protection is Protection.MASKED:
        seen = (
            f"Every update was hidden in a sum of at least {run.update.minimum_cohort} vehicles; the "
            "server saw sums only"
        )
        if privacy.mask_helpers:
            seen += f", as long as one of {privacy.mask_helpers} mask helpers did not work together with it"
    elif protection is Protection.SEALED:
        seen = "Every update was encrypted to the aggregator, which saw each of them"
    else:
        seen = "The server saw every update in the clear"
    if privacy.noise_multiplier is None:
        return f"{seen}. No epsilon is stated: no noise was added."
    if privacy.epsilon is None:
        return f"{seen}. Noise was added, but no epsilon can be stated."
    return (
        f"{seen}. For each vehicle the training is differentially private with epsilon "
        f"{privacy.epsilon:.3g} at delta {privacy.delta:.3g}."
    )
