"""The server's side of a federated run, as a Flower ServerApp.

The same app runs in the in-process simulation, in Flower's own simulation and behind a SuperLink.
"""

import json
import logging
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from convoy_driving.models.registry import build_model
from convoy_driving.parameters import (
    Float32Vector,
    ParameterSchema,
    flatten,
    load_parameters,
    schema_of,
)
from convoy_privacy.errors import FleetFolderError
from convoy_privacy.party import Party, load_party, with_newest_revocations
from convoy_protos.errors import SettingsError, UsageError
from convoy_protos.run_bundle import RUN_KEY
from convoy_protos.settings import to_table
from convoy_server.audit import Clock, utc_now
from convoy_server.checkpoint import Checkpoint
from convoy_server.errors import RunInterruptedError
from convoy_server.federation import FederationResult
from convoy_server.observer import RunObserver, SilentObserver
from convoy_server.round_log import RoundRecord, VehicleScore
from convoy_server.run_config import (
    KEYS_KEY,
    OUT_KEY,
    OVERWRITE_KEY,
    RESUME_KEY,
    RunConfig,
    run_config_from_json,
)
from convoy_server.run_directory import RunDirectory, create, reopen
from convoy_server.strategy import (
    Canary,
    FleetStrategy,
    check_keys,
    packed_record,
    published_model,
)
from convoy_server.update_state import UpdateState, to_state_table

logger = logging.getLogger(__name__)


def make_server_app(
    observer: RunObserver | None = None,
    on_result: Callable[[FederationResult], None] | None = None,
    canary: Canary | None = None,
) -> ServerApp:
    """A ServerApp that reads what to do from Flower's run configuration.

    Args:
        observer: Watches the run.
        on_result: Called once with what the rounds led to.
        canary: How a global model does on the server's own frames; None: no check.
    """
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        settings = context.run_config
        for key in (RUN_KEY, OUT_KEY):
            if key not in settings:
                raise SettingsError(f"Flower's run configuration: {key!r} is missing")
        result = run_federation(
            grid,
            run_config_from_json(str(settings[RUN_KEY])),
            Path(str(settings[OUT_KEY])),
            resume=bool(settings.get(RESUME_KEY, False)),
            overwrite=bool(settings.get(OVERWRITE_KEY, False)),
            observer=observer,
            keys=_keys(settings.get(KEYS_KEY)),
            refresh_keys=_refresh(settings.get(KEYS_KEY)),
            canary=canary,
        )
        if on_result is not None:
            on_result(result)

    return server_app


def run_federation(
    grid: Grid,
    run: RunConfig,
    out: Path,
    *,
    resume: bool,
    overwrite: bool = False,
    observer: RunObserver | None = None,
    keys: Party | None = None,
    refresh_keys: Callable[[Party], Party] = lambda keys: keys,
    canary: Canary | None = None,
    now: Clock = utc_now,
) -> FederationResult:
    """Run all rounds, or those that are left, and write model.safetensors.

    Args:
        grid: Where the vehicles are.
        run: What to do.
        out: The run directory.
        resume: Go on from the last finished round, if there is one.
        overwrite: Delete the run that the directory holds; not together with `resume`.
        observer: Watches the run.
        keys: The aggregator's; needed for masked and sealed updates.
        refresh_keys: Gives them with the newest list of revocations, before each round.
        canary: How a global model does on the server's own frames; None: no check.
        now: Clock of the audit log.

    Raises:
        UsageError: The directory holds a run already, or another than the one to be resumed.
        JobFailedError: The run could not be finished; says why and what to do.
        RunInterruptedError: Ctrl-C; what is finished is on disk.
    """
    check_keys(keys, run.update.wire_name)
    model_N, schema = initial_model(run)
    directory = _open(out, run, model_N, schema, resume=resume, overwrite=overwrite, now=now)
    strategy = FleetStrategy(
        run,
        schema,
        directory,
        observer or SilentObserver(),
        keys=keys,
        refresh_keys=refresh_keys,
        canary=canary,
    )
    try:
        strategy.start(
            grid,
            packed_record(directory.checkpoint.model_N),
            num_rounds=run.round.rounds,
            timeout=run.round.deadline_s,
        )
        published_N = published_model(directory.checkpoint, run)
        sha256 = directory.publish(published_N, _metadata(run))
        directory.log({"kind": "finished", "round": run.round.rounds, "file_sha256": sha256})
    except KeyboardInterrupt as interrupt:
        # Something may be half written; what is in memory may be behind what is on disk.
        mended = reopen(out, schema, to_table(run), now, because="interrupted")
        raise RunInterruptedError(mended.checkpoint.round if mended else 0) from interrupt
    records = tuple(directory.records())
    return FederationResult(
        model_N=published_N,
        schema=schema,
        records=records,
        per_vehicle=_last_scores(records),
        vehicles=strategy.examples,
        snapshots=directory.checkpoint.snapshots,
        members=directory.checkpoint.members,
    )


def initial_model(run: RunConfig) -> tuple[Float32Vector, ParameterSchema]:
    """The global model before round 1: from the seed, or from the checkpoint named in [training].

    Raises:
        UsageError: The checkpoint does not fit the model.
    """
    model = build_model(run.model, run.data.frame_height, run.data.frame_width, run.seed)
    schema = schema_of(model)
    if run.training.initial_checkpoint is None:
        return flatten(model), schema
    path = Path(run.training.initial_checkpoint)
    model_N, found = load_parameters(path)
    if found != schema:
        raise UsageError(
            f"{path}: has {found.parameter_count} parameters in {len(found.names)} tensors, "
            f"[model] {run.model.name} has {schema.parameter_count} in {len(schema.names)}, "
            "and names and shapes must be the same"
        )
    return model_N, schema


def _open(
    out: Path,
    run: RunConfig,
    model_N: Float32Vector,
    schema: ParameterSchema,
    *,
    resume: bool,
    overwrite: bool,
    now: Clock,
) -> RunDirectory:
    if resume and overwrite:
        raise UsageError("resume and overwrite exclude each other: choose one")
    settings = to_table(run)
    if resume:
        directory = reopen(out, schema, settings, now)
        if directory is not None:
            return directory
        logger.warning("%s: no finished round to resume from; starting at round 1", out)
    first = Checkpoint(
        run_id=secrets.token_hex(8),
        round=0,
        settings=settings,
        model_N=model_N,
        snapshots=(model_N,),
        update_state=to_state_table(UpdateState(clip_norm=run.privacy.clip_norm)),
    )
    return create(out, schema, first, now, overwrite=overwrite)


def _keys(folder: object) -> Party | None:
    return None if folder is None else load_party(Path(str(folder)), datetime.now(UTC))


def _refresh(folder: object) -> Callable[[Party], Party]:
    """Read the list of revocations of a party's folder again; a bad one costs no round."""

    def refresh(keys: Party) -> Party:
        try:
            fresh = with_newest_revocations(keys, Path(str(folder)))
        except FleetFolderError as error:
            logger.warning("%s; this round goes by the list held", error)
            return keys
        if fresh is not keys and fresh.trust.revocations is not None:
            logger.info("list of revocations %d is in force", fresh.trust.revocations.number)
        return fresh

    return refresh


def _metadata(run: RunConfig) -> dict[str, str]:
    """What model.safetensors says about itself; nothing that differs between equal runs."""
    return {
        "convoy.run": run.name,
        "convoy.rounds": str(run.round.rounds),
        "convoy.seed": str(run.seed),
        "convoy.model": json.dumps(to_table(run.model), sort_keys=True),
        "convoy.data": json.dumps(to_table(run.data), sort_keys=True),
    }


def _last_scores(records: tuple[RoundRecord, ...]) -> dict[str, VehicleScore]:
    scores: dict[str, VehicleScore] = {}
    for record in records:
        scores |= record.per_vehicle
    return dict(sorted(scores.items()))


app = make_server_app()
