"""Where and how a run was made, for its report."""

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from convoy_server.report.contract import Environment
from convoy_server.report.machine import machine

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
