"""The verb `convoy release selftest`."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from convoy_protos.errors import JobFailedError


def release_selftest() -> None:
    """Play every attack on releases and every fault against this installation, and show what became of it.

    Needs neither network nor keys of yours: each case makes its own in a temporary folder.

    Example:
        convoy release selftest
    """
    from rich.console import Console
    from rich.table import Table

    from convoy_simulation.releases.attack_cases import CASES, Scene

    table = Table("case", "expected", "what became of it", "")
    failed = 0
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            got = case.play(Scene(Path(folder), datetime.now(UTC)))
        failed += got != case.expected
        table.add_row(
            case.name,
            ", ".join(case.expected),
            ", ".join(got),
            "as it must" if got == case.expected else "WRONG",
        )
    Console().print(table)
    if failed:
        raise JobFailedError(f"{failed} of {len(CASES)} cases ended otherwise than they must")
    print(f"{len(CASES)} cases, all as they must")
