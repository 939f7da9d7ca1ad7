"""`convoy agent`: stay resident, ask for work, answer, and lose nothing.

    receive -> inbox -> answer -> outbox -> send

Each arrow is a step that is on disk before the next begins; a start after a power cut goes on at the last
one. Training happens in this process, with model, recordings and keys warm; torch is imported at the first
message, so that an idle agent stays small.
"""

import fcntl
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from flwr.clientapp import ClientApp

from convoy_edge_client.agent.agent_config import AgentConfig
from convoy_edge_client.agent.answering import Answering
from convoy_edge_client.agent.fleet_link import FleetLink
from convoy_edge_client.agent.link_pace import poll_pause_s
from convoy_edge_client.agent.parcels import Shelf
from convoy_edge_client.agent.probes import Probes
from convoy_edge_client.agent.renewal import renew_if_due
from convoy_edge_client.agent.run_states import RunStates
from convoy_edge_client.agent.traffic import TrafficLedger
from convoy_edge_client.agent.watch import Guard
from convoy_edge_client.errors import AgentRunningError, AgentStoppedError
from convoy_edge_client.vehicle_config import save_vehicle_config
from convoy_privacy.key_files import read_file
from convoy_protos.errors import ConvoyError, UsageError
from convoy_protos.flower_internals import FleetConnection, set_chunk_bytes

logger = logging.getLogger(__name__)

VEHICLE_FILE: Final = "vehicle.json"
_TIDY_EVERY_S: Final = 60.0
_RENEW_EVERY_S: Final = 24 * 3600.0


class Resident:
    """The loop."""

    def __init__(
        self, link: FleetLink, answering: Answering, state: Path, stop: threading.Event
    ) -> None:
        self._link = link
        self._answering = answering
        self._inbox = Shelf(state / "inbox")
        self._outbox = Shelf(state / "outbox")
        self._stop = stop

    def step(self) -> bool:
        """Do the next thing there is to do; False: there is nothing.

        Raises:
            AgentStoppedError: Asked to stop.
        """
        if (answer := self._outbox.get()) is not None:
            self._link.send(answer)
            self._outbox.clear()
            return True
        message = self._inbox.get()
        if message is None:
            message = self._link.receive()
            if message is None:
                return False
            self._inbox.put(message)
            self._link.confirm(message)
        begin_s = time.monotonic()
        answer = self._answering.answer(message, self._link.node_id)
        self._outbox.put(answer)
        self._inbox.clear()
        self._link.send(answer, time.monotonic() - begin_s)
        self._outbox.clear()
        return True


def run_agent(config: AgentConfig, stop: threading.Event, *, once_s: float = 0.0) -> int:
    """Run until asked to stop.

    Args:
        config: agent.toml.
        stop: Set from outside.
        once_s: End once there was work and then none for so long; 0: never.

    Returns:
        How many messages were answered.

    Raises:
        AgentRunningError: Another agent uses the state folder.
        UsageError: The device has not joined a fleet.
    """
    if not config.server.address:
        raise UsageError(
            "[server] address is not set: `convoy agent join TOKEN` fills it in, or name the fleet door"
        )
    state = config.state_path
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(state / "agent.lock"), _counted(state / "traffic.json") as ledger:
        set_chunk_bytes(config.link.largest_chunk_bytes)
        vehicle_file = state / VEHICLE_FILE
        save_vehicle_config(config.vehicle, vehicle_file)
        states = RunStates(state / "runs")
        guard = Guard(config, Probes(config).read, ledger.megabytes)
        connection = FleetConnection(
            config.server.address,
            read_file(config.root_certificates_path),
            read_file(config.node_key_path, private=True),
            ledger.add,
        )
        link = FleetLink(connection, stop)
        answering = Answering(
            make_app=lambda: _make_app(config, guard),
            vehicle_file=str(vehicle_file),
            work=config.work,
            verdict=guard.verdict,
            states=states,
            fetch_bundle=link.run_bundle,
        )
        resident = Resident(link, answering, state, stop)
        chores = _Chores(config, states, ledger)
        try:
            chores.do()
            link.open()
            return _loop(resident, config, stop, chores, once_s)
        except AgentStoppedError:
            return 0
        finally:
            link.close()


def _loop(
    resident: Resident, config: AgentConfig, stop: threading.Event, chores: "_Chores", once_s: float
) -> int:
    answered, last_s = 0, time.monotonic()
    while not stop.is_set():
        if resident.step():
            answered, last_s = answered + 1, time.monotonic()
            continue
        idle_s = time.monotonic() - last_s
        if once_s and idle_s > once_s:
            break
        chores.do()
        stop.wait(poll_pause_s(idle_s, config.link.slowest_poll_s, random.random()))  # noqa: S311
    return answered


class _Chores:
    """What is done between messages, now and then; a chore that fails is logged and tried again."""

    def __init__(self, config: AgentConfig, states: RunStates, ledger: TrafficLedger) -> None:
        self._due_s = dict.fromkeys(("tidy", "renew"), 0.0)
        self._config = config
        self._states = states
        self._ledger = ledger

    def do(self) -> None:
        """Whatever is due."""
        self._do("tidy", _TIDY_EVERY_S, self._tidy)
        self._do("renew", _RENEW_EVERY_S, self._renew)

    def _do(self, name: str, every_s: float, chore: Callable[[], None]) -> None:
        now_s = time.monotonic()
        if now_s < self._due_s[name]:
            return
        self._due_s[name] = now_s + every_s
        try:
            chore()
        except (ConvoyError, OSError) as error:
            logger.warning("%s: %s", name, error)

    def _tidy(self) -> None:
        self._states.forget_old()
        self._ledger.save()

    def _renew(self) -> None:
        outcome = renew_if_due(self._config, datetime.now(UTC))
        logger.info("certificate: %s", outcome.value)


def _make_app(config: AgentConfig, guard: Guard) -> ClientApp:
    # torch comes with these, some 250 MB.
    from convoy_edge_client.agent.paused_training import (  # noqa: PLC0415
        PausedTraining,
        TrainingShelf,
    )
    from convoy_edge_client.app import make_client_app  # noqa: PLC0415

    shelf = TrainingShelf(config.training_path)
    return make_client_app(breaks=PausedTraining(guard, shelf, config.guards.check_every_s))


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AgentRunningError(f"{lock.parent}: another agent uses this folder") from error
        yield


@contextmanager
def _counted(path: Path) -> Iterator[TrafficLedger]:
    ledger = TrafficLedger(path)
    try:
        yield ledger
    finally:
        ledger.save()
