"""Injected faults: each spoils a real reply so that the server refuses it for the right reason."""

import hashlib
import json
import pickle

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from small_fleet import DATA

from convoy_compression.update.float32 import Float32Codec
from convoy_driving.models.registry import ModelConfig, build_model
from convoy_driving.parameters import flatten, schema_of
from convoy_protos.envelope import unpack
from convoy_protos.errors import SettingsError
from convoy_protos.flower_messages import instructions_content, model_array, read_profile
from convoy_protos.settings import to_table
from convoy_protos.v1.federation_pb2 import RoundInstructions
from convoy_server.admission import REASONS, Expectation, admit, envelope_of
from convoy_server.aggregation import SingleUpdates
from convoy_server.errors import RefusedReplyError
from convoy_server.robust.registry import RobustConfig
from convoy_simulation.faults import (
    FAULTS,
    FaultConfig,
    FaultRule,
    check_vehicles,
    client_app_factory,
    read_faults,
)
from convoy_simulation.in_process_grid import InProcessGrid

MODEL = ModelConfig(width=0.1)

REASON_OF = {
    "nan": "not_finite",
    "infinite": "not_finite",
    "wrong_length": "wrong_length",
    "wrong_schema": "wrong_schema",
    "wrong_round": "wrong_round",
    "wrong_run": "wrong_run",
    "wrong_vehicle": "wrong_vehicle",
    "wrong_codec": "wrong_codec",
    "replayed": "replayed",
    "truncated": "truncated",
    "oversized": "oversized",
    "malformed": "malformed",
    "zero_examples": "bad_example_count",
    "absurd_examples": "bad_example_count",
    "extra_metric": "wrong_metrics",
    "missing_metric": "wrong_metrics",
    "exception": "client_error",
}


@pytest.fixture(scope="module")
def network():
    return build_model(MODEL, DATA.frame_height, DATA.frame_width, seed=1)


@pytest.fixture
def replies_to(network, small_fleet):
    """Lets car0 train in a round under some faults; its replies."""

    def train(faults, round_number=2):
        global_N = flatten(network)
        instructions = RoundInstructions(
            run_id="run-1",
            round=round_number,
            schema_digest=schema_of(network).digest,
            model_digest=hashlib.sha256(global_N.tobytes()).digest(),
            codec="float32/1",
            settings_json=json.dumps({"data": to_table(DATA), "model": to_table(MODEL)}),
        )
        with InProcessGrid(client_app_factory(faults), small_fleet.nodes, engine="serial") as grid:
            content = instructions_content(instructions, model_array(global_N))
            return list(grid.send_and_receive([Message(content, 100, "train")]))

    return train


def verdict(reply, network, round_number=2):
    """The server's reason to refuse the reply, or None."""
    codec = Float32Codec()
    schema = schema_of(network)
    expected = Expectation(
        run_id="run-1",
        round_number=round_number,
        schema_digest=schema.digest,
        parameter_count=schema.parameter_count,
        codec=codec.name,
        max_examples=1_000_000,
    )
    updates = SingleUpdates(codec, expected, "examples", RobustConfig())
    try:
        update = admit(
            envelope_of(reply), "car0", expected, codec.payload_limit(schema.parameter_count)
        )
        updates.add(update, update.payload)
    except RefusedReplyError as error:
        return error.reason
    return None


@pytest.mark.parametrize(("kind", "reason"), REASON_OF.items())
def test_a_fault_is_refused_for_its_reason(replies_to, network, kind, reason):
    (reply,) = replies_to(FaultConfig(vehicles={"car0": FaultRule(kind=kind)}))

    assert verdict(reply, network) == reason


def test_every_fault_and_every_reason_is_covered():
    of_protected_updates = {
        "lost_after_check_in",
        "lost_before_upload",
        "lost_before_unmask",
        "lost_helper",
        "wrong_context",
        "forged_signature",
    }
    assert set(REASON_OF) | {"never_answers", "poison"} == set(FAULTS) - of_protected_updates
    assert set(REASON_OF.values()) < set(REASONS)


def test_poison_is_five_times_the_opposite(replies_to, network):
    (honest,) = replies_to(FaultConfig())
    (poisoned,) = replies_to(FaultConfig(vehicles={"car0": FaultRule(kind="poison")}))

    honest_N, poisoned_N = (
        np.frombuffer(unpack(envelope_of(reply))[1], "<f4") for reply in (honest, poisoned)
    )
    np.testing.assert_allclose(poisoned_N, -5.0 * honest_N, rtol=1e-6)
    assert verdict(poisoned, network) is None  # nothing in it is wrong by itself


def test_a_vehicle_that_never_answers_sends_nothing(replies_to):
    assert replies_to(FaultConfig(vehicles={"car0": FaultRule(kind="never_answers")})) == []


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"car1": FaultRule(kind="nan")}, None),  # somebody else's
        ({"car0": FaultRule(kind="nan", rounds=(1, 3))}, None),  # in other rounds
        ({"car0": FaultRule(kind="nan", rounds=(1, 2))}, "not_finite"),
    ],
)
def test_a_fault_is_of_one_vehicle_in_some_rounds(replies_to, network, faults, reason):
    (reply,) = replies_to(FaultConfig(vehicles=faults))

    assert verdict(reply, network) == reason


def test_there_is_nothing_to_replay_in_the_first_round(replies_to, network):
    (reply,) = replies_to(FaultConfig(vehicles={"car0": FaultRule(kind="replayed")}), 1)

    assert verdict(reply, network, round_number=1) is None


def test_faults_spoil_training_only(small_fleet):
    faults = FaultConfig(vehicles={"car0": FaultRule(kind="exception")})

    with InProcessGrid(client_app_factory(faults), small_fleet.nodes, engine="serial") as grid:
        (reply,) = grid.send_and_receive([Message(RecordDict(), 100, "query.profile")])

    assert read_profile(reply.content).vehicle_id == "car0"


def test_a_section_may_name_a_kind_or_a_table():
    faults = read_faults({"car3": "nan", "car5": {"kind": "truncated", "rounds": [2, 3]}})

    assert faults.vehicles == {
        "car3": FaultRule(kind="nan"),
        "car5": FaultRule(kind="truncated", rounds=(2, 3)),
    }
    assert pickle.loads(pickle.dumps(client_app_factory(faults))) is not None


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"car3": "hiccup"}, r"\[faults\] car3: kind must be one of nan, .*got 'hiccup'"),
        ({"car3": 5}, r"\[faults\] car3: expected a kind or a table, got 5"),
        ({"car3": {"kind": "nan", "round": [1]}}, "unknown key 'round'; did you mean 'rounds'"),
        ({"car3": {"kind": "nan", "rounds": [0]}}, r"rounds must be 1 or more, got \[0\]"),
        ({"car3": {}}, r"\[faults\] car3: .*kind"),
    ],
)
def test_a_bad_section_is_refused_with_the_way_out(table, words):
    with pytest.raises(SettingsError, match=words):
        read_faults(table)


def test_a_fault_of_an_unknown_vehicle_names_the_known_ones():
    faults = read_faults({"car9": "nan"})

    with pytest.raises(SettingsError, match=r"car9: no such vehicle; the fleet has car0, car1"):
        check_vehicles(faults, ["car1", "car0"])
    check_vehicles(faults, ["car9"])
