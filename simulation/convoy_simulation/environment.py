"""Where and how a run was made, for its report."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from convoy_server.report.contract import Environment
from convoy_simulation.worker_pool import worker_count

PACKAGES = ("convoy-fl", "flwr", "torch", "onnxruntime", "numpy", "gymnasium")


def describe(command: str) -> Environment:
    """This machine, now.

    Args:
        command: What to type to get the same run.
    """
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # an extra that is left out
            continue
    return Environment(
        command=command,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        versions=versions,
    )


def machine() -> str:
    """Processor, cores this process may use, memory, operating system."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (
        f"{processor()}, {worker_count(0)} cores, {memory_bytes / 2**30:.0f} GiB, "
        f"{platform.system()} {platform.machine()}"
    )


def processor() -> str:
    """The processor's own name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"
