"""kill -9 at any moment, start again with resume: the same model and the same round lines."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from small_federation import (
    PLAIN,
    announce_and_run,
    model_bytes,
    protect,
    round_lines,
    run_small_federation,
    small_run,
)

from convoy_compression.update.codec import UpdateConfig

MASKED = UpdateConfig(codec="masked", modulus_bits=12)
RUN = {"rounds": 8, "cohort_size": 4, "over_selection": 1.3}


@pytest.fixture
def start_a_life(small_fleet, tmp_path):
    """Starts the run, or what is left of it, in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["convoy_edge_client.app", "convoy_server.app", "torch._dynamo"])
    lives = []

    def start(engine, nodes=None, **changes):
        started = context.Event()
        life = context.Process(
            target=announce_and_run,
            args=(started, small_fleet, small_run(**RUN | changes), tmp_path / "run"),
            kwargs={"engine": engine, "workers": 2, "resume": True, "nodes": nodes},
        )
        life.start()
        lives.append(life)
        assert started.wait(timeout=60)
        return life

    yield start
    for life in lives:
        life.kill()
        life.join()


@pytest.mark.slow
@pytest.mark.parametrize(("update", "kills"), [(PLAIN, 10), (MASKED, 5)])
def test_a_run_that_is_killed_again_and_again_ends_like_an_undisturbed_one(
    small_fleet, start_a_life, tmp_path, update, kills
):
    nodes = None if update is PLAIN else protect(small_fleet, update)
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "run"
    run_small_federation(small_fleet, small_run(update=update, **RUN), undisturbed, nodes=nodes)
    rng = random.Random(20)
    killed_after_rounds = set()
    for _ in range(kills):
        some_progress = finished_rounds(out) + rng.choice([0, 1])
        life = start_a_life("serial", nodes, update=update)
        while life.is_alive() and finished_rounds(out) < some_progress:
            time.sleep(0.001)
        life.join(timeout=rng.uniform(0.0, 0.4))
        if life.exitcode is not None:
            break
        life.kill()
        life.join()
        killed_after_rounds.add(finished_rounds(out))
    last = start_a_life("serial", nodes, update=update)
    last.join(timeout=60)

    assert last.exitcode == 0
    assert len(killed_after_rounds) > 1  # otherwise this test has shown nothing
    assert model_bytes(out) == model_bytes(undisturbed)
    assert round_lines(out) == round_lines(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop", "exit_code"),
    [
        (lambda life: life.kill(), -signal.SIGKILL),
        (lambda life: os.killpg(life.pid, signal.SIGINT), 1),  # Ctrl-C reaches the whole group
    ],
)
def test_the_workers_of_a_stopped_run_end_with_it(start_a_life, tmp_path, stop, exit_code):
    life = start_a_life("processes", rounds=500)  # more than it will get to
    deadline_s = time.monotonic() + 60
    while finished_rounds(tmp_path / "run") < 1 and time.monotonic() < deadline_s:
        time.sleep(0.02)
    workers = descendants(life.pid)

    stop(life)
    life.join(timeout=30)

    assert life.exitcode == exit_code
    assert workers
    while alive(workers) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert alive(workers) == set()


def finished_rounds(out):
    """Lines in rounds.jsonl, which may be half written."""
    path = out / "rounds.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def descendants(pid):
    """Process ids below one process."""
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            child = int(entry.name)
            children.setdefault(parent_of(child), set()).add(child)
    found, waiting = set(), [pid]
    while waiting:
        below = children.get(waiting.pop(), set())
        found |= below
        waiting.extend(below)
    return found


def parent_of(pid):
    """The parent's process id; 0 if the process is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    state, parent = stat.rpartition(")")[2].split()[:2]
    return 0 if state == "Z" else int(parent)


def alive(pids):
    """Those that still run."""
    return {pid for pid in pids if parent_of(pid)}
