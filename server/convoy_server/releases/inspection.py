"""What is in a repository, and whether a vehicle would take it."""

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError

from convoy_privacy.errors import ReleaseFormatError
from convoy_privacy.releases.layout import MANIFEST
from convoy_privacy.releases.manifest import read_manifest
from convoy_privacy.releases.signed_texts import ChannelPointer
from convoy_server.errors import ReleaseFolderError
from convoy_server.releases.report_book import BOOK_FILE, ReportBook
from convoy_server.releases.repository import (
    REPOSITORY_FOLDER,
    AnyMetadata,
    RepositoryState,
    SignedRelease,
    check_signatures,
    load_state,
    read_channels,
    read_current_policy,
    signed_releases,
    target_file,
)
from convoy_server.releases.rollout import Outcome, tally

ROLES = ("root", "targets", "channels", "snapshot", "timestamp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A repository at a glance.

    Attributes:
        releases: The newest first.
        counts: Vehicles by outcome, for each release.
        channels: Pointers by name.
        minimum_counter: Of the policy.
        expires: Of each role.
    """

    releases: tuple[SignedRelease, ...]
    counts: dict[str, dict[Outcome, int]]
    channels: dict[str, ChannelPointer]
    minimum_counter: int
    expires: dict[str, datetime]


def overview(releases: Path) -> Overview:
    """Look at a repository.

    Raises:
        ReleaseFolderError: It is broken.
    """
    folder = releases / REPOSITORY_FOLDER
    state = load_state(folder)
    book = ReportBook(releases / BOOK_FILE)
    known = signed_releases(state.targets.signed)
    return Overview(
        releases=tuple(known),
        counts={one.release: tally(book.reports(one.release), one.release) for one in known},
        channels=read_channels(folder, state.channels.signed),
        minimum_counter=read_current_policy(folder, state.targets.signed).minimum_counter,
        expires={role: _metadata(state, role).signed.expires for role in ROLES},
    )


def contract(found: Overview) -> dict[str, Any]:
    """As `convoy release list --json` prints it."""
    return {
        "minimum_counter": found.minimum_counter,
        "releases": [
            {
                "release": one.release,
                "counter": one.counter,
                "files": {
                    name: {"sha256": target.hashes["sha256"], "bytes": target.length}
                    for name, target in sorted(one.files.items())
                },
                "vehicles": {
                    outcome.value: number for outcome, number in found.counts[one.release].items()
                },
            }
            for one in found.releases
        ],
        "channels": [dataclasses.asdict(pointer) for _, pointer in sorted(found.channels.items())],
        "expires": {role: expires.isoformat() for role, expires in found.expires.items()},
    }


def faults(folder: Path, now: datetime) -> Iterator[str]:
    """What a vehicle would refuse, one line each.

    Args:
        folder: A public repository: the server's, or a copy of it on a stick.
        now: With a time zone.

    Raises:
        ReleaseFolderError: There is none.
    """
    state = load_state(folder)
    try:
        check_signatures(state)
    except (RepositoryError, ValueError) as error:
        yield f"signatures: {error}"
    for role in ROLES:
        expires = _metadata(state, role).signed.expires
        if expires <= now:
            yield f"{role}: expired on {expires:%Y-%m-%d %H:%M}; sign it again"
    yield from _file_faults(folder, state)
    try:
        releases = signed_releases(state.targets.signed)
        pointers = read_channels(folder, state.channels.signed)
        minimum = read_current_policy(folder, state.targets.signed).minimum_counter
    except (ReleaseFolderError, ReleaseFormatError) as error:
        yield str(error)
        return
    known = {one.release: one for one in releases}
    for channel, pointer in pointers.items():
        signed = known.get(pointer.release)
        if signed is None or signed.counter != pointer.counter:
            yield f"{channel}: points at {pointer.release} {pointer.counter}, which is not signed"
        elif pointer.counter < minimum:
            yield f"{channel}: points at {pointer.release}, which is below the minimum {minimum}"
    for one in releases:
        yield from _manifest_faults(folder, one)


def _file_faults(folder: Path, state: RepositoryState) -> Iterator[str]:
    targets = state.targets.signed.targets | state.channels.signed.targets
    for path, target in sorted(targets.items()):
        stored = target_file(folder, target)
        if not stored.is_file():
            yield f"{path}: missing"
            continue
        with stored.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != target.hashes["sha256"]:
            yield f"{path}: not what was signed"


def _manifest_faults(folder: Path, release: SignedRelease) -> Iterator[str]:
    path = target_file(folder, release.files[MANIFEST])
    if not path.is_file():
        return  # said already
    try:
        listed = read_manifest(path.read_bytes()).files
    except ReleaseFormatError as error:
        yield f"{release.release}: {error}"
        return
    for name, file in listed.items():
        target = release.files.get(name)
        if target is None or (target.hashes["sha256"], target.length) != (file.sha256, file.length):
            yield f"{release.release}: {name} is not signed as its manifest lists it"


def _metadata(state: RepositoryState, role: str) -> AnyMetadata:
    metadata: AnyMetadata = getattr(state, role)
    return metadata
