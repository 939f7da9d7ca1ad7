"""The in-process grid: order, bounds, isolation, and that no client can harm another."""

import os
import signal
import time

import pytest
import small_client_apps
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from convoy_protos.flower_internals import CLIENT_APP_CRASHED, CLIENT_APP_RAISED
from convoy_simulation.client_engines import isolated
from convoy_simulation.errors import WorkerStartError
from convoy_simulation.in_process_grid import InProcessGrid

ENGINES = [("serial", 1), ("threads", 2), ("processes", 2)]
every_engine = pytest.mark.parametrize(("engine", "workers"), ENGINES)

NODES = {node_id: {"place": f"bay {node_id}"} for node_id in range(10, 20)}


@pytest.fixture
def open_grid():
    """Opens grids and closes them at the end of the test."""
    grids = []

    def open_one(engine="serial", workers=1, factory="obedient", **kwargs):
        grid = InProcessGrid(
            getattr(small_client_apps, factory), NODES, engine=engine, workers=workers, **kwargs
        )
        grids.append(grid)
        return grid

    yield open_one
    for grid in grids:
        grid.close()


def order(node_id, do="work", **details):
    return Message(RecordDict({"order": ConfigRecord({"do": do, **details})}), node_id, "train")


def orders(count, do="work"):
    return [order(10 + index % 10, do) for index in range(count)]


def seen(reply, key="node"):
    return reply.content["seen"][key]


@every_engine
def test_replies_come_in_the_order_of_the_messages(open_grid, engine, workers):
    grid = open_grid(engine, workers)
    messages = [order(19, "sleep", seconds=0.2), *[order(node) for node in (12, 11, 18, 10, 17)]]

    replies = list(grid.send_and_receive(messages))

    assert [seen(reply) for reply in replies] == [19, 12, 11, 18, 10, 17]
    assert [reply.metadata.reply_to_message_id for reply in replies] == [
        message.metadata.message_id for message in messages
    ]


@every_engine
def test_all_messages_have_their_ids_when_the_first_reply_comes(open_grid, engine, workers):
    """A server makes its table of who was asked what then."""
    grid = open_grid(engine, workers)
    messages = orders(10)

    replies = grid.send_and_receive(messages)
    next(replies)
    replies.close()

    assert len({message.metadata.message_id for message in messages} - {""}) == 10


@every_engine
def test_clients_see_their_own_node_and_the_run(open_grid, engine, workers):
    grid = open_grid(engine, workers, run_config={"run": "demo"})

    (reply,) = grid.send_and_receive([order(13)])

    assert (seen(reply, "place"), seen(reply, "run")) == ("bay 13", "demo")


@every_engine
def test_a_nodes_state_survives_from_message_to_message(open_grid, engine, workers):
    grid = open_grid(engine, workers)

    calls = [
        [seen(reply, "calls") for reply in grid.send_and_receive([order(10), order(11)])]
        for _ in range(3)
    ]

    assert calls == [[1, 1], [2, 2], [3, 3]]


@every_engine
def test_an_exception_in_a_client_is_an_error_reply(open_grid, engine, workers):
    grid = open_grid(engine, workers)

    before, failed, after = grid.send_and_receive([order(10), order(11, "fail"), order(12)])

    assert (seen(before), seen(after)) == (10, 12)
    assert failed.error.code == CLIENT_APP_RAISED
    assert failed.error.reason == "RuntimeError: the camera fell off"
    assert failed.metadata.src_node_id == 11


@every_engine
def test_a_client_that_forgets_to_reply_is_an_error_reply(open_grid, engine, workers):
    grid = open_grid(engine, workers, "careless")

    for _ in range(2):
        (reply,) = grid.send_and_receive([order(10)])

        assert reply.error.code == CLIENT_APP_RAISED
        assert reply.error.reason == "the client app returned NoneType instead of a Message"


@every_engine
def test_a_silent_client_yields_nothing_and_holds_up_nobody(open_grid, engine, workers):
    grid = open_grid(engine, workers)
    started_s = time.monotonic()

    messages = [order(10, "vanish"), order(11), order(12, "vanish")]
    replies = list(grid.send_and_receive(messages, timeout=60))

    assert [seen(reply) for reply in replies] == [11]
    assert time.monotonic() - started_s < 30


@every_engine
def test_a_client_that_takes_longer_than_the_deadline_is_lost(open_grid, engine, workers):
    grid = open_grid(engine, workers)
    messages = [order(10, "sleep", seconds=0.9), order(11), order(12)]

    replies = list(grid.send_and_receive(messages, timeout=0.45))

    assert [seen(reply) for reply in replies] == [11, 12]


@every_engine
def test_the_deadline_is_on_each_clients_own_clock(open_grid, engine, workers):
    grid = open_grid(engine, workers)
    messages = [order(10 + index, "sleep", seconds=0.1) for index in range(9)]

    replies = list(grid.send_and_receive(messages, timeout=0.4))

    assert len(replies) == 9  # more than 0.4 s in all, less than that each


@every_engine
def test_a_stopped_caller_leaves_the_rest_of_the_cohort_unrun(open_grid, engine, workers):
    grid = open_grid(engine, workers)
    started = []

    def cohort():
        for index in range(10):
            started.append(10 + index)
            yield order(10 + index)

    replies = grid.send_and_receive(cohort())
    next(replies)
    replies.close()

    assert len(started) <= 2 * workers
    calls = {seen(reply): seen(reply, "calls") for reply in grid.send_and_receive(orders(10))}
    assert calls == {10: 2, **dict.fromkeys(range(11, 20), 1)}  # nobody else's state has moved


@every_engine
def test_memory_does_not_grow_with_the_cohort(open_grid, engine, workers):
    grid = open_grid(engine, workers)
    asked = []

    def endless():
        while True:
            asked.append(order(10 + len(asked) % 10))
            yield asked[-1]

    replies = grid.send_and_receive(endless())
    for delivered in range(1, 21):
        next(replies)
        assert len(asked) <= delivered + 2 * workers
    replies.close()


@every_engine
def test_a_client_that_changes_its_message_changes_nobody_elses(open_grid, engine, workers):
    grid = open_grid(engine, workers)
    shared = RecordDict(
        {"order": ConfigRecord({"do": "meddle"}), "metrics": MetricRecord({"loss": [0.5]})}
    )

    list(grid.send_and_receive([Message(shared, node, "train") for node in (10, 11)]))

    assert shared["order"]["do"] == "meddle"
    assert shared["metrics"]["loss"] == [0.5]


@every_engine
def test_messages_can_be_pushed_and_their_replies_pulled_by_id(open_grid, engine, workers):
    grid = open_grid(engine, workers)
    messages = [order(10), order(11, "vanish"), order(12)]

    waiting = set(grid.push_messages(messages))
    nodes = []
    deadline_s = time.monotonic() + 20
    while len(nodes) < 2 and time.monotonic() < deadline_s:
        for reply in grid.pull_messages(waiting):
            waiting.discard(reply.metadata.reply_to_message_id)
            nodes.append(seen(reply))

    assert sorted(nodes) == [10, 12]
    assert waiting == {messages[1].metadata.message_id}
    assert grid.pull_messages(waiting) == []


@every_engine
def test_torch_has_its_threads_back_when_the_grid_is_closed(open_grid, engine, workers):
    before = torch.get_num_threads()
    grid = open_grid(engine, workers)

    list(grid.send_and_receive([order(10)]))
    grid.close()

    assert torch.get_num_threads() == before


def test_an_isolated_copy_shares_the_bytes_of_arrays_and_nothing_else():
    array = Array("float32", (2,), "convoy.model/1", bytes(8))
    content = RecordDict(
        {
            "model": ArrayRecord({"packed": array}),
            "config": ConfigRecord({"lr": [0.1, 0.2], "name": "a"}),
            "metrics": MetricRecord({"n": 3}),
        }
    )

    copy = isolated(content)

    assert copy == content
    assert copy["model"]["packed"] is not array
    assert copy["model"]["packed"].data is array.data
    assert copy["config"]["lr"] is not content["config"]["lr"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"engine": "ray"}, "engine must be serial, threads or processes, got 'ray'"),
    ],
)
def test_a_grid_says_what_is_wrong_with_its_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        InProcessGrid(small_client_apps.obedient, NODES, **{"engine": "serial", **change})


def test_a_message_for_an_unknown_node_is_refused(open_grid):
    grid = open_grid()

    with pytest.raises(ValueError, match="there is no node 99"):
        next(grid.send_and_receive([order(99)]))


# Worker processes


@pytest.mark.parametrize(
    ("death", "words"),
    [
        ("die", "killed by signal 9"),  # kill -9, or the system ran out of memory
        ("exit", "exit code 3"),  # a native library that ends the process
    ],
)
def test_a_dead_worker_is_the_error_of_the_client_it_ran(open_grid, death, words):
    grid = open_grid("processes", 2)
    messages = [order(10), order(11, death), order(12), order(13), order(14)]

    replies = list(grid.send_and_receive(messages))

    assert [reply.has_error() for reply in replies] == [False, True, False, False, False]
    assert replies[1].error.code == CLIENT_APP_CRASHED
    assert words in replies[1].error.reason
    assert replies[1].metadata.src_node_id == 11


def test_a_worker_that_dies_idle_is_replaced_without_anyone_noticing(open_grid):
    grid = open_grid("processes", 1)
    (before,) = grid.send_and_receive([order(10)])

    os.kill(seen(before, "pid"), signal.SIGKILL)
    time.sleep(0.2)
    (after,) = grid.send_and_receive([order(10)])

    assert seen(after, "calls") == 2
    assert seen(after, "pid") != seen(before, "pid")


def test_workers_stay_the_same_from_round_to_round(open_grid):
    grid = open_grid("processes", 2)

    pids = [{seen(r, "pid") for r in grid.send_and_receive(orders(8))} for _ in range(3)]

    assert len(set.union(*pids)) <= 2
    assert os.getpid() not in set.union(*pids)


@pytest.mark.slow
def test_an_abandoned_client_does_not_keep_its_worker_for_long(open_grid):
    grid = open_grid("processes", 2)
    replies = grid.send_and_receive([order(10), order(11, "sleep", seconds=60)])
    next(replies)
    replies.close()
    started_s = time.monotonic()

    nodes = [seen(r) for r in grid.send_and_receive([order(12), order(13, "sleep", seconds=1)])]

    assert nodes == [12, 13]
    assert time.monotonic() - started_s < 20


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("never_built", "cannot build the client app: ImportError: no module named 'wheels'"),
        ("dies_while_building", "exit code 7 before it could run a client"),
    ],
)
def test_a_client_app_that_cannot_be_built_ends_the_run_with_the_reason(open_grid, factory, words):
    grid = open_grid("processes", 1, factory)

    with pytest.raises(WorkerStartError, match=words):
        list(grid.send_and_receive([order(10)]))


def test_a_reply_that_cannot_be_sent_is_an_error_reply(open_grid):
    grid = open_grid("processes", 1, "unsendable")

    (reply,) = grid.send_and_receive([order(10)])

    assert reply.error.code == CLIENT_APP_RAISED
    assert "cannot be sent" in reply.error.reason


def test_workers_are_gone_after_close(open_grid):
    grid = open_grid("processes", 2)
    pids = {seen(reply, "pid") for reply in grid.send_and_receive(orders(4))}

    grid.close()

    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_model_of_a_round_reaches_every_client_and_changes_with_the_round(open_grid):
    grid = open_grid("processes", 2, "echoing")
    for fill in (b"a", b"b"):
        model = Array("uint8", (200_000,), "convoy.model/1", fill * 200_000)
        content = RecordDict({"model": ArrayRecord({"packed": model})})

        replies = list(grid.send_and_receive([Message(content, 10, "train") for _ in range(6)]))

        assert [bytes(r.content["model"]["packed"].data) for r in replies] == [model.data] * 6
