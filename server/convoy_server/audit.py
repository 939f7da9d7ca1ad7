"""A log that tells when someone edited it: audit.jsonl, a hash chain of one JSON line an event.

A line is canonical JSON (sorted keys, no spaces) of

    event      what happened; no secrets, no updates, only ids, counts and digests
    number     of the line, from 1
    previous   SHA-256 of the line before, 64 zeros in the first
    time       UTC, to the second
    sha256     over the same object without this key

So editing, deleting, inserting and reordering break the chain. Cutting lines off the end does not;
therefore checkpoint/audit_head.json holds the last line, and is written before the line is appended:
a crash in between is mended when the log is opened again, and anything else missing is found. Every
event "round" carries the digest of its line in rounds.jsonl, and "finished" that of model.safetensors:
editing those is found as well.

Whoever can write both files can write another history: a hash chain proves consistency, not origin.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from convoy_server.errors import BrokenAuditError, StorageError
from convoy_server.storage import append_line, write_file

AUDIT_FILE: Final = "audit.jsonl"
HEAD_FILE: Final = "checkpoint/audit_head.json"
ROUNDS_FILE: Final = "rounds.jsonl"
MODEL_FILE: Final = "model.safetensors"

Clock = Callable[[], datetime]
Event = Mapping[str, Any]

_START: Final = "0" * 64


def utc_now() -> datetime:
    """The clock of real runs."""
    return datetime.now(UTC)


class AuditLog:
    """The log of one run directory, open for appending; made by `open_audit`."""

    def __init__(self, out: Path, lines: list[dict[str, Any]], now: Clock) -> None:
        self._out = out
        self._now = now
        self._number = len(lines)
        self._previous: str = lines[-1]["sha256"] if lines else _START
        self._rounds = [
            line["event"]["round"] for line in lines if line["event"].get("kind") == "round"
        ]

    @property
    def last_round(self) -> int:
        """Number of the last round logged; 0 before the first."""
        return int(self._rounds[-1]) if self._rounds else 0

    def append(self, event: Event) -> None:
        """Log one event; it is on disk when this returns."""
        record: dict[str, Any] = {
            "event": dict(event),
            "number": self._number + 1,
            "previous": self._previous,
            "time": self._now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        record["sha256"] = _digest(record)
        line = _canonical(record)
        write_file(self._out / HEAD_FILE, line.encode() + b"\n")
        append_line(self._out / AUDIT_FILE, line)
        self._number += 1
        self._previous = record["sha256"]
        if event.get("kind") == "round":
            self._rounds.append(event["round"])


def open_audit(out: Path, now: Clock) -> AuditLog:
    """Open for appending, mending what a crash can have left: a torn or missing last line.

    Raises:
        BrokenAuditError: Something else is wrong with it.
    """
    path, head = out / AUDIT_FILE, _read(out / HEAD_FILE)
    data = _read(path)
    whole, _, torn = data.rpartition(b"\n")
    if torn and head.startswith(torn):
        data = whole + b"\n" if whole else b""
        write_file(path, data)
    lines = _check_chain(path, data)
    if head and head.rstrip(b"\n") not in data.split(b"\n"):
        record = _parse(path, len(lines) + 1, head.rstrip(b"\n"))
        _check_link(path, len(lines) + 1, record, lines)
        append_line(path, head.decode().rstrip("\n"))
        lines.append(record)
    _check_head(path, lines, head)
    return AuditLog(out, lines, now)


def verify_audit(out: Path) -> int:
    """Check every line of the log, and rounds.jsonl and model.safetensors against it.

    Returns:
        How many events the log holds.

    Raises:
        BrokenAuditError: Names the first bad line and what is wrong with it.
    """
    path = out / AUDIT_FILE
    data = _read(path)
    if not data:
        raise BrokenAuditError(path, 1, "missing or empty: no run has been logged here")
    lines = _check_chain(path, data)
    _check_head(path, lines, _read(out / HEAD_FILE))
    _check_rounds(out / ROUNDS_FILE, lines)
    _check_model(out / MODEL_FILE, lines[-1]["event"])
    return len(lines)


def _check_chain(path: Path, data: bytes) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    *encoded, rest = data.split(b"\n")
    for number, line in enumerate(encoded, start=1):
        record = _parse(path, number, line)
        _check_link(path, number, record, lines)
        lines.append(record)
    if rest:
        raise BrokenAuditError(
            path, len(lines) + 1, "the last line is torn; --resume mends what a crash left"
        )
    return lines


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BrokenAuditError(path, number, "edited: the line is not JSON") from error
    expected = {"event", "number", "previous", "time", "sha256"}
    if not isinstance(record, dict) or set(record) != expected:
        raise BrokenAuditError(path, number, "edited: the line is not an audit record")
    body = {key: value for key, value in record.items() if key != "sha256"}
    if record["sha256"] != _digest(body) or _canonical(record).encode() != line:
        raise BrokenAuditError(path, number, "edited: the line does not have its own SHA-256")
    if not isinstance(record["event"], dict):
        raise BrokenAuditError(path, number, "edited: the event is not an object")
    return record


def _check_link(
    path: Path, number: int, record: dict[str, Any], before: list[dict[str, Any]]
) -> None:
    previous = before[-1]["sha256"] if before else _START
    if record["number"] != number:
        fault = f"expected line {number}, got line {record['number']}: deleted, inserted or moved"
        raise BrokenAuditError(path, number, fault)
    if record["previous"] != previous:
        raise BrokenAuditError(path, number, "does not follow the line before: one was replaced")


def _check_head(path: Path, lines: list[dict[str, Any]], head: bytes) -> None:
    if not head and not lines:
        return
    if not head.endswith(b"\n"):
        raise BrokenAuditError(path, len(lines), f"{HEAD_FILE} is missing or edited")
    record = _parse(path.parent / HEAD_FILE, 1, head[:-1])
    if not lines or record["number"] > len(lines):
        fault = f"{record['number']} lines were written, {len(lines)} are left: the end was cut off"
        raise BrokenAuditError(path, len(lines) + 1, fault)
    if record["sha256"] != lines[-1]["sha256"]:
        raise BrokenAuditError(path, len(lines), f"is not the last line that {HEAD_FILE} holds")


def _check_rounds(path: Path, lines: list[dict[str, Any]]) -> None:
    events = [line["event"] for line in lines if line["event"].get("kind") == "round"]
    *encoded, rest = _read(path).split(b"\n")
    for number, event in enumerate(events, start=1):
        if number > len(encoded):
            raise BrokenAuditError(path, number, f"the line of round {event['round']} is missing")
        if hashlib.sha256(encoded[number - 1]).hexdigest() != event["record_sha256"]:
            raise BrokenAuditError(path, number, "edited: not the line that the audit log knows")
    if rest or len(encoded) > len(events):
        raise BrokenAuditError(path, len(events) + 1, "a line that the audit log does not know")


def _check_model(path: Path, last: dict[str, Any]) -> None:
    if last.get("kind") != "finished":
        return
    if hashlib.sha256(_read(path)).hexdigest() != last["file_sha256"]:
        raise BrokenAuditError(path, 1, "edited or missing: not the model that the run wrote")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise StorageError(path, error) from error


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(record).encode()).hexdigest()


def _canonical(record: Mapping[str, Any]) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
