"""Which messages a device answers while the machine is needed for something else."""

import json

import pytest
from flwr.app import Message, RecordDict

from convoy_edge_client.agent.agent_config import WorkConfig
from convoy_edge_client.agent.answering import Answering
from convoy_edge_client.agent.guards import Verdict
from convoy_edge_client.agent.parcels import Parcel
from convoy_edge_client.agent.run_states import RunStates
from convoy_protos.flower_internals import deflated_message, inflated_message, server_identity
from convoy_protos.run_bundle import RUN_KEY, build_run_bundle

NODE = 5


def answered(message_type, tmp_path):
    """The reply of a device that drives right now."""
    with server_identity():
        _, tree, objects = deflated_message(Message(RecordDict(), NODE, message_type))
    bundle = build_run_bundle({RUN_KEY: json.dumps({"name": "test", "data": {}})})
    device = Answering(
        make_app=lambda: lambda message, _: Message(RecordDict(), reply_to=message),
        vehicle_file="vehicle.json",
        work=WorkConfig(),
        verdict=lambda: Verdict(may_work=False, reason="it drives", retry_after_s=9.0, hot=False),
        states=RunStates(tmp_path),
        fetch_bundle=lambda _: (bundle, {}),
        chunk_bytes=lambda: 2**16,
    )
    parcel = device.answer(Parcel(run_id=1, message=b"", tree=tree, objects=objects), NODE)
    return inflated_message(parcel.tree, parcel.objects)


@pytest.mark.parametrize("message_type", ["train", "evaluate", "query.profile", "query.ranges"])
def test_what_is_work_is_declined_with_the_reason(tmp_path, message_type):
    reply = answered(message_type, tmp_path)

    assert reply.has_error()
    assert reply.error.reason == "not now: it drives"


@pytest.mark.parametrize("message_type", ["train.share", "train.unmask"])
def test_what_takes_a_moment_is_answered(tmp_path, message_type):
    assert not answered(message_type, tmp_path).has_error()
