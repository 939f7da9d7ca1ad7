"""Reading any grid one reply at a time, against a grid and a clock that exist only here."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from fleet_double import fleet_grid
from flwr.app import ConfigRecord, Message, RecordDict

from convoy_protos.flower_internals import server_identity, set_message_id
from convoy_protos.flower_messages import SHARE, TRAIN
from convoy_server.polling_grid import CLOCK_SLACK_S, LONGEST_PAUSE_S, PollingGrid, streaming


@dataclass(frozen=True)
class FakeMessage:
    """Only its number matters, and how long it is good for."""

    number: int
    metadata: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(ttl=43_200.0, message_type="train")
    )


class FakeGrid:
    """Answers message k at second ready_s[k]; never where that is None."""

    def __init__(self, ready_s):
        self.ready_s = ready_s
        self.now_s = 0.0
        self.pulled = []
        self.pauses = []
        self.pulls = 0
        self.ttls = []

    def push_messages(self, messages):
        """See flwr.serverapp.Grid."""
        self.ttls = [message.metadata.ttl for message in messages]
        return [
            None if self.ready_s[message.number] == "refused" else str(message.number)
            for message in messages
        ]

    def pull_messages(self, message_ids):
        """See flwr.serverapp.Grid."""
        (key,) = message_ids
        self.pulls += 1
        ready_s = self.ready_s[int(key)]
        if ready_s is not None and ready_s <= self.now_s:
            self.pulled.append(int(key))
            return [int(key)]
        return []

    def sleep(self, pause_s):
        """Let time pass."""
        self.pauses.append(pause_s)
        self.now_s += pause_s


def replies(fake, timeout):
    grid = PollingGrid(fake, now_s=lambda: fake.now_s, sleep=fake.sleep)
    return grid.send_and_receive(map(FakeMessage, range(len(fake.ready_s))), timeout=timeout)


def test_replies_come_as_they_are_ready():
    fake = FakeGrid([3.0, 0.0, 1.0])
    assert list(replies(fake, None)) == [1, 2, 0]


def test_one_reply_is_pulled_at_a_time():
    fake = FakeGrid([0.0, 0.0, 0.0])
    stream = replies(fake, None)
    assert next(stream) == 0
    assert fake.pulled == [0]
    assert next(stream) == 1
    assert fake.pulled == [0, 1]


def test_the_deadline_ends_the_waiting():
    fake = FakeGrid([0.0, None, 100.0])
    assert list(replies(fake, 10.0)) == [0]
    assert fake.now_s == pytest.approx(10.0)


@pytest.mark.parametrize(("timeout", "ttl"), [(10.0, 10.0 + CLOCK_SLACK_S), (None, 43_200.0)])
def test_messages_expire_soon_after_nobody_waits_for_their_replies(timeout, ttl):
    fake = FakeGrid([0.0, 0.0])
    assert list(replies(fake, timeout)) == [0, 1]
    assert fake.ttls == [ttl, ttl]


def test_a_message_that_could_not_be_sent_is_not_waited_for():
    fake = FakeGrid([0.0, "refused"])
    assert list(replies(fake, None)) == [0]
    assert fake.now_s == 0.0


def test_polls_grow_rare_while_nothing_comes_and_frequent_when_something_does():
    fake = FakeGrid([60.0, 60.5])
    assert list(replies(fake, None)) == [0, 1]
    assert max(fake.pauses) == LONGEST_PAUSE_S
    assert fake.pulls < 200
    assert fake.now_s < 60.5 + LONGEST_PAUSE_S


def test_a_reply_that_took_long_to_use_does_not_keep_the_next_one_waiting():
    fake = FakeGrid([0.0, 1.0])
    stream = replies(fake, None)
    assert next(stream) == 0
    fake.now_s = 5.0  # it was a large one
    assert next(stream) == 1
    assert fake.now_s == 5.0


def test_a_sweep_that_takes_long_is_followed_by_as_long_a_pause():
    fake = FakeGrid([60.0] * 3)
    pull = fake.pull_messages

    def slow(message_ids):
        fake.now_s += 1.0
        return pull(message_ids)

    fake.pull_messages = slow
    assert list(replies(fake, None)) == [0, 1, 2]
    assert min(fake.pauses) >= 3.0


def test_no_messages_no_replies():
    assert list(replies(FakeGrid([]), None)) == []


def test_a_grid_that_streams_is_used_as_it_is():
    with fleet_grid() as grid:
        assert streaming(grid) is grid
    fake = FakeGrid([])
    assert isinstance(streaming(fake), PollingGrid)


class ForgetfulGrid:
    """Hands a message out, and whoever took it died: it answers at the n-th time that it is asked."""

    yields_replies = True

    def __init__(self, answers_at):
        self.answers_at = answers_at
        self.asked = []
        self.now_s = 0.0

    def push_messages(self, messages):
        """See flwr.serverapp.Grid."""
        keys = []
        for message in messages:
            self.asked.append(message)
            keys.append(f"asked {len(self.asked)}")
            set_message_id(message, keys[-1])
        return keys

    def pull_messages(self, message_ids):
        """See flwr.serverapp.Grid."""
        for key in message_ids:
            number = int(key.split()[1])
            if number >= self.answers_at:
                yield Message(RecordDict(), reply_to=self.asked[number - 1])

    def sleep(self, pause_s):
        """Let time pass."""
        self.now_s += pause_s


@pytest.mark.parametrize(
    ("kind", "answers_at", "asked", "answered"),
    [
        (SHARE, 1, 1, True),
        (SHARE, 2, 2, True),
        (SHARE, 3, 2, False),
        (TRAIN, 2, 1, False),  # would train once more
    ],
)
def test_a_question_that_was_lost_on_the_way_is_asked_once_more(kind, answers_at, asked, answered):
    fake = ForgetfulGrid(answers_at)
    grid = PollingGrid(fake, now_s=lambda: fake.now_s, sleep=fake.sleep)
    with server_identity():
        question = Message(RecordDict({"ask": ConfigRecord({"a": 1})}), 7, kind, group_id="3")
        got = list(grid.send_and_receive([question], timeout=90.0))
    assert len(fake.asked) == asked
    assert [reply.metadata.reply_to_message_id for reply in got] == ["asked 1"] * answered
    if asked == 2:
        again = fake.asked[1]
        assert again.content["ask"]["a"] == 1
        assert (again.metadata.dst_node_id, again.metadata.group_id) == (7, "3")


def test_who_answers_twice_is_heard_once():
    fake = ForgetfulGrid(3)
    grid = PollingGrid(fake, now_s=lambda: fake.now_s, sleep=fake.sleep)
    pause = fake.sleep

    def late(pause_s):
        pause(pause_s)
        if len(fake.asked) == 2:
            fake.answers_at = 1

    grid._sleep = late
    with server_identity():
        question = Message(RecordDict({"ask": ConfigRecord({})}), 7, SHARE)
        got = list(grid.send_and_receive([question], timeout=90.0))
    assert [reply.metadata.reply_to_message_id for reply in got] == ["asked 1"]
