"""The loop of an agent against a SuperLink in memory, with a death or a lost link at every step."""

import os
import random
import time

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import given
from hypothesis import strategies as st
from superlink_double import AFTER, BEFORE, Crash, SuperLinkDouble, down, unknown

from convoy_edge_client.agent.agent_config import AgentConfig, WorkConfig
from convoy_edge_client.agent.answering import MAX_INTERRUPTIONS, Answering
from convoy_edge_client.agent.fleet_link import FleetLink
from convoy_edge_client.agent.guards import Verdict
from convoy_edge_client.agent.resident import Resident, work_on
from convoy_edge_client.agent.run_states import RunStates
from convoy_edge_client.errors import AgentStoppedError
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_privacy.errors import FleetFolderError
from convoy_protos.errors import LinkDownError, LinkRefusedError
from convoy_protos.flower_messages import NOT_NOW

CHUNK = 1 << 16
UPDATE = random.Random(1).randbytes(4 * CHUNK)
PARKED = 2 * MAX_INTERRUPTIONS
FREE = Verdict(may_work=True, reason="", retry_after_s=0.0, hot=False)


@pytest.fixture(autouse=True, scope="module")
def memory_disk():
    """These deaths are of processes, which take nothing with them that was written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


class Impatient:
    """In place of a threading.Event: no wait takes any time."""

    def __init__(self, patience=200):
        self.patience = patience
        self.stopped = False

    def is_set(self):
        return self.stopped

    def wait(self, seconds):  # noqa: ARG002 - as threading.Event has it
        self.patience -= 1
        assert self.patience, "it waits for ever"
        return self.stopped


def echo_app(calls):
    app = ClientApp()

    def answer(message, context):
        text = message.content["ask"]["text"]
        calls.append(text)
        before = context.state.get("count", ConfigRecord({"n": 0}))["n"]
        context.state["count"] = ConfigRecord({"n": before + 1})
        content = {
            "answer": ConfigRecord({"text": f"{text}!", "n": before + 1}),
            "update": ArrayRecord({"a": Array("uint8", (1,), "t/1", salted(text))}),
        }
        return Message(RecordDict(content), reply_to=message)

    app.query("echo")(answer)
    app.train()(answer)

    @app.query("fault")
    def fault(message, context):  # noqa: ARG001 - as Flower calls it
        raise ValueError("no recordings")

    @app.query("park")
    def park(message, context):
        calls.append("park")
        if len(calls) <= PARKED:
            raise AgentStoppedError("the agent was asked to stop")
        return answer(message, context)

    @app.query("die")
    def die(message, context):  # noqa: ARG001 - as Flower calls it
        calls.append("die")
        raise Crash

    return app


def salted(text):
    return text.encode() + UPDATE


class Device:
    """One agent's process after the other, over the same state folder."""

    def __init__(self, state, server, *, work=None, verdict=FREE, stop=None):
        self.calls = []
        self.state = state
        self.server = server
        self.work = work or WorkConfig()
        self.verdict = verdict
        self.stop = stop or Impatient()
        self.births = 0
        self.unix_s = time.time

    def boot(self):
        self.births += 1
        link = self.link = FleetLink(self.server, self.stop, chance=lambda: 0.5, pulls=1)
        answering = Answering(
            make_app=lambda: echo_app(self.calls),
            vehicle_file="vehicle.json",
            work=self.work,
            verdict=lambda: self.verdict,
            states=RunStates(self.state / "runs"),
            fetch_bundle=link.run_bundle,
            chunk_bytes=lambda: CHUNK,
            unix_s=self.unix_s,
        )
        resident = Resident(link, answering, self.state)
        link._activate()
        return resident

    def work_until_idle(self):
        """Die and come back as often as the server's failures say."""
        resident = None
        for _ in range(200):
            try:
                resident = resident or self.boot()
                if not resident.step():
                    return
            except Crash:
                resident = None
            except LinkRefusedError:
                continue  # asked again later
        pytest.fail("it never comes to rest")


failures = st.dictionaries(
    st.integers(1, 60),
    st.one_of(
        st.tuples(
            st.sampled_from([BEFORE, AFTER]),
            st.sampled_from([Crash(), down(), LinkDownError("503")]),
        ),
        st.just((BEFORE, unknown())),
    ),
    max_size=6,
)


@given(failures, st.booleans())
def test_whatever_dies_every_message_that_came_is_answered(tmp_path_factory, failures, eager):
    server = SuperLinkDouble(failures=failures, eager=eager)
    asked = {server.ask(text): text for text in ("a", "bb")}

    Device(tmp_path_factory.mktemp("state"), server).work_until_idle()

    for key, text in asked.items():
        reply = server.answer_to(key)
        if key in server.lost:  # the one loss that a node cannot see
            assert reply is None
            continue
        assert reply.content["answer"]["text"] == f"{text}!"
        assert reply.content["update"]["a"].data == salted(text)


@given(failures, st.booleans())
def test_a_piece_goes_over_the_link_again_only_for_a_cut_in_its_middle(
    tmp_path_factory, failures, eager
):
    server = SuperLinkDouble(failures=failures, eager=eager)
    server.ask("a")

    Device(tmp_path_factory.mktemp("state"), server).work_until_idle()

    assert pieces_sent_again(server) <= len(failures)


@pytest.mark.parametrize("call", range(1, 30))
@pytest.mark.parametrize("when", [BEFORE, AFTER])
def test_a_death_at_any_call_sends_one_piece_twice_at_most(tmp_path, call, when):
    server = SuperLinkDouble(failures={call: (when, Crash())})
    key = server.ask("a")

    Device(tmp_path, server).work_until_idle()

    assert (server.answer_to(key) is None) == (key in server.lost)
    assert pieces_sent_again(server) <= 1


def test_an_update_whose_session_ended_while_the_car_was_off_is_offered_once_more(tmp_path):
    server = SuperLinkDouble(eager=False)
    key = server.ask("a")
    device = Device(tmp_path, server)
    server.failures = {server_call_of_piece(tmp_path / "probe", 2): (BEFORE, Crash())}
    with pytest.raises(Crash):
        run_once(device)

    server.expire_sessions()
    device.work_until_idle()

    assert server.answer_to(key).content["answer"]["text"] == "a!"


def test_an_answer_that_nobody_waits_for_is_dropped_before_anything_large_is_sent(tmp_path, caplog):
    server = SuperLinkDouble()
    key = server.ask("a")
    server.open_questions.clear()

    Device(tmp_path, server).work_until_idle()

    assert server.answer_to(key) is None
    assert sum(server.sent.values()) == 1
    assert "its round is over" in caplog.text


def test_an_answer_to_a_run_that_has_ended_is_dropped_and_the_agent_goes_on(tmp_path, caplog):
    server = SuperLinkDouble()
    server.ask("a")
    server.run_over = True
    device = Device(tmp_path, server)
    device.work_until_idle()
    assert "dropped" in caplog.text

    server.run_over = False
    key = server.ask("bb")
    device.work_until_idle()
    assert server.answer_to(key).content["answer"]["text"] == "bb!"


def test_what_a_run_has_learned_outlives_the_process(tmp_path):
    server = SuperLinkDouble()
    device = Device(tmp_path, server)
    for expected in (1, 2, 3):
        key = server.ask("a" * expected)
        device.work_until_idle()  # a new process every time
        assert server.answer_to(key).content["answer"]["n"] == expected


def test_a_fault_of_the_app_travels_as_the_reason(tmp_path):
    server = SuperLinkDouble()
    key = server.ask("a", "query.fault")
    Device(tmp_path, server).work_until_idle()
    assert server.answer_to(key).error.reason == "ValueError: no recordings"


def test_a_device_that_is_needed_elsewhere_says_not_now_and_why(tmp_path):
    server = SuperLinkDouble()
    busy = Verdict(
        may_work=False, reason="driving needs the machine", retry_after_s=10.0, hot=False
    )
    kinds = "train", "evaluate", "query.profile", "query.echo"
    keys = [server.ask("bb" + kind, kind) for kind in kinds]

    Device(tmp_path, server, verdict=busy).work_until_idle()

    *work, moment = map(server.answer_to, keys)
    assert {one.error.reason for one in work} == {f"{NOT_NOW}driving needs the machine"}
    assert (
        moment.content["answer"]["text"] == "bbquery.echo!"
    )  # takes no time and ends what was begun


@pytest.mark.parametrize(
    ("settings", "work", "reason"),
    [
        ({"convoy-run": '{"name": "night"}'}, WorkConfig(runs=("day*",)), "run 'night' is not"),
        (
            {"convoy-run": '{"name": "night", "model": {"name": "teacher"}}'},
            WorkConfig(models=("text*",)),
            "model 'teacher' is not",
        ),
        ({"convoy-run": "[]"}, WorkConfig(), "expected a JSON object"),
        ({"other": "{}"}, WorkConfig(), "expected a JSON object"),
    ],
)
def test_a_run_that_the_owner_does_not_want_is_refused_with_the_reason(
    tmp_path, settings, work, reason
):
    server = SuperLinkDouble(settings=settings)
    key = server.ask("a")
    device = Device(tmp_path, server, work=work)

    device.work_until_idle()

    assert reason in server.answer_to(key).error.reason
    assert device.calls == []


def test_a_bundle_with_code_is_refused_and_nothing_of_it_runs(tmp_path, monkeypatch):
    server = SuperLinkDouble()
    monkeypatch.setattr(server, "run_bundle", lambda _: (b"PK\x03\x04 some zip", {}))
    key = server.ask("a")
    device = Device(tmp_path, server)

    device.work_until_idle()

    assert server.answer_to(key).error.reason.startswith("BundleRefusedError")
    assert device.calls == []


def test_a_message_that_kills_the_agent_again_and_again_is_given_up_with_the_reason(tmp_path):
    server = SuperLinkDouble()
    key = server.ask("a", "query.die")
    device = Device(tmp_path, server)

    device.work_until_idle()

    assert device.calls == ["die"] * (MAX_INTERRUPTIONS + 1)
    assert "has died" in server.answer_to(key).error.reason


def test_a_car_that_is_parked_again_and_again_is_not_blamed_on_the_message(tmp_path):
    """Asked to stop in the middle, the agent puts the message off; nothing died."""
    server = SuperLinkDouble()
    key = server.ask("a", "query.park")
    device = Device(tmp_path, server)

    for _ in range(PARKED):
        with pytest.raises(AgentStoppedError):
            device.boot().step()
    device.work_until_idle()

    assert server.answer_to(key).content["answer"]["text"] == "a!"


def test_whoever_holds_work_leaves_without_a_goodbye(tmp_path):
    """The server would take the work for lost at once, and the next start would do it in vain."""
    server = SuperLinkDouble()
    device = Device(tmp_path, server)
    resident = device.boot()
    assert not resident.holds_work

    server.ask("a", "query.park")
    with pytest.raises(AgentStoppedError):
        resident.step()

    assert resident.holds_work
    link = FleetLink(server, device.stop)
    link.close(goodbye=not resident.holds_work)
    assert server.goodbyes == 0
    link.close(goodbye=True)
    assert server.goodbyes == 1


def test_a_message_that_is_none_is_dropped(tmp_path, caplog):
    server = SuperLinkDouble()
    key = server.ask("a")
    server.stored[key] = b"noise"
    device = Device(tmp_path, server)

    device.work_until_idle()

    assert "a message is dropped" in caplog.text
    assert device.births == 1


def test_a_message_whose_round_ended_while_the_car_was_parked_is_dropped_with_the_reason(
    tmp_path, caplog
):
    server = SuperLinkDouble()
    server.ask("a", "train")
    device = Device(tmp_path, server)
    device.unix_s = lambda: time.time() + 13 * 3600.0  # Flower's messages are good for 12 hours

    device.work_until_idle()

    assert device.calls == []
    assert "a message is dropped: train expired 3600 s ago" in caplog.text
    assert not list(tmp_path.glob("*box"))


class Steps:
    """In place of a Resident: what each step does."""

    def __init__(self, *steps):
        self.steps = list(steps)

    def step(self):
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step


CONFIG = AgentConfig(
    state="state",
    vehicle=VehicleConfig(vehicle_id="a", recordings=("r",), cache_dir="c"),
)


@pytest.mark.parametrize(
    "error", [FleetFolderError("state/outbox", "No space left on device"), LinkRefusedError("403")]
)
def test_a_disk_or_a_server_that_refuses_is_waited_for(error, caplog):
    steps = Steps(True, error, True, AgentStoppedError("stop"))

    assert work_on(steps, CONFIG, Impatient(), lambda: None, 0.0) == 2

    assert str(error) in caplog.text
    assert steps.steps == []


def test_a_trial_ends_when_no_more_work_comes():
    chores = []
    steps = Steps(True, *[False] * 50)
    assert work_on(steps, CONFIG, Impatient(), lambda: chores.append(1), 1e-9) == 1
    assert len(steps.steps) > 40


def test_a_message_whose_run_ended_before_it_had_come_is_dropped(tmp_path, caplog):
    server = SuperLinkDouble()
    key = server.ask("a")
    del server.stored[key]

    Device(tmp_path, server).work_until_idle()

    assert "a message is dropped: gone" in caplog.text


def test_a_node_that_the_server_has_forgotten_introduces_itself(tmp_path):
    server = SuperLinkDouble(failures={2: (BEFORE, unknown())})
    key = server.ask("a")

    Device(tmp_path, server).work_until_idle()

    assert server.activations == 2
    assert server.answer_to(key) is not None


def test_a_node_that_was_revoked_is_told_so(tmp_path):
    server = SuperLinkDouble(failures={2: (BEFORE, unknown()), 4: (BEFORE, unknown())})
    with pytest.raises(LinkRefusedError):
        Device(tmp_path, server).boot().step()


@pytest.mark.parametrize(
    ("node_id", "known", "activations"), [(0, True, 1), (42, True, 0), (42, False, 1)]
)
def test_after_a_crash_an_agent_goes_on_as_the_node_it_was(node_id, known, activations):
    """Flower's SuperLink lets no node in that it believes alive: for a minute after its death."""
    server = SuperLinkDouble(known=known)
    stop = Impatient()
    stop.stopped = True  # the heartbeats end at once
    link = FleetLink(server, stop, node_id=node_id)
    link.open()
    assert (link.node_id, server.activations) == (42, activations)


def test_the_link_measures_what_it_carries_so_that_pieces_fit_it(tmp_path):
    server = SuperLinkDouble()
    server.ask("a")
    device = Device(tmp_path, server)

    device.work_until_idle()

    assert device.link.throughput.bytes_per_s > 0


def test_a_message_is_confirmed_once(tmp_path):
    server = SuperLinkDouble()
    key = server.ask("a")
    Device(tmp_path, server).work_until_idle()
    assert server.confirmed == [key]


def test_asked_to_stop_the_agent_waits_for_no_link(tmp_path):
    stop = Impatient()
    server = SuperLinkDouble(failures=dict.fromkeys(range(8, 200), (BEFORE, down())))
    server.ask("a")
    device = Device(tmp_path, server, stop=stop)
    resident = device.boot()
    stop.stopped = True

    with pytest.raises(AgentStoppedError):
        resident.step()

    server.failures = {}
    stop.stopped = False
    device.work_until_idle()
    assert len(server.announced) == 1


def pieces_sent_again(server):
    return sum(count - 1 for key, count in server.sent.items() if len(server.stored[key]) >= CHUNK)


def run_once(device):
    resident = device.boot()
    while resident.step():
        pass


def server_call_of_piece(state, number):
    """Which call hands over the n-th large piece, in a run without a fault."""
    server = SuperLinkDouble()
    pieces = []
    hand_over = server._push_object

    def noted(session, object_id, content):
        if len(content) >= CHUNK:
            pieces.append(server.calls)
        return hand_over(session, object_id, content)

    server._push_object = noted
    server.ask("a")
    state.mkdir()
    Device(state, server).work_until_idle()
    return pieces[number - 1]
