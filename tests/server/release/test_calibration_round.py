"""One query round: vehicles tell ranges, the rest is left out and named in the log."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from convoy_protos.flower_internals import error_reply, server_identity, set_message_id
from convoy_protos.flower_messages import ranges_content, read_calibration
from convoy_protos.v1.federation_pb2 import CalibrationRanges
from convoy_server.release.calibration_round import ask_for_ranges

NAMES = ("first", "second")


class FakeFleet:
    """A grid whose nodes answer what they were given."""

    def __init__(self, answers):
        self.answers = answers
        self.asked = {}

    def send_and_receive(self, messages, *, timeout):
        assert timeout == 9.0
        for number, message in enumerate(messages):
            set_message_id(message, f"m{number}")
        for message in messages:
            node = message.metadata.dst_node_id
            self.asked[node] = read_calibration(message.content)
            yield self.answers[node](message)


def tells(low, high):
    return lambda message: Message(
        ranges_content(CalibrationRanges(low=low, high=high)), reply_to=message
    )


def ask(answers, vehicles=20):
    fleet = FakeFleet(answers)
    with server_identity():
        told = ask_for_ranges(
            fleet,
            list(answers),
            b"network",
            NAMES,
            vehicles=vehicles,
            frames=64,
            timeout_s=9.0,
            rng=np.random.default_rng(0),
        )
    return told, fleet


def test_every_vehicle_gets_the_observer_and_tells_its_ranges():
    told, fleet = ask({3: tells([0, -1], [1, 2]), 5: tells([0, -2], [3, 4])})

    assert {request.observer for request in fleet.asked.values()} == {b"network"}
    assert {request.frames for request in fleet.asked.values()} == {64}
    assert told["node-5"].names == NAMES
    assert told["node-5"].low_T.tolist() == [0, -2]
    assert told["node-3"].high_T.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (tells([0], [1]), "expected 2 ranges"),
        (tells([0, np.nan], [1, 1]), "second: a range from nan"),
        (tells([0, 0], [1, 1e30]), "second: a range"),
        (
            lambda message: Message(RecordDict(), reply_to=message),
            "the message has no 'ranges' record",
        ),
        (lambda message: error_reply(message, 5, "I tell none"), "client_error: I tell none"),
    ],
)
def test_what_is_no_range_is_left_out_and_logged(caplog, answer, words):
    with caplog.at_level(logging.WARNING):
        told, _ = ask({3: answer, 5: tells([0, 0], [1, 1])})

    assert list(told) == ["node-5"]
    assert f"node 3 told no ranges: {words}" in caplog.text.replace("malformed: ", "")


def test_no_more_vehicles_are_asked_than_wanted():
    fleet = {node: tells([0, 0], [1, 1]) for node in range(50)}

    told, asked = ask(fleet, vehicles=7)

    assert len(told) == len(asked.asked) == 7


def test_an_empty_fleet_tells_nothing():
    told, _ = ask({})

    assert told == {}


def test_the_same_chance_asks_the_same_vehicles():
    fleet = {node: tells([0, 0], [1, 1]) for node in range(50)}

    assert ask(fleet, vehicles=7)[0].keys() == ask(fleet, vehicles=7)[0].keys()


def test_a_reply_to_something_else_is_ignored():
    stray = SimpleNamespace(metadata=SimpleNamespace(reply_to_message_id="another"))

    told, _ = ask({3: lambda _: stray})

    assert told == {}
