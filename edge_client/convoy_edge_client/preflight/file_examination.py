"""Examine every ONNX file of a release; runs in a process of its own (worker.py)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from convoy_edge_client.errors import ReleaseFileError
from convoy_edge_client.preflight.checked_file import checked_content
from convoy_edge_client.preflight.model_file import driver_contract, examine
from convoy_edge_client.preflight.preflight_config import FileLimits
from convoy_protos.findings import Finding, problem
from convoy_protos.release_manifest import FileFacts, Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamineOrder:
    """What to examine.

    Attributes:
        folder: With the release's files.
        models: What each variant's file must be.
        frame_height: Pixels that the manifest promises.
        frame_width: Likewise.
        limits: What a file may hold.
    """

    folder: str
    models: Mapping[str, FileFacts]
    frame_height: int
    frame_width: int
    limits: FileLimits


def examine_files(order: ExamineOrder) -> list[Finding]:
    """All findings about all files."""
    contract = driver_contract(order.frame_height, order.frame_width)
    findings: list[Finding] = []
    for name, facts in order.models.items():
        try:
            content = checked_content(Path(order.folder) / Variant(name).file_name, facts)
        except ReleaseFileError as error:
            findings.append(problem(f"{name} format", str(error)))
            continue
        findings += examine(content, name, contract, order.limits)
    return findings
