"""The service's one log: JSON lines or text on standard error, with run, round and vehicle.

    time       UTC, to the millisecond
    level      debug, info, warning, error, critical
    process    supervisor, superlink, executor, …
    logger     who says it
    message    one line, for people
    run, round, vehicle
               where they are known: from `bind`, or from `extra=` of the call
    traceback  of an exception

Child processes of ours write the same lines; `relay` passes them on as they are and turns what others
print into records. Nothing that looks like a private key leaves the process, whoever tries to log it.
"""

import json
import logging
import re
import sys
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from convoy_server.service.server_config import LogConfig

FIELDS: Final = ("run", "round", "vehicle")
"""What a record may say beside its message."""

ADOPTED: Final = ("flwr", "uvicorn", "uvicorn.access", "uvicorn.error", "grpc")
"""Loggers of libraries that would write elsewhere, or in another format."""

_SECRETS: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|convoy sealing key/\d+ \S+ \S+",
    re.DOTALL,
)
_LEVEL_AT_START: Final = re.compile(
    r"\s*(?:\x1b\[[0-9;]*m)*(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b(?:\x1b\[[0-9;]*m)*\s*:?\s*"
)
_TERMINAL_CODES: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

_bound: ContextVar[Mapping[str, Any] | None] = ContextVar("convoy_log_fields", default=None)


def set_up_log(config: LogConfig, process: str, stream: TextIO | None = None) -> None:
    """Send everything that this process logs into one stream; for entry points.

    Args:
        config: Table [log].
        process: What to call this process in every line.
        stream: Where to; None: standard error.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        JsonFormatter(process) if config.format == "json" else TextFormatter(process)
    )
    root = logging.getLogger()
    for before in list(root.handlers):
        root.removeHandler(before)
    root.addHandler(handler)
    root.setLevel(config.level.upper())
    if config.level != "debug":
        # A line a request would bury the rest.
        logging.getLogger("httpx").setLevel(logging.WARNING)
    adopt(ADOPTED)


def adopt(names: Iterable[str]) -> None:
    """Let these loggers write where the root does, and nowhere else.

    Call it again after a library set up its own logging; uvicorn does not, with log_config=None.
    """
    for name in names:
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
        logger.propagate = True
        logger.setLevel(logging.NOTSET)


def bind(**fields: Any) -> None:
    """What every later record of this thread, or this task, says; replaces what was bound before."""
    unknown = set(fields) - set(FIELDS)
    if unknown:
        raise ValueError(f"fields of the log are {', '.join(FIELDS)}, got {', '.join(unknown)}")
    _bound.set(fields)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Run, round and vehicle of a record, as far as they are known; `extra=` wins over `bind`."""
    known = dict(_bound.get() or {})
    known |= {name: record.__dict__[name] for name in FIELDS if name in record.__dict__}
    return {name: known[name] for name in FIELDS if name in known}


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its break."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "process": record.__dict__.get("child", self._process),
            "logger": record.name,
            "message": without_secrets(record.getMessage()),
        }
        line |= {
            name: without_secrets(value) if isinstance(value, str) else value
            for name, value in fields_of(record).items()
        }
        if record.exc_info:
            line["traceback"] = without_secrets(self.formatException(record.exc_info))
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """The same for eyes."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its break, and the traceback below it."""
        process = record.__dict__.get("child", self._process)
        fields = "".join(f" {name}={value}" for name, value in fields_of(record).items())
        message = " ".join(record.getMessage().split())
        line = f"{_time(record)} {record.levelname:<7} {process}{fields}: {message}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return without_secrets(line)


def without_secrets(text: str) -> str:
    """The text with private keys taken out."""
    return _SECRETS.sub("[private key]", text)


def relay(lines: Iterable[bytes], process: str, stream: TextIO | None = None) -> None:
    """Bring the output of a child process into the log until it ends; runs in a thread of its own.

    Args:
        lines: Its standard output and error, together.
        process: What to call the child.
        stream: Where its own JSON lines go as they are; None: standard error.
    """
    logger = logging.getLogger(f"{__name__}.{process}")
    out = stream or sys.stderr
    for raw in lines:
        text = _TERMINAL_CODES.sub("", raw.decode("utf-8", "replace")).rstrip()
        if not text.strip():
            continue
        if is_our_line(text):
            out.write(without_secrets(text) + "\n")
            out.flush()
            continue
        level, message = level_of(text)
        logger.log(level, "%s", message, extra={"child": process})


def is_our_line(text: str) -> bool:
    """Whether a line is one of `JsonFormatter`."""
    if not text.startswith('{"time": "'):
        return False
    try:
        line = json.loads(text)
    except ValueError:
        return False
    return isinstance(line, dict) and {"time", "level", "process", "logger", "message"} <= set(line)


def level_of(text: str) -> tuple[int, str]:
    """Level and message of a line that another program printed, such as Flower's "INFO :      ..."."""
    found = _LEVEL_AT_START.match(text)
    if found is None:
        return logging.INFO, text
    return logging.getLevelNamesMapping()[found[1]], text[found.end() :]


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
