"""A report before the end of a run: from its checkpoint and its rounds so far."""

from collections.abc import Sequence
from pathlib import Path

from convoy_protos.errors import UsageError
from convoy_protos.settings import from_table
from convoy_server.checkpoint import CHECKPOINT_FOLDER, load_checkpoint
from convoy_server.report.contract import (
    Baselines,
    Final,
    Fleet,
    Report,
    VehicleResult,
    worst_of,
)
from convoy_server.report.travel import privacy_of, update_of
from convoy_server.round_log import RoundRecord
from convoy_server.run_config import RunConfig


def unfinished_report(out: Path, records: Sequence[RoundRecord]) -> Report:
    """What the checkpoint and the finished rounds of a run directory tell.

    Raises:
        UsageError: The directory holds no run.
    """
    checkpoint = load_checkpoint(out / CHECKPOINT_FOLDER)
    if checkpoint is None:
        raise UsageError(f"{out}: holds no run; name the --out directory of `convoy simulate`")
    run = from_table(RunConfig, checkpoint.settings, CHECKPOINT_FOLDER)
    examples = {name: s.examples for record in records for name, s in record.per_vehicle.items()}
    return Report(
        scenario=run.name,
        seed=run.seed,
        wall_s=sum(record.wall_s for record in records),
        cpu_s=None,
        peak_rss_bytes=None,
        fleet=Fleet(
            vehicles=len(examples) or max((record.invited for record in records), default=0),
            examples=sum(examples.values()),
            parameters=int(checkpoint.model_N.size),
        ),
        rounds=tuple(records),
        final=_so_far(records),
        baselines=Baselines(),
        update=update_of(run, records),
        privacy=privacy_of(run, records),
        release=None,
        closed_loop=None,
        rounds_planned=run.round.rounds,
        complete=False,
    )


def _so_far(records: Sequence[RoundRecord]) -> Final | None:
    """The last scores there are."""
    scored = [record for record in records if record.balanced_accuracy is not None]
    if not scored:
        return None
    last = scored[-1]
    if last.balanced_accuracy is None or last.accuracy is None or last.throttle_mae is None:
        return None
    own = {name: score.balanced_accuracy for name, score in last.per_vehicle.items()}
    return Final(
        balanced_accuracy=last.balanced_accuracy,
        accuracy=last.accuracy,
        throttle_mae=last.throttle_mae,
        worst_vehicle=worst_of(own),
        per_vehicle={
            name: VehicleResult(examples=score.examples, balanced_accuracy=score.balanced_accuracy)
            for name, score in last.per_vehicle.items()
        },
        summed=sum(len(one.summed) for one in last.score_sums),
    )
