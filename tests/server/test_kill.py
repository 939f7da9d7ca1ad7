"""A real SIGKILL in the middle of a real process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_federation
from fleet_double import fleet_grid, small_run

from convoy_compression.update.codec import UpdateConfig
from convoy_protos.flower_messages import CHECK_IN, SHARE, UNMASK, UPLOAD
from convoy_server.app import run_federation
from convoy_server.audit import verify_audit

ROUNDS = 12
VICTIM = f"""
import sys
from pathlib import Path
from fleet_double import fleet_grid, small_run
from convoy_server.app import run_federation
with fleet_grid({{"car1": "nan"}}) as grid:
    run_federation(grid, small_run(rounds={ROUNDS}), Path(sys.argv[1]), resume=True)
"""

MASKED = UpdateConfig(codec="masked", modulus_bits=12)
EXCHANGES = (CHECK_IN, SHARE, UPLOAD, UNMASK)
MASKED_VICTIMS = """
import os, signal, sys
from test_kill import EXCHANGES, lines, run_masked
from pathlib import Path
from convoy_simulation.in_process_grid import InProcessGrid
out, nodes = sys.argv[1:]
send = InProcessGrid.send_and_receive
def deadly(self, messages, *, timeout=None):
    messages = list(messages)
    asked = {(one.metadata.message_type, one.metadata.group_id) for one in messages}
    for reply in send(self, messages, timeout=timeout):
        yield reply
        if (kind, str(number)) in asked:
            os.kill(os.getpid(), signal.SIGKILL)
InProcessGrid.send_and_receive = deadly
for number, kind in enumerate(EXCHANGES, start=1):
    victim = os.fork()  # importing everything again would take most of the time
    if not victim:
        run_masked(out, nodes)
        os._exit(0)
    status = os.waitpid(victim, 0)[1]
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    assert len(lines(Path(out))) == number - 1
"""
"""One process after the other, each of which dies in another exchange, and in the next round."""


def lines(out):
    path = out / "rounds.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def kill_after(out, rounds):
    """Run until so many rounds are logged, then kill without warning."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, str(out)], env=environment)
    while len(lines(out)) < rounds:
        assert victim.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    victim.send_signal(signal.SIGKILL)
    victim.wait()


def run_here(out):
    with fleet_grid({"car1": "nan"}) as grid:
        run_federation(grid, small_run(rounds=ROUNDS), out, resume=True)
    records = [json.loads(line) for line in lines(out)]
    for record in records:
        del record["wall_s"]
    return (out / "model.safetensors").read_bytes(), records


@pytest.mark.slow
def test_a_killed_run_ends_as_the_undisturbed_one(tmp_path):
    kill_after(tmp_path / "killed", rounds=3)
    kill_after(tmp_path / "killed", rounds=6)
    assert run_here(tmp_path / "killed") == run_here(tmp_path / "whole")
    verify_audit(tmp_path / "killed")


def run_masked(out, nodes):
    """Four rounds of secure sums with the real vehicles; nodes as JSON."""
    small_federation.run_small_federation(
        None,
        small_federation.small_run(update=MASKED, rounds=len(EXCHANGES)),
        Path(out),
        resume=True,
        nodes={int(node): config for node, config in json.loads(nodes).items()},
    )


@pytest.mark.slow
def test_a_run_killed_in_every_exchange_of_a_secure_sum_ends_as_the_undisturbed_one(
    small_fleet, tmp_path
):
    nodes = json.dumps(small_federation.protect(small_fleet, MASKED))
    folder = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{folder.parent}"}
    command = [sys.executable, "-c", MASKED_VICTIMS, str(tmp_path / "killed"), nodes]
    subprocess.run(command, env=environment, check=True, timeout=100)
    run_masked(tmp_path / "killed", nodes)
    run_masked(tmp_path / "whole", nodes)

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    assert small_federation.model_bytes(killed) == small_federation.model_bytes(whole)
    rounds = small_federation.round_lines(killed)
    assert rounds == small_federation.round_lines(whole)
    assert [line["completed"] for line in rounds] == [6] * len(EXCHANGES)
    verify_audit(killed)
