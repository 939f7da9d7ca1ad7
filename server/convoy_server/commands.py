"""The verbs that need a finished or interrupted run only."""

import os
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from convoy_privacy.fleet_authority import CERTIFICATE_DAYS
from convoy_protos.errors import JobFailedError, UsageError
from convoy_server.audit import AUDIT_FILE, verify_audit
from convoy_server.errors import BrokenAuditError
from convoy_server.report import on_disk

RunArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="The run directory: what --out named.")
]

ServerConfigOption = Annotated[Path, typer.Option(metavar="FILE", help="The server's.")]


class _EnrolledRole(Enum):
    """Who joins with a token."""

    VEHICLE = "vehicle"
    HELPER = "helper"


def report(directory: RunArgument) -> None:
    """Make report.html of a run, also of one that goes on or was interrupted.

    The page needs nothing beside it: mail it, or open it without a network.

    Example:
        convoy report runs/demo
    """
    found = on_disk.load(directory)
    page = on_disk.save_page(found, directory)
    state = "" if found.complete else f" ({len(found.rounds)} rounds so far: not finished)"
    print(f"{page}{state}")


def audit_verify(directory: RunArgument) -> None:
    """Check that nobody edited the log of a run.

    Every line of audit.jsonl holds the hash of the one before, and that of its round in
    rounds.jsonl; the last one that of model.safetensors. What was changed is named.

    Example:
        convoy audit verify runs/demo
    """
    path = directory / AUDIT_FILE
    if not path.exists():
        raise UsageError(f"{path}: no such file; name the --out directory of a run")
    try:
        events = verify_audit(directory)
    except BrokenAuditError as error:
        raise JobFailedError(str(error)) from error
    print(f"{path}: {events} events, none edited")


def fleet_enroll(
    name: Annotated[str, typer.Argument(help="Of the device; unique in the fleet.")],
    config: ServerConfigOption = Path("server.toml"),
    role: Annotated[_EnrolledRole, typer.Option(help="What it may be.")] = _EnrolledRole.VEHICLE,
    valid_hours: Annotated[
        int, typer.Option(min=1, max=720, help="How long the token may be used.")
    ] = 24,
) -> None:
    """Make a one-time token with which one device joins the fleet.

    Bring the line to the device by a way you trust: whoever has it first is that device. The server
    keeps only a hash of its secret.

    Example:
        convoy fleet enroll car-07 --config server.toml
    """
    from convoy_privacy.certificates import Role
    from convoy_protos.enrolment_token import write_token
    from convoy_server.service.enrolment_token_office import new_token
    from convoy_server.service.server_config import load_server_config

    now = datetime.now(UTC)
    token = new_token(
        load_server_config(config),
        name,
        Role(role.value),
        now,
        valid_hours=valid_hours,
        random=os.urandom,
    )
    print(write_token(token))
    until = f"{now + timedelta(hours=valid_hours):%Y-%m-%d %H:%M} UTC"
    typer.echo(f"{role.value} {name}: `convoy agent join` takes this line until {until}", err=True)


def fleet_sign(
    fleet: Annotated[
        Path, typer.Option(metavar="DIR", help="The CA's folder, as `convoy fleet init` made it.")
    ],
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="server.toml, if the CA is on the server.")
    ] = None,
    requests: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A copy of the server's STATE/enrolments; copy it back."),
    ] = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Sign all without asking.")] = False,
    days: Annotated[
        int, typer.Option(min=1, max=3650, help="How long certificates last.")
    ] = CERTIFICATE_DAYS,
    passphrase_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its first line opens ca.key.")
    ] = None,
) -> None:
    """Have the CA sign what waits: devices that used a token, and certificates to be renewed.

    That a device had a token is the server's word: look at the names before you sign.

    Example:
        convoy fleet sign --fleet my-fleet --requests enrolments
    """
    from convoy_privacy.key_files import read_passphrase
    from convoy_server.service.enrolment_signing import describe, sign, waiting
    from convoy_server.service.enrolment_store import ENROLMENTS_FOLDER, EnrolmentStore
    from convoy_server.service.server_config import load_server_config

    if (config is None) == (requests is None):
        raise UsageError("name either --config FILE or --requests DIR")
    folder = requests or load_server_config(config or Path()).state_folder / ENROLMENTS_FOLDER
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; nobody was enrolled on this server yet")
    store = EnrolmentStore(folder)
    wanted = waiting(store)
    for one in wanted:
        print(describe(one))
    if not wanted:
        print("nothing waits")
        return
    if not yes and not typer.confirm(f"sign these {len(wanted)}?", err=True):
        raise JobFailedError("nothing was signed")
    passphrase = None if passphrase_file is None else read_passphrase(passphrase_file)
    outcomes = sign(store, fleet, wanted, datetime.now(UTC), days=days, passphrase=passphrase)
    for outcome in outcomes:
        print(f"{outcome.what}: {outcome.refusal or 'signed'}")
    refused = sum(1 for outcome in outcomes if outcome.refusal)
    if refused:
        raise JobFailedError(f"{refused} of {len(outcomes)} were not signed")


ServerToml = Annotated[Path, typer.Option(metavar="FILE", help="The service's server.toml.")]


def server(
    config: ServerToml = Path("server.toml"),
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Look at everything, start nothing.")
    ] = False,
) -> None:
    """Run the cloud service: vehicles connect, runs are taken on, everything comes back.

    Example:
        convoy server --config /etc/convoy/server.toml
    """
    if check:
        from rich.console import Console

        from convoy_protos.findings import print_findings, problems
        from convoy_server.service.server_check import check_server
        from convoy_server.service.server_config import load_server_config

        findings = check_server(load_server_config(config))
        print_findings(findings, Console())
        if problems(findings):
            raise JobFailedError(f"{config}: {len(problems(findings))} to mend")
        return
    from convoy_server.service.supervisor import run_service

    run_service(config)


def train(
    scenario: Annotated[Path, typer.Option(metavar="FILE", help="What to train: a scenario.")],
    config: ServerToml = Path("server.toml"),
    name: Annotated[str, typer.Option(help="Folder of the run; default: scenario and time.")] = "",
    *,
    detach: Annotated[bool, typer.Option("--detach", help="Do not follow the run.")] = False,
) -> None:
    """Have the fleet train: submit a run through the private door and follow it.

    Example:
        convoy train --scenario mine.toml --name monday
    """
    from convoy_server.service.run_orders import follow, submit
    from convoy_server.service.server_config import load_server_config

    read = load_server_config(config)
    order = submit(read, scenario, name, datetime.now(UTC))
    for table in order.left_out:
        print(f"{scenario}: [{table}] is for simulations and was left out")
    print(f"{order.name}: run {order.run_id}, {order.out}")
    if not detach:
        follow(read, order, print)


def runs_list(config: ServerToml = Path("server.toml")) -> None:
    """The runs of this service and how far each is.

    Example:
        convoy runs list
    """
    from convoy_server.service.run_orders import runs
    from convoy_server.service.server_config import load_server_config

    for line in runs(load_server_config(config)):
        print(line)


def runs_show(
    name: Annotated[str, typer.Argument(help="Folder of the run.")],
    config: ServerToml = Path("server.toml"),
) -> None:
    """One run, round by round, and what it waits for.

    Example:
        convoy runs show monday
    """
    from convoy_server.service.run_orders import describe_run
    from convoy_server.service.server_config import load_server_config

    for line in describe_run(load_server_config(config), name):
        print(line)


def runs_stop(
    name: Annotated[str, typer.Argument(help="Folder of the run.")],
    config: ServerToml = Path("server.toml"),
) -> None:
    """End a run; what it has finished stays.

    Example:
        convoy runs stop monday
    """
    from convoy_server.service.run_orders import stop
    from convoy_server.service.server_config import load_server_config

    stop(load_server_config(config), name)
    print(f"{name}: told to stop")
