"""Runs of the service, as `convoy train` and `convoy runs` order and show them.

A run is a folder below [runs] folder. Orders go through the private door; how far a run is stands in its
folder, so it can be read while the SuperLink is down.
"""

import json
import logging
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Final

from convoy_protos.errors import JobFailedError, SettingsError, SuperLinkError, UsageError
from convoy_protos.flower_internals import (
    RunOutcome,
    ServerTask,
    run_outcomes,
    start_run,
    stop_run,
)
from convoy_protos.run_bundle import build_run_bundle, read_run_bundle
from convoy_protos.settings import from_table
from convoy_server.audit import ROUNDS_FILE
from convoy_server.round_log import RoundRecord, from_line
from convoy_server.run_config import RUN_KEY, RunConfig, run_config_to_json
from convoy_server.service.run_names import NAME_KEY, check_run_name
from convoy_server.service.server_config import ServerConfig
from convoy_server.service.status_file import STATUS_FILE, Status, read_status
from convoy_server.service.task_file import load_task

logger = logging.getLogger(__name__)

SIMULATION_TABLES: Final = frozenset({"fleet", "baselines", "closed_loop", "network", "faults"})
POLL_S: Final = 0.5
PATIENCE_S: Final = 10.0
"""After so long in one phase of a round, whoever follows it is told what it waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOrder:
    """A run that was submitted.

    Attributes:
        name: Its folder.
        run_id: Flower's.
        out: Its run directory.
        left_out: Tables of the scenario that only simulations know.
    """

    name: str
    run_id: int
    out: Path
    left_out: tuple[str, ...]


def submit(config: ServerConfig, scenario: Path, name: str, now: datetime) -> RunOrder:
    """Have a scenario's run trained by the fleet.

    Args:
        config: Of the service.
        scenario: TOML, as for `convoy simulate`; what concerns the simulated fleet is left out.
        name: Folder of the run; empty: the scenario's name and the time.
        now: With a time zone.

    Raises:
        UsageError: The scenario or the name cannot be used, or a run has that name.
        SuperLinkError: The service is not up.
    """
    run, left_out = read_run(scenario)
    name = check_run_name(name or f"{run.name}-{now:%Y%m%d-%H%M%S}")
    out = config.runs_folder / name
    if out.exists():
        raise UsageError(f"{out}: there is a run of that name; choose another with --name")
    bundle = build_run_bundle({RUN_KEY: run_config_to_json(run), NAME_KEY: name})
    run_id = start_run(_private(config), bundle)
    return RunOrder(name=name, run_id=run_id, out=out, left_out=left_out)


def read_run(scenario: Path) -> tuple[RunConfig, tuple[str, ...]]:
    """The run in a scenario, and the tables that a real fleet has no use for.

    Raises:
        UsageError: The file cannot be read; or a SettingsError that names the key.
    """
    try:
        table = tomllib.loads(scenario.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{scenario}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{scenario}: no valid TOML: {error}") from error
    left_out = tuple(sorted(SIMULATION_TABLES & set(table)))
    kept = {key: value for key, value in table.items() if key not in SIMULATION_TABLES}
    known = {field.name for field in fields(RunConfig)}
    if unknown := sorted(set(kept) - known):
        raise SettingsError(f"{scenario}: unknown key {unknown[0]!r}")
    kept.setdefault("name", scenario.stem)
    return from_table(RunConfig, kept, str(scenario)), left_out


def follow(config: ServerConfig, order: RunOrder, say: Callable[[str], None]) -> None:
    """Print a line a round until the run has ended.

    Raises:
        JobFailedError: It failed or was stopped; says why.
    """
    shown, phase, phase_s, told = 0, ("", 0), time.monotonic(), False
    while True:
        status = _status(order.out)
        for record in _records(order.out)[shown:]:
            say(_round_line(record))
            shown += 1
        if status is not None and status.state == "finished":
            say(f"{order.name}: done, {order.out}")
            return
        if status is not None and status.state in ("failed", "stopped"):
            raise JobFailedError(f"{order.name}: {status.state}: {status.why}")
        # Asked in this order: the executor forgets a task after it has submitted the run again.
        worked_on = _task_of(config, order.name) is not None
        outcome = _outcome(config, order.run_id)
        if not worked_on and outcome is not None and outcome.end in ("failed", "stopped"):
            raise JobFailedError(f"{order.name}: {outcome.end}: {outcome.details}")
        now = (status.phase, status.round) if status is not None else ("", 0)
        if now != phase:
            phase, phase_s, told = now, time.monotonic(), False
        elif not told and time.monotonic() - phase_s > PATIENCE_S:
            told = True
            if waits := _waits_for(status):
                say(waits)
        time.sleep(POLL_S)


def runs(config: ServerConfig) -> Iterator[str]:
    """One line a run, oldest first."""
    folders = [path for path in config.runs_folder.glob("*") if (path / STATUS_FILE).exists()]
    for folder in sorted(folders, key=lambda path: (path / STATUS_FILE).stat().st_mtime):
        status = _status(folder)
        if status is not None:
            yield f"{folder.name}  {status.state}  round {status.round} of {status.rounds}  {status.why}"


def describe_run(config: ServerConfig, name: str) -> Iterator[str]:
    """A run, round by round, and what it waits for.

    Raises:
        UsageError: There is none of that name.
    """
    out = config.runs_folder / check_run_name(name)
    status = _status(out)
    if status is None:
        raise UsageError(f"{out}: no run of that name; `convoy runs list` shows all")
    for record in _records(out):
        yield _round_line(record)
    yield f"{name}: {status.state} {status.why}".rstrip()
    if waits := _waits_for(status):
        yield waits


def stop(config: ServerConfig, name: str) -> None:
    """End a run.

    Raises:
        UsageError: It does not run.
        SuperLinkError: The service is not up.
    """
    check_run_name(name)
    task = _task_of(config, name)
    if task is None:
        raise UsageError(f"{name}: does not run; `convoy runs list` shows what does")
    stop_run(_private(config), task.run_id)


def newest_outcome(outcomes: Mapping[int, RunOutcome], run_id: int) -> RunOutcome | None:
    """Of a run, or of the one as which it goes on; one that is not over comes before those that are.

    None: the SuperLink does not know it.
    """
    asked = outcomes.get(run_id)
    if asked is None:
        return None
    same = [one for one in outcomes.values() if one.bundle_sha256 == asked.bundle_sha256]
    return next((one for one in same if one.status != "finished"), None) or next(
        (one for one in same if one.end == "completed"), asked
    )


def _task_of(config: ServerConfig, name: str) -> ServerTask | None:
    """What the executor works on, if it is the run of that name."""
    running = load_task(config.state_folder)
    if running is None or read_run_bundle(running.bundle).get(NAME_KEY) != name:
        return None
    return running.task


def _outcome(config: ServerConfig, run_id: int) -> RunOutcome | None:
    try:
        return newest_outcome(run_outcomes(_private(config)), run_id)
    except SuperLinkError as error:
        logger.warning("%s", error)
        return None


def _status(out: Path) -> Status | None:
    path = out / STATUS_FILE
    return read_status(out) if path.exists() else None


def _records(out: Path) -> list[RoundRecord]:
    path = out / ROUNDS_FILE
    if not path.exists():
        return []
    lines = path.read_text("utf-8").splitlines(keepends=True)
    return [from_line(line) for line in lines if line.endswith("\n")]


def _round_line(record: RoundRecord) -> str:
    scored = record.balanced_accuracy
    return (
        f"round {record.round}: {record.outcome}, {record.completed}/{record.invited} updates, "
        f"{record.lost} lost"
        + (f", refused {json.dumps(dict(record.rejected))}" if record.rejected else "")
        + (f", loss {record.train_loss:.3f}" if record.train_loss is not None else "")
        + (f", balanced accuracy {scored:.1%}" if scored is not None else "")
        + f", {record.wall_s:.1f} s"
        + (f" ({record.abandoned_because})" if record.abandoned_because else "")
    )


def _waits_for(status: Status | None) -> str:
    if status is None or not status.waiting.wanted:
        return ""
    waiting = status.waiting
    until = f", until {waiting.until}" if waiting.until else ""
    missing = f", missing {', '.join(waiting.missing)}" if waiting.missing else ""
    return (
        f"round {status.round}, {status.phase}: waits for vehicles, {waiting.answered} of "
        f"{waiting.wanted} there, {waiting.quorum} needed{until}{missing}"
    )


def _private(config: ServerConfig) -> str:
    return f"{config.private_door.host}:{config.private_door.port}"
