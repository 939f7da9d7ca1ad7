"""NVIDIA's tegrastats: load and temperatures of a Jetson, one line a look.

Source: NVIDIA Jetson Linux Developer Guide, "tegrastats Utility". A line of an Orin:

    11-24-2026 15:42:01 RAM 2448/7620MB (lfb 4x4MB) SWAP 0/3810MB (cached 0MB) CPU [3%@729,1%@729]
    GR3D_FREQ 17% cpu@47.5C gpu@45.2C tj@47.5C VDD_IN 4874mW/4874mW
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Final

_GPU: Final = re.compile(r"\bGR3D_FREQ (\d{1,3})%")
_TEMPERATURE: Final = re.compile(r"\b(?!PMIC)[\w.-]+@(-?\d+(?:\.\d+)?)C\b")
"""The power chip of a Nano or Xavier shows 50 or 100 C whatever it is."""
_ABSENT_C: Final = -100.0
"""A sensor whose part is switched off shows -256 C."""


@dataclass(frozen=True, slots=True)
class JetsonStats:
    """One line of tegrastats; None: it does not say.

    Attributes:
        gpu_load: In 0..1.
        temperature_c: Of the hottest sensor.
    """

    gpu_load: float | None
    temperature_c: float | None


def parse_tegrastats(line: str) -> JetsonStats:
    """What a line says; lines of other versions give what they have in common."""
    gpu = _GPU.search(line)
    temperatures = [float(match) for match in _TEMPERATURE.findall(line)]
    present = [temperature for temperature in temperatures if temperature > _ABSENT_C]
    return JetsonStats(
        gpu_load=int(gpu.group(1)) / 100 if gpu else None,
        temperature_c=max(present, default=None),
    )


def read_tegrastats(interval_ms: int = 100) -> JetsonStats | None:
    """One look, which takes the interval; None: this is no Jetson, or the tool says nothing."""
    program = shutil.which("tegrastats")
    if program is None:
        return None
    with subprocess.Popen(  # noqa: S603 - NVIDIA's own tool
        [program, "--interval", str(interval_ms)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
        finally:
            process.kill()
    return parse_tegrastats(line) if line else None
