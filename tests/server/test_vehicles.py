"""Who answers behind which node."""

import pytest
from fleet_double import fleet_grid
from flwr.app import Error, Message, RecordDict

from convoy_protos.flower_internals import (
    CLIENT_APP_RAISED,
    error_reply,
    server_identity,
    set_message_id,
)
from convoy_protos.flower_messages import profile_content
from convoy_protos.v1.federation_pb2 import VehicleProfile
from convoy_protos.v1.secure_sum_pb2 import HelperKey
from convoy_server.errors import RefusedReplyError
from convoy_server.vehicles import Addresses, VehicleDirectory, read_introduction


@pytest.fixture
def question():
    with server_identity():
        message = Message(RecordDict(), 7, "query.profile")
        set_message_id(message, "m7")
        yield message


def introduction(question, **profile):
    return Message(profile_content(VehicleProfile(**profile)), reply_to=question)


def test_an_introduction_is_read(question):
    reply = introduction(question, vehicle_id="Käfer 7 (blau)", train_examples=12)
    one = read_introduction(reply, max_examples=12)
    assert (one.vehicle_id, one.train_examples) == ("Käfer 7 (blau)", 12)


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        ({"vehicle_id": ""}, "malformed"),
        ({"vehicle_id": " car"}, "malformed"),
        ({"vehicle_id": "a\nb"}, "malformed"),
        ({"vehicle_id": "a\u202eb"}, "malformed"),  # would turn the log around
        ({"vehicle_id": "x" * 101}, "malformed"),
        ({"vehicle_id": "node-3"}, "malformed"),  # the server's own names
        ({"vehicle_id": "car", "train_examples": 2**60}, "bad_example_count"),
    ],
)
def test_what_is_no_name_or_no_count_is_refused(question, profile, reason):
    with pytest.raises(RefusedReplyError) as error:
        read_introduction(introduction(question, **profile), max_examples=1000)
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("reason", "asked"),
    [("not now: driving needs the machine", 9), ("ValueError: no recordings", 3)],
)
def test_who_cannot_introduce_itself_now_is_asked_again_in_every_round(reason, asked):
    """A vehicle that drives when a run starts comes home in the evening."""

    class Grid:
        questions = 0

        def get_node_ids(self):
            return [7]

        def send_and_receive(self, messages, timeout=None):
            del timeout
            for message in messages:
                self.questions += 1
                set_message_id(message, "m7")
                yield error_reply(message, CLIENT_APP_RAISED, reason)

    grid, directory = Grid(), VehicleDirectory(max_examples=1000)
    with server_identity():
        for _ in range(9):
            directory.meet(grid, 1.0)
    assert grid.questions == asked


def test_who_only_helps_is_a_node_that_is_never_asked_to_train():
    unit = HelperKey(suite="x25519", sealing_key=b"k")
    said = {
        100: VehicleProfile(vehicle_id="car0", train_examples=50),
        101: VehicleProfile(vehicle_id="car1", train_examples=60, helper=unit),
        102: VehicleProfile(vehicle_id="roadside", helper=unit, helper_only=True),
    }

    class Grid:
        def get_node_ids(self):
            return list(said)

        def send_and_receive(self, messages, timeout=None):
            del timeout
            for message in messages:
                set_message_id(message, f"m{message.metadata.dst_node_id}")
            for message in messages:
                content = profile_content(said[message.metadata.dst_node_id])
                yield Message(content, reply_to=message)

    directory = VehicleDirectory(max_examples=1000)
    with server_identity():
        directory.meet(Grid(), 1.0)

    assert directory.nodes_by_name(said) == {"car0": 100, "car1": 101, "roadside": 102}
    assert directory.training([*said, 103]) == {"car0": 100, "car1": 101, "node-103": 103}
    assert directory.examples() == {"car0": 50, "car1": 60}
    assert directory.helpers([*said, 103]) == {"car1": unit, "roadside": unit}
    assert directory.helpers([100, 101]) == {"car1": unit}


class ChangingFleet:
    """A grid whose nodes come and go; each says what `said` holds for it."""

    def __init__(self, **said):
        self.said = {int(node.removeprefix("node")): name for node, name in said.items()}

    def get_node_ids(self):
        return list(self.said)

    def send_and_receive(self, messages, timeout=None):
        del timeout
        for message in messages:
            set_message_id(message, f"m{message.metadata.dst_node_id}")
        for message in messages:
            name = self.said[message.metadata.dst_node_id]
            yield Message(profile_content(VehicleProfile(vehicle_id=name)), reply_to=message)


def test_a_vehicle_that_comes_back_as_another_node_has_its_name_again():
    fleet, directory = ChangingFleet(node7="car0", node8="car1"), VehicleDirectory(1000)
    with server_identity():
        directory.meet(fleet, 1.0)
        fleet.said = {8: "car1", 9: "car0", 10: "car1"}
        directory.meet(fleet, 1.0)
        # Node 10 has claimed what node 8 has while that one is there.
        assert directory.nodes_by_name([8, 9, 10]) == {"car1": 8, "car0": 9, "node-10": 10}
        fleet.said = {7: "car0", 9: "car0"}
        directory.meet(fleet, 1.0)
        assert directory.nodes_by_name([7, 9]) == {"node-7": 7, "car0": 9}


def test_a_client_that_failed_is_refused_with_what_it_said(question):
    with pytest.raises(RefusedReplyError, match="client_error: no battery"):
        read_introduction(error_reply(question, 2, "no\nbattery"), max_examples=1)


def test_a_device_that_declines_is_counted_apart_from_failures(question):
    with pytest.raises(RefusedReplyError, match="not_now: too hot: 91 C") as error:
        read_introduction(error_reply(question, 2, "not now: too hot: 91 C"), max_examples=1)
    assert error.value.reason == "not_now"


def test_an_error_reply_from_the_server_side_is_known_by_what_it_replies_to(question):
    reply = Message(Error(code=5, reason="node is gone"), reply_to=question)
    assert Addresses([question]).node_of(reply) == 7
    set_message_id(question, "another")
    assert Addresses([question]).node_of(reply) is None


def test_a_node_that_does_not_introduce_itself_is_asked_three_times():
    asked = []
    faults = {"car1": {"profile_fault": "garbage"}}
    with fleet_grid(faults, vehicles=2) as grid:
        send = grid.send_and_receive

        def counted(messages, timeout=None):
            asked.append([message.metadata.dst_node_id for message in messages])
            return send(messages, timeout=timeout)

        grid.send_and_receive = counted
        directory = VehicleDirectory(max_examples=1000)
        for _ in range(5):
            directory.meet(grid, 1.0)
    assert asked == [[100, 101], [101], [101]]
    assert directory.nodes_by_name([100, 101]) == {"car0": 100, "node-101": 101}
    assert directory.examples() == {"car0": 50}
