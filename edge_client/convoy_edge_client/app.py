"""The vehicle's side of a federated run, as a Flower ClientApp.

The same app runs in the in-process simulation, in Flower's own simulation and behind a SuperNode.
It holds no state but caches; a vehicle that restarts continues as if nothing had happened.
"""

import json
from collections.abc import Sequence

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from convoy_driving.data_config import DataConfig
from convoy_edge_client.evaluation_handler import held_back_counts
from convoy_edge_client.profile_handler import profile_of
from convoy_edge_client.training_handler import trained_update
from convoy_edge_client.vehicle_config import vehicle_of
from convoy_edge_client.warm_cache import WarmCache
from convoy_protos.errors import SettingsError
from convoy_protos.flower_messages import (
    evaluation_content,
    profile_content,
    read_instructions,
    update_content,
)
from convoy_protos.settings import from_table

RUN_CONFIG_KEY = "convoy-run"
"""Flower run configuration: the run as JSON; the vehicle reads its table "data" only."""


def make_client_app(mods: Sequence[Mod] = ()) -> ClientApp:
    """A ClientApp with its own caches.

    Args:
        mods: Flower mods around every handler, outermost first.
    """
    warm = WarmCache()
    client_app = ClientApp(mods=list(mods))

    @client_app.query("profile")
    def profile(message: Message, context: Context) -> Message:
        vehicle = vehicle_of(context)
        content = profile_content(profile_of(vehicle, _data_config(context), warm))
        return Message(content, reply_to=message)

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        instructions, global_N = read_instructions(message.content)
        blob = trained_update(instructions, global_N, vehicle_of(context), warm)
        return Message(update_content(blob), reply_to=message)

    @client_app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        instructions, global_N = read_instructions(message.content)
        counts = held_back_counts(instructions, global_N, vehicle_of(context), warm)
        return Message(evaluation_content(counts), reply_to=message)

    return client_app


def _data_config(context: Context) -> DataConfig:
    """How this run reads recordings, so that a profile decodes them the way training will."""
    run = context.run_config.get(RUN_CONFIG_KEY)
    if run is None:
        return DataConfig()
    try:
        table = json.loads(str(run))["data"]
    except (KeyError, TypeError, ValueError) as error:
        raise SettingsError(f"{RUN_CONFIG_KEY}: expected a JSON object with 'data'") from error
    return from_table(DataConfig, table, f"{RUN_CONFIG_KEY} data")


app = make_client_app()
