"""What a check of a machine found: one line a finding, with the way out.

`convoy server --check` and `convoy doctor` say what they find in the same way.
"""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text


class Level(Enum):
    """How bad a finding is; in this order in the list."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: PROBLEM: it will not work; WARNING: it works, for now or badly.
        subject: What was looked at: two or three words.
        message: What was found and, unless all is well, what to do about it; one line.
    """

    level: Level
    subject: str
    message: str


_ONE_LINE: Final = 10_000
"""Columns; no finding has as many letters."""

_MARKS: Final = {
    Level.OK: ("ok", "green"),
    Level.WARNING: ("warning", "yellow"),
    Level.PROBLEM: ("problem", "bold red"),
}


def ok(subject: str, message: str) -> Finding:
    """All is well."""
    return Finding(level=Level.OK, subject=subject, message=message)


def warning(subject: str, message: str) -> Finding:
    """It works, for now or badly."""
    return Finding(level=Level.WARNING, subject=subject, message=message)


def problem(subject: str, message: str) -> Finding:
    """It will not work."""
    return Finding(level=Level.PROBLEM, subject=subject, message=message)


def problems(findings: Iterable[Finding]) -> list[Finding]:
    """Those that must be put right before anything starts."""
    return [finding for finding in findings if finding.level is Level.PROBLEM]


def print_findings(findings: Iterable[Finding], console: Console) -> None:
    """One line a finding, in colour on a terminal; nowhere else is a line folded."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.level]
        table.add_row(Text(mark, style), Text(finding.subject), Text(finding.message))
    if not console.is_terminal:
        console = Console(file=console.file, width=_ONE_LINE)
    console.print(table)


def findings_json(findings: Iterable[Finding]) -> str:
    """A list of {"level", "subject", "message"}, for machines."""
    tables = [dataclasses.asdict(one) | {"level": one.level.value} for one in findings]
    return json.dumps(tables, indent=1)
