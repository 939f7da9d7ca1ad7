"""The verbs of a device: `convoy agent`, and `convoy agent join` to become a member of a fleet."""

import logging
import signal
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from convoy_protos.errors import JobFailedError, UsageError


def agent(
    config: Annotated[Path, typer.Option(metavar="FILE", help="The agent's.")] = Path("agent.toml"),
    once: Annotated[
        bool, typer.Option("--once", help="End when there is no more work, for a trial.")
    ] = False,
    patience: Annotated[
        float, typer.Option(metavar="S", help="With --once: how long to wait for work.")
    ] = 30.0,
) -> None:
    """Train for the fleet whenever this device may, until it is told to stop.

    Example:
        convoy agent --config /etc/convoy/agent.toml
    """
    from convoy_edge_client.agent.agent_config import load_agent_config
    from convoy_edge_client.agent.resident import run_agent

    root = logging.getLogger()  # whose handler the command line has set up
    root.setLevel(min(root.level, logging.INFO))
    read = load_agent_config(config)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    answered = run_agent(read, stop, once_s=patience if once else 0.0)
    print(
        f"{read.vehicle.vehicle_id}: {answered} messages answered" if answered else "nothing waited"
    )


def agent_join(
    token: Annotated[str, typer.Argument(help="The line that `convoy fleet enroll` printed.")],
    config: Annotated[
        Path, typer.Option(metavar="FILE", help="The agent's; written if it is not there.")
    ] = Path("agent.toml"),
    recordings: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="What it may train on, for a new agent.toml."),
    ] = None,
    no_wait: Annotated[
        bool,
        typer.Option("--no-wait", help="End with 1 if the CA has yet to sign; call again later."),
    ] = False,
) -> None:
    """Make this device's keys, have them signed, and learn whom to trust.

    The keys never leave the device. Call it again with the same token if it was cut off.

    Example:
        convoy agent join convoy-join-1.CiR3... --recordings /data/tubs
    """
    from convoy_edge_client.agent.agent_config import (
        IDENTITY_FOLDER,
        NODE_KEY,
        ROOT_CERTIFICATES,
        load_agent_config,
    )
    from convoy_edge_client.agent.enrolment_client import enrolment_client
    from convoy_edge_client.agent.joining import Joined, JoinPlaces, first_agent_toml, join
    from convoy_privacy import key_files
    from convoy_protos.enrolment_token import read_token

    read = read_token(token)
    advice = ""
    if config.exists():
        agent = load_agent_config(config)
        if agent.vehicle.vehicle_id != read.name:
            raise UsageError(
                f"{config}: vehicle_id is {agent.vehicle.vehicle_id!r}, but the token is for "
                f"{read.name!r}: make them the same"
            )
        places = JoinPlaces(
            identity=agent.identity_path,
            node_key=agent.node_key_path,
            root_certificates=agent.root_certificates_path,
        )
        if (agent.server.address, agent.server.services) != (
            read.fleet_address,
            read.services_address,
        ):
            advice = (
                f"\n{config} is yours and stays as it is; put into its [server]: "
                f'address = "{read.fleet_address}" and services = "{read.services_address}"'
            )
    else:
        state = config.parent / "state"
        places = JoinPlaces(
            identity=state / IDENTITY_FOLDER,
            node_key=state / NODE_KEY,
            root_certificates=state / ROOT_CERTIFICATES,
        )
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with enrolment_client(read.services_address, read.tls_ca) as client:
            outcome = join(
                read,
                places,
                client.join,
                datetime.now(UTC),
                wait=not no_wait,
                on_pending=lambda: print(
                    "asked; somebody must run `convoy fleet sign` where the CA's key is", flush=True
                ),
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("not a member yet; the same command goes on") from None
    if outcome is Joined.PENDING:
        raise JobFailedError(f"{read.name} waits for the CA; the same command goes on")
    if not config.exists():
        text = first_agent_toml(read, recordings or ["recordings"])
        key_files.write_file(config, text.encode())
    print(f"{places.identity}: {read.name} {outcome.value}; start `convoy agent`{advice}")
