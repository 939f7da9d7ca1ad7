"""Listening for the server's call."""

import threading

import pytest

from convoy_edge_client.agent import calls
from convoy_edge_client.agent.calls import Calls
from convoy_protos.errors import LinkDownError


class Door:
    """Answers one thing after the other; then nothing until the test is over."""

    def __init__(self, *answers):
        self._answers = list(answers)
        self.asked = []
        self.silent = threading.Event()
        self.over = threading.Event()

    def wait_for_call(self, heard):
        self.asked.append(heard)
        if not self._answers:
            self.silent.set()
            self.over.wait(20)
            raise LinkDownError("the test is over")
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def listen():
    """Makes calls that listen at a door until it falls silent."""
    stop, doors = threading.Event(), []

    def make(*answers):
        door = Door(*answers)
        doors.append(door)
        heard = Calls(door, stop)
        heard.listen()
        return heard, door

    yield make
    stop.set()
    for door in doors:
        door.over.set()


def came(heard):
    """Whether a call came since the last wait."""
    found = heard._came.is_set()
    heard._came.clear()
    return found


def test_a_call_ends_the_wait_and_what_was_heard_is_told(listen):
    heard, door = listen("a", "b")
    assert door.silent.wait(20)
    assert heard.listening
    assert door.asked == ["", "a", "b"]
    heard.wait(60.0)  # ends at once
    assert not came(heard)


def test_nothing_new_is_no_call(listen, monkeypatch):
    monkeypatch.setattr(calls, "_TOO_SOON_S", 0.0)
    heard, door = listen("a", "a", "a")
    assert door.silent.wait(20)
    assert came(heard)  # the first answer: something may have come before we listened
    assert door.asked == ["", "a", "a", "a"]


def test_where_there_is_no_bell_nobody_listens(listen, caplog):
    caplog.set_level("INFO")
    heard, door = listen(None)
    heard.wait(0.05)
    assert not heard.listening
    assert door.asked == [""]
    assert "at its own pace" in caplog.text


def test_a_link_that_was_down_is_listened_at_again_and_no_ring_is_lost(listen, monkeypatch):
    monkeypatch.setattr(calls.BackOff, "wait_s", lambda *_: 0.0)
    heard, door = listen("a", LinkDownError("no route"), "b")
    assert door.silent.wait(20)
    assert heard.listening
    assert door.asked == ["", "a", "a", "b"]
    assert came(heard)


def test_whoever_stops_ends_the_wait():
    stop = threading.Event()
    waiting = Calls(Door(), stop)
    threading.Timer(0.05, stop.set).start()
    waiting.wait(60.0)
    assert stop.is_set()
