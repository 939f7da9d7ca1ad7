"""The vehicle's side of a federated run, as a Flower ClientApp.

The same app runs in the in-process simulation, in Flower's own simulation and behind a SuperNode.
What a secure sum needs between two messages is in Flower's state of the node; a vehicle that loses
it sits the round out and continues with the next as if nothing had happened.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from convoy_driving.data_config import DataConfig
from convoy_edge_client import mask_helper_handler, secure_sum_handlers
from convoy_edge_client.certainty_handler import certainty_of
from convoy_edge_client.evaluation_handler import evaluation_of
from convoy_edge_client.instructions import read_settings
from convoy_edge_client.local_update import LocalUpdate, drop, keep
from convoy_edge_client.model_store import received_model
from convoy_edge_client.opened_sums import check_not_earlier
from convoy_edge_client.profile_handler import profile_of
from convoy_edge_client.ranges_handler import ranges_of
from convoy_edge_client.training_breaks import GiveWay, TrainingBreaks, giving_way
from convoy_edge_client.training_handler import trained_update
from convoy_edge_client.update_pipeline import check_protection, single_update
from convoy_edge_client.vehicle_config import VehicleConfig, vehicle_of
from convoy_edge_client.vehicle_party import keep_revocations
from convoy_edge_client.warm_cache import WarmCache
from convoy_protos.errors import SettingsError
from convoy_protos.flower_messages import (
    answer_content,
    certainty_content,
    evaluation_content,
    helped_upload_content,
    instructions_digest,
    profile_content,
    ranges_content,
    read_calibration,
    read_instructions,
    read_request,
    trained_content,
    update_content,
)
from convoy_protos.protection import Protection, protection_of
from convoy_protos.run_bundle import RUN_KEY
from convoy_protos.settings import from_table
from convoy_protos.v1.federation_pb2 import Trained

Exchange = Callable[[bytes, RecordDict, VehicleConfig], bytes]


def make_client_app(mods: Sequence[Mod] = (), *, breaks: TrainingBreaks | None = None) -> ClientApp:
    """A ClientApp with its own caches.

    Args:
        mods: Flower mods around every handler, outermost first.
        breaks: Who decides when work pauses; None: nobody.
    """
    warm = WarmCache()
    client_app = ClientApp(mods=list(mods))

    @client_app.query("profile")
    def profile(message: Message, context: Context) -> Message:
        vehicle = vehicle_of(context)
        with giving_way(breaks, _deadline_s(message)) as give_way:
            found = profile_of(vehicle, _data_config(context), warm, give_way)
        return Message(profile_content(found), reply_to=message)

    @client_app.query("ranges")
    def ranges(message: Message, context: Context) -> Message:
        request, vehicle = read_calibration(message.content), vehicle_of(context)
        with giving_way(breaks, _deadline_s(message)) as give_way:
            told = ranges_of(request, vehicle, _data_config(context), warm, give_way)
        return Message(ranges_content(told), reply_to=message)

    @client_app.query("certainty")
    def certainty(message: Message, context: Context) -> Message:
        vehicle = vehicle_of(context)
        instructions = read_instructions(message.content)
        global_N = received_model(message.content, instructions, warm.models(vehicle))
        with giving_way(breaks, _deadline_s(message)) as give_way:
            told = certainty_of(instructions, global_N, vehicle, warm, give_way)
        return Message(certainty_content(told), reply_to=message)

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        vehicle = vehicle_of(context)
        content = _train(message, vehicle, context.state, warm, breaks)
        return Message(content, reply_to=message)

    @client_app.train("check_in")
    def check_in(message: Message, context: Context) -> Message:
        return _exchange(secure_sum_handlers.check_in, message, context)

    @client_app.train("share")
    def share(message: Message, context: Context) -> Message:
        return _exchange(secure_sum_handlers.share, message, context)

    @client_app.train("upload")
    def upload(message: Message, context: Context) -> Message:
        blob = secure_sum_handlers.upload(
            read_request(message.content), context.state, vehicle_of(context)
        )
        return Message(update_content(blob), reply_to=message)

    @client_app.train("unmask")
    def unmask(message: Message, context: Context) -> Message:
        return _exchange(secure_sum_handlers.unmask, message, context)

    @client_app.train("helped")
    def helped_upload(message: Message, context: Context) -> Message:
        blob, seeds = secure_sum_handlers.helped_upload(
            read_request(message.content), context.state, vehicle_of(context)
        )
        return Message(helped_upload_content(blob, seeds), reply_to=message)

    @client_app.query("mask_sum")
    def mask_sum(message: Message, context: Context) -> Message:
        return _exchange(mask_helper_handler.mask_sum, message, context)

    @client_app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        vehicle = vehicle_of(context)
        with giving_way(breaks, _deadline_s(message)) as give_way:
            content = _evaluate(message.content, vehicle, context.state, warm, give_way)
        return Message(content, reply_to=message)

    return client_app


def _train(
    message: Message,
    vehicle: VehicleConfig,
    state: RecordDict,
    warm: WarmCache,
    breaks: TrainingBreaks | None,
) -> RecordDict:
    """Learn; then send the update, or keep it for the secure sum."""
    content = message.content
    instructions = read_instructions(content)
    check_protection(vehicle, instructions.codec)
    check_not_earlier(instructions.run_id, instructions.round, state)
    settings = read_settings(instructions.settings_json)
    global_N = received_model(content, instructions, warm.models(vehicle))
    update = trained_update(
        instructions,
        settings,
        global_N,
        vehicle,
        warm,
        breaks=breaks,
        deadline_s=_deadline_s(message),
    )
    if protection_of(instructions.codec) is Protection.MASKED:
        if instructions.revocations:
            keep_revocations(Path(vehicle.identity), instructions.revocations)
        keep(update, state)
        return trained_content(_notice(update, vehicle))
    drop(state)
    digest = instructions_digest(content)
    return update_content(single_update(update, instructions, digest, settings, vehicle))


def _evaluate(
    content: RecordDict,
    vehicle: VehicleConfig,
    state: RecordDict,
    warm: WarmCache,
    give_way: GiveWay,
) -> RecordDict:
    """Score the global model; then tell, or keep it for a sum of scores."""
    instructions = read_instructions(content)
    global_N = received_model(content, instructions, warm.models(vehicle))
    evaluation, scores = evaluation_of(instructions, global_N, vehicle, warm, give_way)
    if scores is not None:
        check_not_earlier(scores.run_id, scores.round_number, state)
        keep(scores, state)
    return evaluation_content(evaluation)


def _deadline_s(message: Message) -> float:
    """Unix time after which nobody waits for the answer any more."""
    return float(message.metadata.created_at + message.metadata.ttl)


def _notice(update: LocalUpdate, vehicle: VehicleConfig) -> Trained:
    clear = vehicle.metrics == "clear"
    return Trained(
        run_id=update.run_id,
        round=update.round_number,
        vehicle_id=vehicle.vehicle_id,
        schema_digest=update.schema_digest,
        example_count=update.example_count if clear else 0,
        metrics={"train_loss": update.train_loss} if clear else {},
    )


def _exchange(handler: Exchange, message: Message, context: Context) -> Message:
    answer = handler(read_request(message.content), context.state, vehicle_of(context))
    return Message(answer_content(answer), reply_to=message)


def _data_config(context: Context) -> DataConfig:
    """How this run reads recordings, so that a profile decodes them the way training will."""
    run = context.run_config.get(RUN_KEY)
    if run is None:
        return DataConfig()
    try:
        table = json.loads(str(run))["data"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise SettingsError(f"{RUN_KEY}: expected a JSON object with 'data'") from error
    return from_table(DataConfig, table, f"{RUN_KEY} data")


app = make_client_app()
