"""What a release repository holds, and how its files are called. Source: The Update Framework 1.0.

    metadata/N.root.json      offline keys: whose signatures count
    metadata/N.targets.json   2 of 3 offline keys: every release with its counter, and the policy
    metadata/N.channels.json  online key, may sign channels/* only: who gets which release
    metadata/N.snapshot.json  online key: which versions belong together
    metadata/timestamp.json   online key: the newest snapshot; the only file that is replaced
    targets/SHA256.policy.json
    targets/channels/SHA256.CHANNEL.json
    targets/releases/RELEASE/SHA256.FILE

A target is named without its hash: releases/RELEASE/FILE. What its signed entry says beyond TUF stands
under "custom": the release's counter, see `release_entry`.
"""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from convoy_privacy.errors import ReleaseFormatError

METADATA_FOLDER: Final = "metadata"
TARGETS_FOLDER: Final = "targets"
RELEASES_FOLDER: Final = "releases"
CHANNELS_FOLDER: Final = "channels"
CHANNELS_ROLE: Final = "channels"
CHANNELS_PATHS: Final = f"{CHANNELS_FOLDER}/*"
POLICY_TARGET: Final = "policy.json"
MANIFEST: Final = "manifest.json"

MAX_SMALL_FILE_BYTES: Final = 64 * 1024
"""Of a channel's pointer and of the policy."""
MAX_MANIFEST_BYTES: Final = 1 << 20
MAX_FILE_BYTES: Final = 1 << 30
"""Of one file of a release."""
MAX_FILES: Final = 64
"""In one release."""
CHUNK_BYTES: Final = 256 * 1024
"""What is read, sent and written at a time."""
MAX_ROOT_BYTES: Final = 64 * 1024
MAX_TIMESTAMP_BYTES: Final = 8 * 1024
MAX_SNAPSHOT_BYTES: Final = 64 * 1024
MAX_TARGETS_BYTES: Final = 2 << 20

MAX_COUNTER: Final = (1 << 53) - 1
"""What every reader of JSON holds exactly."""

_ENTRY_SCHEMA: Final = "convoy.release-entry/1"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_MAX_PATH: Final = 400


def release_target(release: str, file: str) -> str:
    """The target of one file of a release.

    Raises:
        ReleaseFormatError: A name that could lead elsewhere.
    """
    return f"{RELEASES_FOLDER}/{check_name(release)}/{check_name(file)}"


def channel_target(channel: str) -> str:
    """The target of a channel's pointer.

    Raises:
        ReleaseFormatError: A name that could lead elsewhere.
    """
    return f"{CHANNELS_FOLDER}/{check_name(channel)}.json"


def release_file(target: str) -> tuple[str, str] | None:
    """Release and file of a target; None where it is no file of a release.

    Raises:
        ReleaseFormatError: A name that could lead elsewhere.
    """
    parts = target.split("/")
    if len(parts) != 3 or parts[0] != RELEASES_FOLDER:
        return None
    return check_name(parts[1]), check_name(parts[2])


def stored_path(target: str, sha256: str) -> str:
    """Where a target's bytes lie in the repository.

    Raises:
        ReleaseFormatError: The hash is none.
    """
    check_sha256(sha256)
    folder, slash, name = target.rpartition("/")
    return f"{TARGETS_FOLDER}/{folder}{slash}{sha256}.{name}"


def check_name(name: str) -> str:
    """A name of a release, a channel, a tag or a file: letters, digits, dot, dash and underscore.

    Raises:
        ReleaseFormatError: It is none.
    """
    if not _NAME.fullmatch(name):
        raise ReleaseFormatError(
            f"{name[:40]!r} is no name: 1 to 100 letters, digits, dots, dashes and underscores, the "
            "first a letter or digit"
        )
    return name


def check_sha256(digest: object) -> str:
    """A hash as hexadecimal digits: it becomes the name of a file.

    TUF signs whatever text stands there; from a stolen online key it could be a path.

    Raises:
        ReleaseFormatError: It is none.
    """
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise ReleaseFormatError(f"expected 64 hexadecimal digits of SHA-256, got {digest!r:.40}")
    return digest


def check_path(path: str) -> str:
    """A path inside a repository, as a peer asks for it.

    Raises:
        ReleaseFormatError: It leads out of the repository, or nothing there is called so.
    """
    parts = path.split("/") if len(path) <= _MAX_PATH else []
    known = bool(parts) and parts[0] in (METADATA_FOLDER, TARGETS_FOLDER)
    if not known or not 2 <= len(parts) <= 4 or not all(map(_is_part, parts)):
        raise ReleaseFormatError(f"{path[:60]!r} is no path in a release repository")
    return str(PurePosixPath(path))


def release_entry(release: str, counter: int) -> dict[str, Any]:
    """What the signed entry of every file of a release says under "custom"."""
    return {"schema": _ENTRY_SCHEMA, "release": release, "counter": check_counter_range(counter)}


def read_release_entry(custom: object) -> tuple[str, int]:
    """Release and counter out of a signed entry.

    Raises:
        ReleaseFormatError: The entry is not one.
    """
    if not isinstance(custom, Mapping) or custom.get("schema") != _ENTRY_SCHEMA:
        raise ReleaseFormatError(f'"custom" of a release\'s file must have schema {_ENTRY_SCHEMA}')
    release, counter = custom.get("release"), custom.get("counter")
    if not isinstance(release, str):
        raise ReleaseFormatError(f'"release" must be a name, got {release!r:.40}')
    return check_name(release), check_counter_range(counter)


def check_counter_range(counter: object) -> int:
    """A release counter: an integer from 1 on.

    Raises:
        ReleaseFormatError: It is none.
    """
    if not isinstance(counter, int) or isinstance(counter, bool) or not 1 <= counter <= MAX_COUNTER:
        raise ReleaseFormatError(f"a release counter is in 1..{MAX_COUNTER}, got {counter!r:.40}")
    return counter


def _is_part(part: str) -> bool:
    # A stored name is a hash of 64 digits, a dot and a name.
    return len(part) <= 165 and bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", part))
