"""One query round: vehicles count, the sum is kept, nonsense is left out."""

import logging

import numpy as np
import pytest
from flwr.app import Message

from convoy_driving.certainty import COUNTS
from convoy_driving.models.registry import ModelConfig, build_model
from convoy_driving.parameters import flatten, schema_of
from convoy_protos.flower_internals import server_identity, set_message_id
from convoy_protos.flower_messages import certainty_content, read_instructions, read_model
from convoy_protos.v1.federation_pb2 import CertaintyCounts
from convoy_server.release.certainty_round import ask_for_certainty
from convoy_server.run_config import RunConfig

MODEL = build_model(ModelConfig(), 60, 80, 0)


class Fleet:
    """A grid whose nodes answer what they were given."""

    def __init__(self, answers):
        self.answers = answers

    def get_node_ids(self):
        return list(self.answers)

    def send_and_receive(self, messages, *, timeout):
        assert timeout == 9.0
        for number, message in enumerate(messages):
            set_message_id(message, f"m{number}")
        for message in messages:
            assert read_instructions(message.content).schema_digest == schema_of(MODEL).digest
            assert read_model(message.content).size == schema_of(MODEL).parameter_count
            yield self.answers[message.metadata.dst_node_id](message)


def tells(*counts):
    counts += (0,) * (COUNTS - len(counts)) if len(counts) < COUNTS else ()
    return lambda message: Message(
        certainty_content(CertaintyCounts(counts=counts)), reply_to=message
    )


def ask(answers):
    fleet = Fleet(answers)
    with server_identity():
        return ask_for_certainty(
            fleet,
            sorted(answers),
            flatten(MODEL),
            schema_of(MODEL),
            RunConfig(),
            vehicles=9,
            timeout_s=9.0,
            rng=np.random.default_rng(0),
        )


def test_the_counts_of_all_vehicles_are_added():
    told = ask({3: tells(5, 1), 4: tells(2), 5: tells(0, 0, 7)})

    assert told.vehicles == 3
    assert told.counts_C.tolist() == [7, 1, 7] + [0] * (COUNTS - 3)


@pytest.mark.parametrize("answer", [tells(), tells(257), tells(*[1] * (COUNTS + 1))])
def test_nobody_counts_more_frames_than_the_others_may(caplog, answer):
    with caplog.at_level(logging.WARNING):
        told = ask({3: answer, 4: tells(2)})

    assert (told.vehicles, told.counts_C.sum()) == (1, 2)
    assert "node 3 told no certainty: malformed: expected 20 counts of 1..256" in caplog.text


def test_an_empty_fleet_tells_nothing():
    assert not ask({}).telling
