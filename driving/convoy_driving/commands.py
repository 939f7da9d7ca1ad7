"""The verb `convoy data check`. Needs neither torch nor Flower: it runs on a vehicle as well."""

import json
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from convoy_driving.data_config import DataConfig
from convoy_driving.recording_check import RecordingCheck, check_recording
from convoy_driving.recordings.reader import RecordingRef, find_recordings
from convoy_protos.errors import SettingsError
from convoy_protos.settings import from_table

PIPED_WIDTH = 160
"""Columns of the table where there is no terminal that has a width."""


def data_check(
    paths: Annotated[
        list[Path], typer.Argument(help="Recordings, or folders of recordings.", metavar="PATH...")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
    settings: Annotated[
        Path | None,
        typer.Option(help="TOML file whose [data] table says how to read, e.g. a scenario."),
    ] = None,
) -> None:
    """Say what is in recordings: frames usable and skipped with the reason, laps, classes, rate.

    Reads Donkeycar tubs, driving-log CSV and ROS 2 bags, and decodes every picture once. A frame
    of any driving mode counts; to learn from the human alone set modes = ["user"] under [data].

    Example:
        convoy data check recordings/car0 recordings/car1 --json
    """
    refs = find_recordings(paths)
    config = data_config_from(settings)
    checks = check_all(refs, config, Console(stderr=True))
    if as_json:
        print(json.dumps({"recordings": [check.contract() for check in checks]}, indent=2))
        return
    console = Console() if sys.stdout.isatty() else Console(width=PIPED_WIDTH)
    console.print(check_table(checks))
    for note in notes(checks):
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def data_config_from(settings: Path | None) -> DataConfig:
    """The [data] table of a TOML file; the defaults without one.

    Raises:
        SettingsError: The file cannot be read, is not TOML, or a key is wrong.
    """
    if settings is None:
        return DataConfig()
    try:
        table = tomllib.loads(settings.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{settings}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{settings}: not valid TOML ({error})") from error
    return from_table(DataConfig, table.get("data", {}), f"{settings} [data]")


def check_all(
    refs: Sequence[RecordingRef], config: DataConfig, console: Console
) -> list[RecordingCheck]:
    """Check one recording after the other: live progress on a terminal, plain lines elsewhere."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    checks: list[RecordingCheck] = []
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=None)
        for number, ref in enumerate(refs, start=1):
            head = f"{number}/{len(refs)} {ref.vehicle_id}"

            def show(frames: int, head: str = head) -> None:
                bar.update(task, description=f"{head}: {frames} frames")

            check = check_recording(ref, config, show)
            checks.append(check)
            if not console.is_terminal:
                console.print(f"{head}: {check.frames_usable} usable frames", highlight=False)
    return checks


def check_table(checks: Sequence[RecordingCheck]) -> Table:
    """One row a recording and, for a fleet, their sum."""
    table = Table(title="Recordings", show_footer=len(checks) > 1)
    total = sum(check.frames_usable for check in checks)
    table.add_column("vehicle", footer=f"{len(checks)} vehicles", overflow="fold")
    table.add_column("usable", justify="right", footer=f"{total}")
    table.add_column("skipped", overflow="fold")
    table.add_column("laps", justify="right", footer=f"{sum(check.laps for check in checks)}")
    for name in ("left", "straight", "right"):
        table.add_column(name, justify="right")
    table.add_column("rate", justify="right")
    table.add_column("picture", justify="right")
    for check in checks:
        skipped = ", ".join(
            f"{count} {reason.replace('_', ' ')}" for reason, count in check.skipped.items()
        )
        table.add_row(
            check.vehicle,
            str(check.frames_usable),
            skipped or "-",
            str(check.laps),
            *(f"{share:.0%}" if check.frames_usable else "-" for share in check.class_shares),
            "-" if check.rate_hz is None else f"{check.rate_hz:g} Hz",
            "x".join(map(str, check.resolution)) if check.frames_usable else "-",
        )
    return table


def notes(checks: Sequence[RecordingCheck]) -> list[str]:
    """What a person should know before training on these recordings."""
    found: list[str] = []
    for check in checks:
        if not check.frames_usable:
            found.append(f"{check.vehicle}: nothing to learn from; leave it out ({check.path})")
            continue
        absent = [
            name
            for name, share in zip(("left", "straight", "right"), check.class_shares, strict=True)
            if share == 0
        ]
        for mode, frames in check.other_modes.items():
            found.append(
                f"{check.vehicle}: {frames} usable frames were driven in mode {mode}, not by a "
                f'person; modes = ["user"] under [data] leaves them out ({check.path})'
            )
        if absent:
            found.append(f"{check.vehicle}: never steers {' or '.join(absent)} ({check.path})")
    return found
