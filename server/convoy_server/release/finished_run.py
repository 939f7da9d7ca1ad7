"""A run directory whose rounds are done, as its release needs it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from convoy_driving.models.registry import build_model
from convoy_driving.parameters import schema_of
from convoy_protos.errors import UsageError
from convoy_protos.settings import from_table
from convoy_server.audit import ROUNDS_FILE
from convoy_server.checkpoint import CHECKPOINT_FOLDER, load_checkpoint
from convoy_server.federation import FederationResult
from convoy_server.report.on_disk import read_rounds
from convoy_server.round_log import RoundRecord
from convoy_server.run_config import RunConfig
from convoy_server.strategy import published_model


class FinishedRun(NamedTuple):
    """What a run left.

    Attributes:
        run_id: Of its checkpoint.
        run: Its settings.
        result: As `run_federation` returned it.
    """

    run_id: str
    run: RunConfig
    result: FederationResult


def load_finished_run(out: Path) -> FinishedRun:
    """Read it.

    Raises:
        UsageError: There is no run, or rounds are missing.
        BrokenCheckpointError: The checkpoint cannot be read.
    """
    checkpoint = load_checkpoint(out / CHECKPOINT_FOLDER)
    if checkpoint is None:
        raise UsageError(f"{out}: holds no run; name the --out directory of a run")
    run = from_table(RunConfig, checkpoint.settings, CHECKPOINT_FOLDER)
    if checkpoint.round < run.round.rounds:
        raise UsageError(
            f"{out}: {checkpoint.round} of {run.round.rounds} rounds are done; finish the run first"
        )
    model = build_model(run.model, run.data.frame_height, run.data.frame_width, run.seed)
    records = tuple(read_rounds(out / ROUNDS_FILE))
    scores = {name: score for record in records for name, score in record.per_vehicle.items()}
    return FinishedRun(
        checkpoint.run_id,
        run,
        FederationResult(
            model_N=published_model(checkpoint, run),
            schema=schema_of(model),
            records=records,
            per_vehicle=dict(sorted(scores.items())),
            vehicles=_vehicles(records, {name: score.examples for name, score in scores.items()}),
            snapshots=checkpoint.snapshots,
            members=checkpoint.members,
        ),
    )


def _vehicles(records: Sequence[RoundRecord], told: Mapping[str, int]) -> dict[str, int]:
    """Training examples by vehicle, 0 where nobody knows; without scores, of all that travelled."""
    names = told or {name for record in records for name in record.bytes_by_vehicle}
    return {name: told.get(name, 0) for name in sorted(names)}
