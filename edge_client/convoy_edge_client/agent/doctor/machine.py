"""What the machine itself is like: programs, power, swap, temperature, memory, disk."""

import importlib
import importlib.metadata
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from convoy_edge_client.agent.agent_config import GuardConfig
from convoy_protos.findings import Finding, ok, problem, warning

_OLDEST_PYTHON: Final = (3, 11)
_SMALL_MEMORY_MB: Final = 4500.0
"""A Jetson of nominal 4 GB shows less than this."""
_TOOL_TIMEOUT_S: Final = 5.0


def look_at_python() -> Finding:
    """The interpreter that this runs in."""
    return python_finding(
        sys.version_info[:2], f"{platform.python_version()}, {platform.machine()}"
    )


def python_finding(version: tuple[int, ...], text: str) -> Finding:
    """Whether training can run in it."""
    if version < _OLDEST_PYTHON:
        return warning("Python", f"{text}: drives, but training needs Python 3.11 or newer")
    return ok("Python", text)


def look_at_torch(device: str) -> Finding:
    """Import torch, which takes a second or two."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        return torch_finding(None, str(error), cuda=False, device=device)
    return torch_finding(torch.__version__, "", cuda=torch.cuda.is_available(), device=device)


def torch_finding(version: str | None, error: str, *, cuda: bool, device: str) -> Finding:
    """Whether training can run, and on what the vehicle's `device` says."""
    if version is None:
        return problem(
            "torch", f"training needs it: pip install 'convoy-fl[train]' ({error or 'missing'})"
        )
    if device.startswith("cuda") and not cuda:
        return problem(
            "torch",
            f'{version} sees no CUDA device, but device = "{device}": install a torch built for this '
            'machine\'s CUDA, or set device = "cpu"',
        )
    return ok("torch", f"{version}, {'CUDA' if cuda else 'no CUDA, trains on the processor'}")


def look_at_onnxruntime() -> Finding:
    """Import onnxruntime."""
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError as error:
        return problem("onnxruntime", f"driving needs it: pip install convoy-fl ({error})")
    return onnxruntime_finding(
        onnxruntime.__version__,
        onnxruntime.get_available_providers(),
        jetson=shutil.which("tegrastats") is not None,
    )


def onnxruntime_finding(version: str, providers: Sequence[str], *, jetson: bool) -> Finding:
    """What a released model can run on."""
    names = [provider.removesuffix("ExecutionProvider") for provider in providers]
    text = f"{version}, {', '.join(names)}"
    if jetson and not {"Tensorrt", "CUDA"} & set(names):
        return warning(
            "onnxruntime",
            f"{text}: a Jetson drives faster with TensorRT; install NVIDIA's onnxruntime-gpu for "
            "this JetPack",
        )
    return ok("onnxruntime", text)


def look_at_power_mode() -> list[Finding]:
    """Ask nvpmodel; nothing where there is none."""
    program = shutil.which("nvpmodel")
    if program is None:
        return []
    try:
        done = subprocess.run(  # noqa: S603 - NVIDIA's own tool
            [program, "-q"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TOOL_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [warning("power mode", f"nvpmodel -q does not answer ({error})")]
    return [power_mode_finding(done.stdout)]


def power_mode_finding(printed: str) -> Finding:
    """By what `nvpmodel -q` printed: "NV Power Mode: 15W"."""
    modes = [
        line.partition(":")[2].strip() for line in printed.splitlines() if "Power Mode" in line
    ]
    if not modes:
        return warning("power mode", "nvpmodel -q says nothing; try `sudo nvpmodel -q`")
    if modes[0].startswith("MAXN"):
        return ok("power mode", modes[0])
    return ok(
        "power mode", f"{modes[0]}; `sudo nvpmodel -m 0` is the fastest, if the supply allows"
    )


def swap_finding(total_mb: float, used_mb: float, memory_mb: float) -> Finding:
    """Whether a peak of memory ends in waiting or in a killed process."""
    if total_mb and used_mb > 0.8 * total_mb:
        return warning(
            "swap",
            f"{used_mb:.0f} of {total_mb:.0f} MB used: more memory is needed than there is; end other "
            "programs or lower batch_size",
        )
    if not total_mb and memory_mb < _SMALL_MEMORY_MB:
        return warning(
            "swap",
            f"none, with {memory_mb:.0f} MB of memory: a peak ends in a killed process; add zram or a "
            "swap file",
        )
    return ok("swap", f"{used_mb:.0f} of {total_mb:.0f} MB used" if total_mb else "none")


def thermal_finding(temperature_c: float | None, guards: GuardConfig | None) -> Finding:
    """How far the hottest sensor is from where work stops."""
    limit_c = guards.maximum_temperature_c if guards is not None else 0.0
    if temperature_c is None:
        if limit_c:
            return problem(
                "temperature",
                f"no sensor is found, but maximum_temperature_c = {limit_c:g}: set it to 0, or nothing "
                "is ever trained",
            )
        return ok("temperature", "no sensor is found")
    if guards is not None and not limit_c:
        return warning(
            "temperature",
            f"{temperature_c:.0f} C and no limit: set maximum_temperature_c under [guards], such as 85",
        )
    if not limit_c:
        return ok("temperature", f"{temperature_c:.0f} C")
    if temperature_c > limit_c:
        return warning(
            "temperature", f"{temperature_c:.0f} C, work waits: cool or shade the device"
        )
    return ok(
        "temperature", f"{temperature_c:.0f} C, {limit_c - temperature_c:.0f} below the limit"
    )


def memory_finding(free_mb: float, total_mb: float, guards: GuardConfig | None) -> Finding:
    """Whether enough is free for work to start."""
    least_mb = guards.minimum_free_memory_mb if guards is not None else 0.0
    text = f"{free_mb:.0f} of {total_mb:.0f} MB free"
    if free_mb < least_mb:
        return warning(
            "memory", f"{text}, work waits for {least_mb:.0f}: end other programs, or lower "
            "minimum_free_memory_mb"
        )  # fmt: skip
    return ok("memory", text)


def disk_finding(free_mb: float, folder: str, guards: GuardConfig) -> Finding:
    """Whether enough is free for work to start."""
    text = f"{free_mb:.0f} MB free for {folder}"
    if free_mb < guards.minimum_free_disk_mb:
        return problem(
            "disk",
            f"{text}, at least {guards.minimum_free_disk_mb:.0f} needed: make room, move the state "
            "folder, or lower minimum_free_disk_mb",
        )
    return ok("disk", text)


def installed(distribution: str) -> str | None:
    """Its version; None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def flower_finding(version: str | None) -> Finding:
    """What the agent speaks to the server with."""
    if version is None:
        return problem("Flower", "training needs it: pip install 'convoy-fl[train]'")
    return ok("Flower", version)
