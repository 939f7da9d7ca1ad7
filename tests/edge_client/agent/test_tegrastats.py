"""tegrastats of several boards and versions."""

import pytest

from convoy_edge_client.agent.tegrastats import JetsonStats, parse_tegrastats, read_tegrastats

ORIN_NANO = (
    "11-24-2026 15:42:01 RAM 2448/7620MB (lfb 4x4MB) SWAP 0/3810MB (cached 0MB) "
    "CPU [3%@729,1%@729,0%@729,0%@729,off,off] EMC_FREQ 0%@2133 GR3D_FREQ 17%@[305] "
    "NVDEC off cpu@47.593C soc2@46.1C soc0@46.3C gpu@45.2C tj@47.593C soc1@46.2C "
    "VDD_IN 4874mW/4874mW VDD_CPU_GPU_CV 483mW/483mW"
)
XAVIER = (
    "RAM 3904/7771MB (lfb 571x4MB) SWAP 0/3886MB (cached 0MB) CPU [12%@1190,9%@1190] "
    "EMC_FREQ 0% GR3D_FREQ 98% AO@36.5C GPU@37C PMIC@100C AUX@36.5C CPU@38C thermal@37.2C "
    "VDD_IN 4031/4031"
)
NANO = "RAM 1/3964MB CPU [2%@102] PLL@33C CPU@35.5C PMIC@50C GPU@33C AO@40C thermal@34.25C"
GPU_OFF = "CPU [2%@102] GR3D_FREQ 0% cpu@35.5C gpu@-256C tj@35.5C"


@pytest.mark.parametrize(
    ("line", "stats"),
    [
        (ORIN_NANO, JetsonStats(gpu_load=0.17, temperature_c=47.593)),
        (XAVIER, JetsonStats(gpu_load=0.98, temperature_c=38.0)),
        (NANO, JetsonStats(gpu_load=None, temperature_c=40.0)),
        (GPU_OFF, JetsonStats(gpu_load=0.0, temperature_c=35.5)),
        ("", JetsonStats(gpu_load=None, temperature_c=None)),
        ("no such device", JetsonStats(gpu_load=None, temperature_c=None)),
    ],
)
def test_a_line_says_load_and_hottest_sensor(line, stats):
    assert parse_tegrastats(line) == stats


def test_the_first_line_is_taken_and_the_tool_is_ended(tmp_path, monkeypatch):
    tool = tmp_path / "tegrastats"
    tool.write_text(f"#!/bin/sh\necho '{XAVIER}'\nexec sleep 600\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    assert read_tegrastats() == JetsonStats(gpu_load=0.98, temperature_c=38.0)


@pytest.mark.parametrize("text", [None, "#!/bin/sh\nexit 1\n"])
def test_a_machine_without_it_has_none(tmp_path, monkeypatch, text):
    if text is not None:
        (tmp_path / "tegrastats").write_text(text)
        (tmp_path / "tegrastats").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    assert read_tegrastats() is None
