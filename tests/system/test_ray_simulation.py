"""The same two apps in Flower's own Ray simulation end with the model of the in-process grid."""

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from small_federation import round_lines, run_small_federation, small_run
from small_fleet import record_small_fleet

from convoy_driving.parameters import load_parameters

pytest.importorskip("ray", reason="needs the optional package ray")

PROGRAM = Path(__file__).parents[1] / "ray_federation.py"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_flowers_own_simulation_gives_the_same_model_and_leaves_no_process(tmp_path):
    fleet = record_small_fleet(tmp_path / "fleet", vehicle_count=3)
    run_small_federation(fleet, small_run(), tmp_path / "in_process")
    mark = f"CONVOY_TEST_MARK={uuid.uuid4().hex}"
    environment = {
        **os.environ,
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        **dict([mark.split("=")]),
    }

    subprocess.run(
        [sys.executable, str(PROGRAM), str(fleet.fleet_file), str(tmp_path / "ray")],
        env=environment,
        check=True,
        timeout=240,
    )

    in_ray, alone = (
        load_parameters(tmp_path / run / "model.safetensors")[0] for run in ("ray", "in_process")
    )
    # Ray's replies come in any order, and a sum of floats depends on its order.
    np.testing.assert_allclose(in_ray, alone, rtol=0, atol=1e-5)
    for line in round_lines(tmp_path / "ray"):
        assert (line["completed"], line["rejected"], line["lost"]) == (3, {}, 0)
    patience_s = time.monotonic() + 30  # Ray's actors end when they notice that Ray has
    while processes_with(mark) and time.monotonic() < patience_s:
        time.sleep(0.2)
    assert processes_with(mark) == []


def processes_with(mark):
    """Command lines of the processes that have this in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_bytes())
            except OSError:
                continue
    return found
