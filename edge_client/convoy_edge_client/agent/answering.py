"""One message in, one answer out: whether this device works on it, then the installed ClientApp.

The same rules for a message that has just come and for one that a power cut interrupted: training is
deterministic and the exchanges of a secure sum answer a repeated request with the same bytes.
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from flwr.app import Message
from flwr.clientapp import ClientApp

from convoy_edge_client.agent.agent_config import WorkConfig
from convoy_edge_client.agent.guards import Verdict
from convoy_edge_client.agent.parcels import Parcel
from convoy_edge_client.agent.run_states import RunStates
from convoy_edge_client.errors import NotNowError, RefusedInstructionsError
from convoy_edge_client.vehicle_config import NODE_CONFIG_KEY
from convoy_protos.errors import BundleRefusedError
from convoy_protos.flower_internals import (
    CLIENT_APP_RAISED,
    deflated_message,
    error_reply,
    inflated_message,
    make_context,
    node_identity,
)
from convoy_protos.flower_messages import EVALUATE, NOT_NOW, QUERY_RANGES, TRAIN
from convoy_protos.run_bundle import RUN_KEY, read_run_bundle

logger = logging.getLogger(__name__)

_WORK: Final = frozenset({TRAIN, EVALUATE, QUERY_RANGES})
"""Asks for seconds or minutes of the machine; the other messages take a moment and end what was begun."""

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
    ) -> None:
        """Load nothing yet.

        Args:
            make_app: Imports torch and makes the app; called once, at the first message.
            vehicle_file: The device's VehicleConfig on disk.
            work: Which runs and models it takes.
            verdict: Whether the machine may work now.
            states: What it knows of each run.
            fetch_bundle: Asks the server for the bundle of a run and what overrides it.
        """
        self._make_app = make_app
        self._vehicle_file = vehicle_file
        self._work = work
        self._verdict = verdict
        self._states = states
        self._fetch_bundle = fetch_bundle
        self._app: ClientApp | None = None
        self._settings: dict[int, dict[str, Any]] = {}

    def answer(self, parcel: Parcel, node_id: int) -> Parcel:
        """The answer to a message; what was learned of its run is kept before this returns."""
        with node_identity(parcel.run_id, node_id):
            message = inflated_message(parcel.tree, parcel.objects)
            try:
                reply = self._reply(message, node_id)
            except NotNowError as refusal:
                logger.info("not now: %s", refusal)
                reply = error_reply(message, CLIENT_APP_RAISED, f"{NOT_NOW}{refusal}")
            except Exception as error:  # whatever goes wrong here, the server must hear of it
                logger.exception("%s failed", message.metadata.message_type)
                reason = f"{type(error).__name__}: {error}"
                reply = error_reply(message, CLIENT_APP_RAISED, reason)
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
