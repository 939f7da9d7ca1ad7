"""One message in, one answer out: whether this device works on it, then the installed ClientApp.

The same rules for a message that has just come and for one that a power cut interrupted: training is
deterministic and the exchanges of a secure sum answer a repeated request with the same bytes.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from flwr.app import Message
from flwr.clientapp import ClientApp

from convoy_edge_client.agent.agent_config import WorkConfig
from convoy_edge_client.agent.guards import Verdict
from convoy_edge_client.agent.parcels import Parcel
from convoy_edge_client.agent.run_states import RunStates
from convoy_edge_client.errors import (
    AgentStoppedError,
    NotNowError,
    RefusedInstructionsError,
    StaleMessageError,
)
from convoy_edge_client.vehicle_config import NODE_CONFIG_KEY
from convoy_protos.errors import BundleRefusedError, NodeUnknownError
from convoy_protos.flower_internals import (
    CLIENT_APP_RAISED,
    deflated_message,
    error_reply,
    inflated_message,
    make_context,
    node_identity,
    set_chunk_bytes,
)
from convoy_protos.flower_messages import (
    EVALUATE,
    NOT_NOW,
    QUERY_CERTAINTY,
    QUERY_PROFILE,
    QUERY_RANGES,
    TRAIN,
)
from convoy_protos.run_bundle import RUN_KEY, read_run_bundle

logger = logging.getLogger(__name__)

MAX_INTERRUPTIONS: Final = 10
"""After so many deaths over one message it counts as their cause; a car that is parked is none of these."""
_WORK: Final = frozenset({TRAIN, EVALUATE, QUERY_CERTAINTY, QUERY_PROFILE, QUERY_RANGES})
"""Asks for minutes of the machine, or seconds; the other messages take a moment and end what was begun."""

Bundle = tuple[bytes, Mapping[str, Any]]


class Answering:
    """What one device answers."""

    def __init__(
        self,
        *,
        make_app: Callable[[], ClientApp],
        vehicle_file: str,
        work: WorkConfig,
        verdict: Callable[[], Verdict],
        states: RunStates,
        fetch_bundle: Callable[[int], Bundle],
        chunk_bytes: Callable[[], int],
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        """Load nothing yet.

        Args:
            make_app: Imports torch and makes the app; called once, at the first message.
            vehicle_file: The device's VehicleConfig on disk.
            work: Which runs and models it takes.
            verdict: Whether the machine may work now.
            states: What it knows of each run.
            fetch_bundle: Asks the server for the bundle of a run and what overrides it.
            chunk_bytes: Into pieces of what size an answer is cut now.
            unix_s: The clock.
        """
        self._make_app = make_app
        self._vehicle_file = vehicle_file
        self._work = work
        self._verdict = verdict
        self._states = states
        self._fetch_bundle = fetch_bundle
        self._chunk_bytes = chunk_bytes
        self._unix_s = unix_s
        self._app: ClientApp | None = None
        self._settings: dict[int, dict[str, Any]] = {}

    def answer(self, parcel: Parcel, node_id: int) -> Parcel:
        """The answer to a message; what was learned of its run is kept before this returns.

        Raises:
            MalformedMessageError: It is no message, so that nobody can be answered.
            StaleMessageError: Nobody waits for the answer any more.
            AgentStoppedError: Asked to stop in the middle.
            NodeUnknownError: The server does not tell this device about the run.
        """
        with node_identity(parcel.run_id, node_id):
            message = inflated_message(parcel.tree, parcel.objects)
            late_s = self._unix_s() - message.metadata.created_at - message.metadata.ttl
            if late_s > 0:
                raise StaleMessageError(
                    f"{message.metadata.message_type} expired {late_s:.0f} s ago: its round is over"
                )
            try:
                _refuse_deadly(parcel.interruptions)
                reply = self._reply(message, node_id)
            except (AgentStoppedError, NodeUnknownError):
                raise  # the message waits
            except NotNowError as refusal:
                logger.info("not now: %s", refusal)
                reply = error_reply(message, CLIENT_APP_RAISED, f"{NOT_NOW}{refusal}")
            except Exception as error:  # whatever goes wrong here, the server must hear of it
                logger.exception("%s failed", message.metadata.message_type)
                reason = f"{type(error).__name__}: {error}"
                reply = error_reply(message, CLIENT_APP_RAISED, reason)
            set_chunk_bytes(self._chunk_bytes())
            bare, tree, objects = deflated_message(reply)
        return Parcel(run_id=parcel.run_id, message=bare, tree=tree, objects=objects)

    def _reply(self, message: Message, node_id: int) -> Message:
        run_id = message.metadata.run_id
        settings = self._run_settings(run_id)
        if message.metadata.message_type in _WORK:
            verdict = self._verdict()
            if not verdict.may_work:
                raise NotNowError(verdict.reason, verdict.retry_after_s)
        if self._app is None:
            self._app = self._make_app()
        state = self._states.load(run_id)
        context = make_context(
            node_id, {NODE_CONFIG_KEY: self._vehicle_file}, settings, run_id=run_id, state=state
        )
        reply = self._app(message, context)
        self._states.save(run_id, context.state)
        return reply

    def _run_settings(self, run_id: int) -> dict[str, Any]:
        """Of a run that the owner of this device lets it join.

        Raises:
            BundleRefusedError: It was submitted with more than settings.
            RefusedInstructionsError: Its name or its model is not accepted here.
        """
        if run_id not in self._settings:
            content, overrides = self._fetch_bundle(run_id)
            settings = read_run_bundle(content) | dict(overrides)
            check_accepted(settings, self._work)
            self._settings[run_id] = settings
        return self._settings[run_id]


def check_accepted(settings: Mapping[str, Any], work: WorkConfig) -> None:
    """Refuse a run that the owner of this device does not let it join.

    Raises:
        BundleRefusedError: The settings say no run.
        RefusedInstructionsError: Its name or its model is not accepted here.
    """
    try:
        run = json.loads(settings[RUN_KEY])
        name, model = str(run["name"]), str(run.get("model", {}).get("name", ""))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleRefusedError(f"{RUN_KEY}: expected a JSON object with a name") from error
    if not work.accepts_run(name):
        raise RefusedInstructionsError(f"run {name!r} is not among the runs that this device joins")
    if model and not work.accepts_model(model):
        raise RefusedInstructionsError(
            f"model {model!r} is not among those that this device trains"
        )


def _refuse_deadly(interruptions: int) -> None:
    if interruptions > MAX_INTERRUPTIONS:
        raise RefusedInstructionsError(
            f"the agent has died {interruptions} times over this message and tries it no more"
        )
