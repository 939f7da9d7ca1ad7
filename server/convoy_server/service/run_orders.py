"""Runs of the service, as `convoy train` and `convoy runs` order and show them.

A run is a folder below [runs] folder. Orders go through the private door; how far a run is stands in its
folder, so it can be read while the SuperLink is down.
"""

import json
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Final

from convoy_protos.errors import JobFailedError, SettingsError, SuperLinkError, UsageError
from convoy_protos.findings import problems
from convoy_protos.flower_internals import (
    RunOutcome,
    ServerTask,
    run_outcomes,
    start_run,
    stop_run,
)
from convoy_protos.run_bundle import NAME_KEY, RUN_KEY, build_run_bundle, read_run_bundle
from convoy_protos.settings import from_table
from convoy_server.audit import ROUNDS_FILE
from convoy_server.round_log import RoundRecord, from_line
from convoy_server.run_config import RunConfig, run_config_to_json
from convoy_server.service.run_names import check_run_name
from convoy_server.service.run_queue import (
    dequeue,
    enqueue,
    queued_runs,
    submitted,
    waiting_as,
)
from convoy_server.service.server_check import check_disk
from convoy_server.service.server_config import ServerConfig
from convoy_server.service.status_file import (
    STATUS_FILE,
    STOPPED_BY_OPERATOR,
    end_status,
    read_status,
    status_line,
)
from convoy_server.service.task_file import load_task

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
        JobFailedError: There is less room on the disk than [runs] keep_free_mb.
        SuperLinkError: The service is not up.
    """
    run, left_out = read_run(scenario)
    name = check_run_name(name or f"{run.name}-{now:%Y%m%d-%H%M%S}")
    out = config.runs_folder / name
    if full := problems(check_disk(config)):
        raise JobFailedError(full[0].message)
    bundle = build_run_bundle({RUN_KEY: run_config_to_json(run), NAME_KEY: name})
    enqueue(out, bundle)
    try:
        run_id = start_run(config.private_door.address, bundle)
    except SuperLinkError:
        dequeue(out)
        raise
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
    outcome, reachable = None, True
    while True:
        status = read_status(order.out)
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
        try:
            outcome = newest_outcome(run_outcomes(config.private_door.address), order.run_id)
            reachable = True
        except SuperLinkError as error:
            if reachable:
                say(f"{error}; the run goes on once it is back")
            outcome, reachable = None, False
        if not worked_on and outcome is not None and outcome.end in ("failed", "stopped"):
            raise JobFailedError(f"{order.name}: {outcome.end}: {outcome.details}")
        now = (status.phase, status.round) if status is not None else ("", 0)
        if now != phase:
            phase, phase_s, told = now, time.monotonic(), False
        elif not told and time.monotonic() - phase_s > PATIENCE_S:
            told = True
            if status is not None and status.waiting.wanted:
                say(status_line(status))
        time.sleep(POLL_S)


def runs(config: ServerConfig) -> Iterator[str]:
    """One line a run, oldest first."""
    folders = [path for path in config.runs_folder.glob("*") if (path / STATUS_FILE).exists()]
    for folder in sorted(folders, key=lambda path: (path / STATUS_FILE).stat().st_mtime):
        status = read_status(folder)
        if status is not None:
            how_far = f"round {status.round} of {status.rounds}" if status.rounds else ""
            yield "  ".join(filter(None, (folder.name, status.state, how_far, status.why)))


def describe_run(config: ServerConfig, name: str) -> Iterator[str]:
    """A run, round by round, and what it waits for.

    Raises:
        UsageError: There is none of that name.
    """
    out = config.runs_folder / check_run_name(name)
    status = read_status(out)
    if status is None:
        raise UsageError(f"{out}: no run of that name; `convoy runs list` shows all")
    for record in _records(out):
        yield _round_line(record)
    yield status_line(status)


def stop(config: ServerConfig, name: str) -> None:
    """End a run, or take it out of the queue.

    Raises:
        UsageError: It neither runs nor waits.
        SuperLinkError: The service is not up.
    """
    out = config.runs_folder / check_run_name(name)
    address = config.private_door.address
    task = _task_of(config, name)
    if task is not None:
        stop_run(address, task.run_id)
        return
    if out not in dict(queued_runs(config.runs_folder)):
        raise UsageError(f"{name}: does not run; `convoy runs list` shows what does")
    for run_id in waiting_as(submitted(out), run_outcomes(address)):
        stop_run(address, run_id)
    end_status(out, "stopped", STOPPED_BY_OPERATOR)


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
