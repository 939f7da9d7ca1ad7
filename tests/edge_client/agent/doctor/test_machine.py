"""Findings about the machine, from what was measured."""

import pytest

from convoy_edge_client.agent.agent_config import GuardConfig
from convoy_edge_client.agent.doctor import machine
from convoy_protos.findings import Level

WARM = GuardConfig(maximum_temperature_c=85)


@pytest.mark.parametrize(
    ("finding", "level", "words"),
    [
        (machine.python_finding((3, 12), "3.12.1, aarch64"), Level.OK, "3.12.1, aarch64"),
        (machine.python_finding((3, 10), "3.10.12"), Level.WARNING, "needs Python 3.11 or newer"),
        (
            machine.torch_finding("2.13", "", cuda=True, device="cuda:0"),
            Level.OK,
            "2.13, CUDA",
        ),
        (machine.torch_finding("2.13", "", cuda=False, device="auto"), Level.OK, "no CUDA"),
        (
            machine.torch_finding("2.13", "", cuda=False, device="cuda"),
            Level.PROBLEM,
            'sees no CUDA device, but device = "cuda"',
        ),
        (
            machine.torch_finding(None, "No module named 'torch'", cuda=False, device="auto"),
            Level.PROBLEM,
            "pip install 'convoy-fl[train]'",
        ),
        (machine.flower_finding("1.41.0"), Level.OK, "1.41.0"),
        (machine.flower_finding(None), Level.PROBLEM, "pip install 'convoy-fl[train]'"),
        (
            machine.onnxruntime_finding("1.23", ["CPUExecutionProvider"], jetson=False),
            Level.OK,
            "1.23, CPU",
        ),
        (
            machine.onnxruntime_finding("1.23", ["CPUExecutionProvider"], jetson=True),
            Level.WARNING,
            "onnxruntime-gpu",
        ),
        (
            machine.onnxruntime_finding(
                "1.23", ["TensorrtExecutionProvider", "CPUExecutionProvider"], jetson=True
            ),
            Level.OK,
            "Tensorrt, CPU",
        ),
        (machine.power_mode_finding("NV Power Mode: MAXN\n0\n"), Level.OK, "MAXN"),
        (machine.power_mode_finding("NV Power Mode: 15W\n2\n"), Level.OK, "sudo nvpmodel -m 0"),
        (machine.power_mode_finding(""), Level.WARNING, "sudo nvpmodel -q"),
        (machine.swap_finding(0, 0, 16_000), Level.OK, "none"),
        (machine.swap_finding(0, 0, 3_900), Level.WARNING, "add zram"),
        (machine.swap_finding(4_000, 100, 3_900), Level.OK, "100 of 4000 MB used"),
        (machine.swap_finding(4_000, 3_900, 16_000), Level.WARNING, "lower batch_size"),
        (machine.thermal_finding(None, None), Level.OK, "no sensor"),
        (machine.thermal_finding(50, None), Level.OK, "50 C"),
        (machine.thermal_finding(None, GuardConfig()), Level.OK, "no sensor"),
        (machine.thermal_finding(None, WARM), Level.PROBLEM, "set it to 0"),
        (machine.thermal_finding(50, GuardConfig()), Level.WARNING, "set maximum_temperature_c"),
        (machine.thermal_finding(50, WARM), Level.OK, "35 below the limit"),
        (machine.thermal_finding(90, WARM), Level.WARNING, "cool or shade"),
        (machine.memory_finding(400, 4000, GuardConfig()), Level.OK, "400 of 4000 MB free"),
        (machine.memory_finding(200, 4000, GuardConfig()), Level.WARNING, "work waits for 300"),
        (machine.memory_finding(200, 4000, None), Level.OK, "200 of 4000"),
        (machine.disk_finding(600, "/s", GuardConfig()), Level.OK, "600 MB free for /s"),
        (machine.disk_finding(400, "/s", GuardConfig()), Level.PROBLEM, "make room"),
    ],
)
def test_each_finding_says_what_was_found_and_the_way_out(finding, level, words):
    assert finding.level is level
    assert words in finding.message


def test_the_machine_itself_is_looked_at():
    assert machine.look_at_python().level is Level.OK
    assert machine.look_at_onnxruntime().message
    assert machine.installed("convoy-fl")
    assert machine.installed("no-such-distribution") is None


def test_a_board_says_its_power_mode(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.look_at_power_mode() == []

    (tmp_path / "nvpmodel").write_text("#!/bin/sh\necho 'NV Power Mode: MAXN'\n")
    (tmp_path / "nvpmodel").chmod(0o755)

    assert [one.message for one in machine.look_at_power_mode()] == ["MAXN"]
