"""The verb `convoy release selftest`."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from convoy_protos.errors import JobFailedError


def release_selftest() -> None:
    """Play every attack on releases and every fault against this installation, and show what became of it.

    First what happens between a repository and a vehicle, then model files that are not what they seem.
    Needs neither network nor keys of yours: each case makes its own in a temporary folder.

    Example:
        convoy release selftest
    """
    from rich.console import Console
    from rich.table import Table

    from convoy_simulation.releases.attack_cases import CASES, Scene
    from convoy_simulation.releases.model_cases import MODEL_CASES

    table = Table("case", "expected", "what became of it", "")
    failed = 0

    def add(name: str, expected: str, got: str, *, right: bool) -> None:
        nonlocal failed
        failed += not right
        table.add_row(name, expected, got, "as it must" if right else "WRONG")

    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            words = case.play(Scene(Path(folder), datetime.now(UTC)))
        right = words == case.expected
        add(case.name, ", ".join(case.expected), ", ".join(words), right=right)
    table.add_section()
    for model in MODEL_CASES:
        with tempfile.TemporaryDirectory() as folder:
            got = model.play(Path(folder))
        # A bad file may fail more checks than the one that is for it.
        add(f"model: {model.name}", model.expected, got, right=model.expected in got.split("; "))
    Console().print(table)
    total = len(CASES) + len(MODEL_CASES)
    if failed:
        raise JobFailedError(f"{failed} of {total} cases ended otherwise than they must")
    print(f"{total} cases, all as they must")
