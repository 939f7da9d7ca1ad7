"""A run in a few lines, for the end of a command."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convoy_server.printable import printable
from convoy_server.report.contract import Report
from convoy_server.report.html import (
    duration,
    figure,
    int8_share,
    mean_covered,
    percent,
    size,
    troubles,
)


def print_summary(report: Report, console: Console) -> None:
    """Print the main figures as a table; names that come from vehicles are never markup."""
    table = Table(box=box.SIMPLE_HEAD, title=Text(f"{report.scenario}, seed {report.seed}"))
    for head in ("", "the fleet", "one vehicle", "all in one place"):
        table.add_column(head, justify="left" if not head else "right")
    for row in comparison_rows(report):
        table.add_row(*row)
    console.print(table)
    for line in summary_lines(report):
        console.print(Text(line))


def comparison_rows(report: Report) -> list[tuple[str, str, str, str]]:
    """What the fleet reached beside its baselines; only what was measured."""
    rows = []
    if report.final:
        baselines = (report.baselines.single_vehicle, report.baselines.central)
        one, pooled = (percent(b.balanced_accuracy if b else None) for b in baselines)
        rows.append(("balanced accuracy", percent(report.final.balanced_accuracy), one, pooled))
    if report.closed_loop:
        covered = mean_covered(report.closed_loop)
        names = ("federated_int8", "single_vehicle", "central")
        fleet, one, pooled = (percent(covered.get(name)) for name in names)
        rows.append(("track covered (int8)", fleet, one, pooled))
    return rows


def summary_lines(report: Report) -> list[str]:
    """The rest, a line each."""
    lines = []
    if report.final and (worst := report.final.worst_vehicle):
        lines.append(f"worst vehicle  {printable(worst.id)}: {percent(worst.balanced_accuracy)}")
    if found := troubles(report.rounds):
        told = ", ".join(f"{trouble.count} × {trouble.reason}" for trouble in found)  # noqa: RUF001
        lines.append(f"refused, lost  {told}")
    if release := report.release:
        verdict = "accepted" if release.accepted else "REFUSED"
        share = percent(int8_share(release))
        lines.append(
            f"release        {verdict}: int8 {size(release.int8_bytes)}, {share} of float32"
        )
        refusals = release.reasons or [
            f"{gate.name}: {figure(gate.value)}, limit {figure(gate.limit)}"
            for gate in release.gates
            if not gate.passed
        ]
        lines += [f"  because      {refusal}" for refusal in refusals]
    lines.append(f"time           {duration(report.wall_s)}, {len(report.rounds)} rounds")
    return lines
