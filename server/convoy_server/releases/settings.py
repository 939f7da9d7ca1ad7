"""RELEASES/releases.toml: how long signatures last and when a rollout pauses; for the verbs and the service."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from convoy_protos.settings import from_table
from convoy_server import storage
from convoy_server.errors import ReleaseFolderError
from convoy_server.releases.repository import Lifetimes, translated
from convoy_server.releases.rollout import RolloutBounds

SETTINGS_FILE: Final = "releases.toml"

_TEXT: Final = """\
# Read by `convoy release ...` and the release service. Every key stands here with its default.

# Days until what was signed must be signed again.
[days]
# Two of three root keys, two of three targets keys.
root = 365
targets = 90
# The server's own, which it renews by itself. As long as `timestamp` a copy on a stick is good for, and
# somebody on the way can hold an update back.
channels = 30
snapshot = 7
timestamp = 1

# A rollout pauses by itself when more of the vehicles with an outcome failed, or went back.
[rollout]
max_failure_rate = 0.05
max_rollback_rate = 0.05
# Failures, or roll-backs, below which no rate counts.
min_bad = 2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseSettings:
    """The file.

    Attributes:
        days: Table [days].
        rollout: Table [rollout].
    """

    days: Lifetimes = field(default_factory=Lifetimes)
    rollout: RolloutBounds = field(default_factory=RolloutBounds)


def write_settings(releases: Path) -> None:
    """Write the defaults, each with its meaning.

    Raises:
        ReleaseFolderError: The disk refuses.
    """
    with translated(releases):
        storage.make_directory(releases)
        storage.write_file(releases / SETTINGS_FILE, _TEXT.encode())


def load_settings(releases: Path) -> ReleaseSettings:
    """Read the file; without one, the defaults.

    Raises:
        ReleaseFolderError: It cannot be read, or is no TOML.
        SettingsError: Names the table, the key and what is expected.
    """
    path = releases / SETTINGS_FILE
    if not path.exists():
        return ReleaseSettings()
    with translated(path):
        data = path.read_bytes()
    try:
        table = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ReleaseFolderError(path, f"no valid TOML: {error}") from error
    return from_table(ReleaseSettings, table, str(path))
