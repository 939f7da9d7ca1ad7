"""A real SIGKILL in the middle of a real process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fleet_double import fleet_grid, small_run

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
