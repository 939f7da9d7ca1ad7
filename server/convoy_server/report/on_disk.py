"""The report of a run directory: written at the end, or put together from the rounds so far."""

from collections.abc import Sequence
from pathlib import Path

from convoy_protos.errors import UsageError
from convoy_server import storage
from convoy_server.audit import ROUNDS_FILE
from convoy_server.report import contract
from convoy_server.report.contract import Report
from convoy_server.report.html import render
from convoy_server.round_log import RoundRecord, from_line

REPORT_FILE = "report.json"
PAGE_FILE = "report.html"


def save(report: Report, out: Path) -> Path:
    """Write report.json and report.html; returns the path of the page.

    Raises:
        UsageError: A picture is not where the report says.
        StorageError: The disk refuses.
    """
    storage.write_file(out / REPORT_FILE, contract.to_json(report).encode())
    return save_page(report, out)


def save_page(report: Report, out: Path) -> Path:
    """Write report.html only; returns its path.

    Raises:
        UsageError: A picture is not where the report says.
        StorageError: The disk refuses.
    """
    path = out / PAGE_FILE
    storage.write_file(path, render(report, out).encode())
    return path


def load(out: Path) -> Report:
    """What report.json says; or, while the run goes on or after it was interrupted, its rounds.

    Raises:
        UsageError: There is neither, or one of them cannot be read.
    """
    if not out.is_dir():
        raise UsageError(f"{out}: no such directory; name the --out directory of a run")
    records = read_rounds(out / ROUNDS_FILE)
    path = out / REPORT_FILE
    if path.exists():
        report = contract.read(path)
        if not records or _clocks(records) == _clocks(report.rounds):
            return report
    # Reading a checkpoint imports torch: seconds that a finished run need not wait.
    from convoy_server.report.unfinished import unfinished_report  # noqa: PLC0415

    return unfinished_report(out, records)


def read_rounds(path: Path) -> list[RoundRecord]:
    """The finished rounds; a last line that is being written is left out.

    Raises:
        UsageError: A line is no round.
    """
    if not path.exists():
        return []
    *lines, _ = path.read_text("utf-8").split("\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(from_line(line))
        except UsageError as error:
            raise UsageError(f"{path}:{number}: {error}") from error
    return records


def _clocks(records: Sequence[RoundRecord]) -> list[tuple[int, float]]:
    """Tells rounds of one run from those of another: no two take equally long to the last bit."""
    return [(record.round, record.wall_s) for record in records]
