"""`convoy agent`: stay resident, ask for work, answer, and lose nothing.

    announcement -> inbox -> objects -> inbox -> answer -> outbox -> send

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
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flwr.clientapp import ClientApp

from convoy_edge_client.agent.agent_config import AgentConfig
from convoy_edge_client.agent.answering import Answering
from convoy_edge_client.agent.calls import Calls
from convoy_edge_client.agent.fleet_link import FleetLink
from convoy_edge_client.agent.link_pace import BackOff, pause_s
from convoy_edge_client.agent.parcels import Parcel, Shelf
from convoy_edge_client.agent.probes import Probes
from convoy_edge_client.agent.renewal import renew_if_due
from convoy_edge_client.agent.run_states import RunStates
from convoy_edge_client.agent.state_files import keep
from convoy_edge_client.agent.traffic import TrafficLedger
from convoy_edge_client.agent.upload import UploadRecord
from convoy_edge_client.agent.watch import Guard
from convoy_edge_client.errors import AgentRunningError, AgentStoppedError, StaleMessageError
from convoy_edge_client.vehicle_config import save_vehicle_config
from convoy_privacy.errors import FleetFolderError
from convoy_privacy.key_files import read_file
from convoy_protos.errors import (
    ConvoyError,
    LinkRefusedError,
    MalformedMessageError,
    NodeUnknownError,
    UsageError,
)
from convoy_protos.flower_internals import FleetConnection

if TYPE_CHECKING:
    from convoy_edge_client.updates.updating import Updating

logger = logging.getLogger(__name__)

VEHICLE_FILE: Final = "vehicle.json"
NODE_ID_FILE: Final = "node.id"
_TIDY_EVERY_S: Final = 60.0
_RENEW_EVERY_S: Final = 24 * 3600.0


class Resident:
    """The loop."""

    def __init__(self, link: FleetLink, answering: Answering, state: Path) -> None:
        self._link = link
        self._answering = answering
        self._inbox = Shelf(state / "inbox")
        self._outbox = Shelf(state / "outbox")
        self._record = UploadRecord(state / "outbox.sent")

    @property
    def holds_work(self) -> bool:
        """Whether a message waits for its answer, or an answer for the link."""
        return self._inbox.get() is not None or self._outbox.get() is not None

    def step(self) -> bool:
        """Do the next thing there is to do; False: there is nothing.

        Raises:
            AgentStoppedError: Asked to stop.
            FleetFolderError: The disk refuses.
            LinkRefusedError: The server does not let this device in now; nothing is lost by it.
        """
        if (answer := self._outbox.get()) is not None:
            # Crashed between the two, and the message would be answered again.
            self._inbox.clear()
            self._send(answer)
            return True
        message = self._inbox.get() or self._announced()
        if message is None:
            return False
        if not message.objects:
            whole = self._fetched(message)
            if whole is None:
                return True
            message = whole
        # If it kills the agent, the next start must know which attempt that was.
        self._inbox.put(replace(message, interruptions=message.interruptions + 1))
        begin_s = time.monotonic()
        try:
            answer = self._answering.answer(message, self._link.node_id)
        except (AgentStoppedError, NodeUnknownError):
            self._inbox.put(message)
            raise
        except (MalformedMessageError, StaleMessageError) as error:
            logger.warning("a message is dropped: %s", error)
            self._inbox.clear()
            return True
        self._record.clear()
        self._outbox.put(answer)
        self._inbox.clear()
        self._send(answer, time.monotonic() - begin_s)
        # Frees memory of the server and nothing else: whoever waits for the answer need not wait for it.
        self._link.confirm(message)
        return True

    def _announced(self) -> Parcel | None:
        message = self._link.announcement()
        if message is not None:
            self._inbox.put(message, durable=False)
        return message

    def _fetched(self, announced: Parcel) -> Parcel | None:
        try:
            return replace(announced, objects=self._link.objects(announced))
        except NodeUnknownError:
            raise
        except (LinkRefusedError, MalformedMessageError) as error:
            logger.warning("a message is dropped: %s", error)
            self._inbox.clear()
            return None

    def _send(self, answer: Parcel, runtime_s: float = 0.0) -> None:
        self._link.send(answer, self._record, runtime_s)
        # In this order: an answer without a record is announced anew, a record alone is another's.
        self._outbox.clear()
        self._record.clear()


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
    with _alone(state / "agent.lock"), _counted(config.traffic_path) as ledger:
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
        node_file = state / NODE_ID_FILE
        link = FleetLink(connection, stop, node_id=_kept_node_id(node_file))
        answering = Answering(
            make_app=lambda: _make_app(config, guard, stop),
            vehicle_file=str(vehicle_file),
            work=config.work,
            verdict=guard.verdict,
            states=states,
            fetch_bundle=link.run_bundle,
            chunk_bytes=lambda: link.throughput.chunk_bytes(config.link.largest_chunk_bytes),
        )
        resident = Resident(link, answering, state)
        chores = _Chores(config, states, ledger)
        try:
            chores.do()
            link.open()
            keep(node_file, b"%d\n" % link.node_id, durable=True)
            calls = Calls(connection, stop)
            calls.listen()
            return work_on(resident, config, stop, chores.do, calls, once_s=once_s)
        except AgentStoppedError:  # before the first message
            return 0
        finally:
            link.close(goodbye=not resident.holds_work)


def work_on(
    resident: Resident,
    config: AgentConfig,
    stop: threading.Event,
    do_chores: Callable[[], None],
    calls: Calls,
    *,
    once_s: float,
) -> int:
    """Step after step until asked to stop; see `run_agent`."""
    answered, last_s, refusals = 0, time.monotonic(), BackOff()
    while not stop.is_set():
        try:
            worked = resident.step()
            refusals = BackOff()
        except AgentStoppedError:
            break
        except (LinkRefusedError, FleetFolderError) as error:
            refusals = refusals.failed()
            wait_s = refusals.wait_s(random.random())  # noqa: S311
            logger.warning("server or disk refuses: %s; tried again in %.1f s", error, wait_s)
            stop.wait(wait_s)
            worked = False
        if worked:
            answered, last_s = answered + 1, time.monotonic()
            continue
        idle_s = time.monotonic() - last_s
        if once_s and idle_s > once_s:
            break
        do_chores()
        slowest_s, chance = config.link.slowest_poll_s, random.random()  # noqa: S311
        longest_s = pause_s(idle_s, slowest_s, chance, called=calls.listening)
        calls.wait(min(longest_s, once_s) if once_s else longest_s)
    return answered


class _Chores:
    """What is done between messages, now and then; a chore that fails is logged and tried again."""

    def __init__(self, config: AgentConfig, states: RunStates, ledger: TrafficLedger) -> None:
        self._due_s = dict.fromkeys(("tidy", "renew", "releases"), 0.0)
        self._updating: Updating | None = None
        self._config = config
        self._states = states
        self._ledger = ledger

    def do(self) -> None:
        """Whatever is due."""
        self._do("tidy", _TIDY_EVERY_S, self._tidy)
        self._do("renew", _RENEW_EVERY_S, self._renew)
        if self._config.releases.is_on:
            self._do("releases", self._config.releases.check_every_s, self._update)

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

    def _update(self) -> None:
        if self._updating is None:
            self._updating = _make_updating(self._config)
        self._updating.turn(datetime.now(UTC))


def _make_updating(config: AgentConfig) -> "Updating":
    # tuf and onnxruntime come with these, which an agent without releases does not need.
    from convoy_edge_client.updates.updating import Updating, passes  # noqa: PLC0415

    return Updating(
        config.releases,
        config.preflight,
        config.vehicle.vehicle_id,
        lambda: passes(
            config.releases.folder_path,
            config.identity_path,
            config.server.services,
            config.root_certificates_path,
        ),
    )


def _make_app(config: AgentConfig, guard: Guard, stop: threading.Event) -> ClientApp:
    # torch comes with these, some 250 MB.
    from convoy_edge_client.agent.paused_training import (  # noqa: PLC0415
        PausedTraining,
        TrainingShelf,
    )
    from convoy_edge_client.app import make_client_app  # noqa: PLC0415

    shelf = TrainingShelf(config.training_path)
    breaks = PausedTraining(guard, shelf, config.guards.check_every_s, stop=stop)
    return make_client_app(breaks=breaks)


def _kept_node_id(path: Path) -> int:
    """0: there is none, or the file is damaged."""
    try:
        return int(path.read_bytes())
    except (OSError, ValueError):
        return 0


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
