"""A fleet without recordings: every vehicle pulls the model towards a point of its own.

What a vehicle does follows from its node configuration: "vehicle" is its name, "fault" what is wrong
with it, "from_round" since when. Updates depend on (vehicle, round, model) alone.
"""

import hashlib
import math

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from convoy_compression.update.codec import UpdateConfig, codec_on_wire
from convoy_driving.data_config import DataConfig
from convoy_driving.models.registry import ModelConfig
from convoy_protos import envelope
from convoy_protos.flower_messages import (
    evaluation_content,
    profile_content,
    read_instructions,
    read_model,
    update_content,
)
from convoy_protos.v1.federation_pb2 import Evaluation, UpdateHeader, VehicleProfile
from convoy_server.release.config import ReleaseConfig
from convoy_server.rounds import RoundConfig
from convoy_server.run_config import RunConfig
from convoy_simulation.errors import ClientVanishedError
from convoy_simulation.in_process_grid import InProcessGrid

ABSURD = 2**60


def small_run(**round_settings):
    """A run of a network with a few hundred parameters."""
    settings = {"rounds": 3, "optimizer": "fed_avg_m"} | round_settings
    return RunConfig(
        name="test",
        seed=3,
        data=DataConfig(frame_height=60, frame_width=80),
        model=ModelConfig(width=0.05),
        round=RoundConfig(**settings),
        update=UpdateConfig(codec="float32", downlink="full"),
        release=ReleaseConfig(teachers=2),
    )


def fleet_grid(faults=(), vehicles=4, **kwargs):
    """A grid of vehicles car0, car1, …; `faults` maps names to node configuration or a fault."""
    nodes = {}
    for index in range(vehicles):
        name = f"car{index}"
        extra = dict(faults).get(name, {})
        nodes[100 + index] = {"vehicle": name, "examples": 50 + 10 * index} | (
            {"fault": extra} if isinstance(extra, str) else extra
        )
    return InProcessGrid(puppets, nodes, engine="serial", **kwargs)


def puppets():
    """The client app of every vehicle."""
    app = ClientApp()

    @app.query("profile")
    def profile(message, context):
        config = context.node_config
        fault = config.get("profile_fault")
        if fault == "vanish":
            raise ClientVanishedError
        if fault == "garbage":
            return Message(RecordDict(), reply_to=message)
        name = config.get("claims", config["vehicle"])
        content = VehicleProfile(vehicle_id=name, train_examples=config["examples"])
        return Message(profile_content(content), reply_to=message)

    @app.train()
    def train(message, context):
        instructions, global_N = read_instructions(message.content), read_model(message.content)
        config = context.node_config
        fault = config.get("fault", "")
        if instructions.round < config.get("from_round", 1):
            fault = ""
        return Message(trained(instructions, global_N, config, fault), reply_to=message)

    @app.evaluate()
    def evaluate(message, context):
        instructions, global_N = read_instructions(message.content), read_model(message.content)
        config = context.node_config
        return Message(
            evaluated(instructions, global_N, config, config.get("evaluation_fault", "")),
            reply_to=message,
        )

    return app


def honest_update(vehicle, round_number, global_N):
    """float32, shape (N,)."""
    seed = hashlib.sha256(f"{vehicle} {round_number}".encode()).digest()[:8]
    rng = np.random.default_rng(int.from_bytes(seed, "little"))
    target_N = rng.standard_normal(global_N.size, dtype=np.float32)
    return np.float32(0.1) * (target_N - global_N)


def trained(instructions, global_N, config, fault):
    """The content of a reply to `train`."""
    if fault == "vanish":
        raise ClientVanishedError
    if fault == "exception":
        raise RuntimeError("the tyre\nis flat " + "x" * 5000)
    if fault == "empty":
        return RecordDict()
    if fault == "foreign_record":
        return RecordDict({"update": ConfigRecord({"envelope": b"123"})})
    update_N = honest_update(config["vehicle"], instructions.round, global_N)
    header = UpdateHeader(
        run_id=instructions.run_id,
        round=instructions.round,
        vehicle_id=config["vehicle"],
        schema_digest=instructions.schema_digest,
        codec=instructions.codec,
        parameter_count=global_N.size,
        example_count=config["examples"],
        metrics={"train_loss": 1.0 / instructions.round},
    )
    update_N = _spoil_values(update_N, fault)
    payload = codec_on_wire(instructions.codec, UpdateConfig()).encode(update_N)
    payload = _spoil_payload(payload, fault)
    _spoil_header(header, fault)
    blob = envelope.pack(header, payload)
    return update_content(_spoil_envelope(blob, fault))


def _spoil_values(update_N, fault):
    spoiled_N = update_N.copy()
    if fault == "nan":
        spoiled_N[-1] = math.nan
    if fault == "infinite":
        spoiled_N[0] = -math.inf
    if fault == "huge":
        spoiled_N[7] = 3e38
    return spoiled_N


def _spoil_payload(payload, fault):
    if fault == "short_payload":
        return payload[:-4]
    if fault == "odd_payload":
        return payload[:-1]
    if fault == "oversized":
        return payload * 100
    return payload


def _spoil_header(header, fault):  # noqa: PLR0912 - one branch a fault
    if fault == "wrong_length":
        header.parameter_count += 1
    if fault == "wrong_schema":
        header.schema_digest = b"?" * 32
    if fault == "next_round":
        header.round += 1
    if fault == "round_zero":
        header.round = 0
    if fault == "last_round":
        header.round -= 1
    if fault == "other_run":
        header.run_id = "another"
    if fault == "other_vehicle":
        header.vehicle_id = "car0"
    if fault == "other_codec":
        header.codec = "zip/1"
    if fault == "zero_examples":
        header.example_count = 0
    if fault == "absurd_examples":
        header.example_count = ABSURD
    if fault == "extra_metric":
        header.metrics["speed"] = 1.0
    if fault == "misnamed_metric":
        del header.metrics["train_loss"]
        header.metrics["loss"] = 1.0
    if fault == "nan_metric":
        header.metrics["train_loss"] = math.nan
    if fault == "huge_metric":
        header.metrics["train_loss"] = 1e300


def _spoil_envelope(blob, fault):
    if fault == "truncated":
        return blob[: len(blob) // 2]
    if fault == "no_bytes":
        return b""
    if fault == "other_magic":
        return b"ZIP!" + blob[4:]
    return blob


def evaluated(instructions, global_N, config, fault):
    """The content of a reply to `evaluate`."""
    if fault == "vanish":
        raise ClientVanishedError
    if fault == "exception":
        raise RuntimeError("no light")
    if fault == "empty":
        return RecordDict()
    right = 5 + int(1e4 * abs(float(global_N[0]))) % 5
    evaluation = Evaluation(
        run_id=instructions.run_id,
        round=instructions.round,
        vehicle_id=config["vehicle"],
        train_examples=config["examples"],
        class_examples=[10, 20, 10],
        class_correct=[right, 15, right],
        throttle_absolute_error_sum=4.0,
        loss_sum=20.0,
    )
    changes = {
        "other_vehicle": {"vehicle_id": "car0"},
        "last_round": {"round": instructions.round - 1},
        "next_round": {"round": instructions.round + 1},
        "other_run": {"run_id": "another"},
        "two_classes": {"class_examples": [10, 20]},
        "no_examples": {"class_examples": [0, 0, 0], "class_correct": [0, 0, 0]},
        "absurd_examples": {"class_examples": [ABSURD, 0, 0]},
        "more_right_than_seen": {"class_correct": [11, 20, 10]},
        "nan_sum": {"loss_sum": math.nan},
        "negative_sum": {"throttle_absolute_error_sum": -1.0},
        "huge_sum": {"loss_sum": 1e300},
    }.get(fault, {})
    for name, value in changes.items():
        evaluation.ClearField(name)
        evaluation.MergeFrom(Evaluation(**{name: value}))
        if name == "round":
            evaluation.round = value
    return evaluation_content(evaluation)
