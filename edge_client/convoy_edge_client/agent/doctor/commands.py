"""The verb `convoy doctor`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

AGENT_TOML = Path("agent.toml")
"""Where `convoy agent` looks for it as well."""


def doctor(
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The agent's; else agent.toml, if it is here."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> int:
    """Say what is wrong with this device, and what to do about it.

    Looks at Python, torch, onnxruntime, power mode, swap, temperature, clock; with an agent.toml also
    at certificate, keys, disk, recordings, the server and whether work may start now. Ends with 1 if
    there is a problem.

    Example:
        convoy doctor --config agent.toml
    """
    from convoy_edge_client.agent.doctor.examination import examine
    from convoy_protos.findings import findings_json, print_findings, problems

    if config is None and AGENT_TOML.exists():
        config = AGENT_TOML
    findings = examine(config)
    if as_json:
        print(findings_json(findings))
    else:
        print_findings(findings, Console())
    return 1 if problems(findings) else 0
