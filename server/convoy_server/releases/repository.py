"""The repository of releases on disk: how it is read, how it begins. Source: TUF 1.0, sections 4 and 6.

    RELEASES/repository/      public: what vehicles fetch, and what a USB stick carries (layout.py)
    RELEASES/online/          the server's three private keys (release_keys.py)
    RELEASES/proposal/        what waits for signatures (proposal.py)

timestamp.json is the only file that is replaced, and the last one written: a crash before it leaves the
state that was there, and the next attempt writes over what nobody saw.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from convoy_privacy.errors import ReleaseFormatError
from convoy_privacy.releases.layout import (
    CHANNELS_FOLDER,
    CHANNELS_PATHS,
    CHANNELS_ROLE,
    MANIFEST,
    METADATA_FOLDER,
    POLICY_TARGET,
    read_release_entry,
    release_file,
    stored_path,
)
from convoy_privacy.releases.signed_texts import (
    ChannelPointer,
    ReleasePolicy,
    read_pointer,
    read_policy,
    write_policy,
)
from convoy_server import storage
from convoy_server.errors import ReleaseFolderError, StorageError
from convoy_server.releases.release_keys import OFFLINE_THRESHOLD, OfflineKeys, OnlineKeys

REPOSITORY_FOLDER: Final = "repository"
TARGETS_ROLE: Final = Targets.type

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)
AnyMetadata: TypeAlias = (
    Metadata[Root] | Metadata[Timestamp] | Metadata[Snapshot] | Metadata[Targets]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """Days until a role must be signed again; each at least 1.

    A vehicle that meets nothing fresher installs nothing more; it goes on with what it has.

    Attributes:
        root: Two of three root keys.
        targets: Two of three targets keys.
        channels: The server.
        snapshot: The server.
        timestamp: The server. How long somebody on the way can hold an update back, and how long a
            USB stick is good for.
    """

    root: int = 365
    targets: int = 90
    channels: int = 30
    snapshot: int = 7
    timestamp: int = 1

    def __post_init__(self) -> None:
        for role in self.__slots__:
            if getattr(self, role) < 1:
                raise ValueError(f"days of {role} must be at least 1, got {getattr(self, role)}")

    def expiry(self, role: str, now: datetime) -> datetime:
        """When a role that is signed now ends."""
        days: int = getattr(self, role)
        return (now + timedelta(days=days)).replace(microsecond=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryState:
    """The newest metadata of every role; never changed in place."""

    root: Metadata[Root]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    targets: Metadata[Targets]
    channels: Metadata[Targets]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRelease:
    """A release as the offline keys signed it.

    Attributes:
        release: Its name.
        counter: Its place in the order of all releases.
        files: By name, the manifest among them.
    """

    release: str
    counter: int
    files: Mapping[str, TargetFile]


def found(
    releases: Path,
    offline: OfflineKeys,
    online: OnlineKeys,
    now: datetime,
    lifetimes: Lifetimes,
) -> None:
    """Write the first version of everything: no release, no channel.

    Args:
        releases: RELEASES; its repository folder must not be there yet.
        offline: All six sign.
        online: All three sign.
        now: With a time zone.
        lifetimes: Of the roles.

    Raises:
        ReleaseFolderError: There is a repository, or it cannot be written.
    """
    folder = releases / REPOSITORY_FOLDER
    if folder.exists():
        raise ReleaseFolderError(folder, "there is a repository already; choose another folder")
    root = Root(version=1, expires=lifetimes.expiry("root", now), consistent_snapshot=True)
    keys: dict[str, Sequence[Signer]] = {
        "root": offline.root,
        "targets": offline.targets,
        "snapshot": [online.snapshot],
        "timestamp": [online.timestamp],
    }
    for role, signers in keys.items():
        for signer in signers:
            root.add_key(signer.public_key, role)
    root.roles["root"].threshold = root.roles["targets"].threshold = OFFLINE_THRESHOLD
    targets = Targets(version=1, expires=lifetimes.expiry("targets", now))
    channels_role = DelegatedRole(
        CHANNELS_ROLE, [], threshold=1, terminating=True, paths=[CHANNELS_PATHS]
    )
    targets.delegations = Delegations({}, {CHANNELS_ROLE: channels_role})
    targets.add_key(online.channels.public_key, CHANNELS_ROLE)
    policy = write_policy(ReleasePolicy())
    targets.targets[POLICY_TARGET] = TargetFile.from_data(POLICY_TARGET, policy, ["sha256"])
    channels = Targets(version=1, expires=lifetimes.expiry("channels", now))
    state = RepositoryState(
        root=sign(root, offline.root),
        targets=sign(targets, offline.targets),
        channels=sign(channels, [online.channels]),
        snapshot=sign(
            Snapshot(
                version=1,
                expires=lifetimes.expiry("snapshot", now),
                meta={"targets.json": MetaFile(1), f"{CHANNELS_ROLE}.json": MetaFile(1)},
            ),
            [online.snapshot],
        ),
        timestamp=sign(
            Timestamp(version=1, expires=lifetimes.expiry("timestamp", now)), [online.timestamp]
        ),
    )
    write_target(folder, state.targets.signed.targets[POLICY_TARGET], policy)
    write_state(folder, state)


def load_state(folder: Path) -> RepositoryState:
    """What vehicles get now.

    Args:
        folder: The public repository.

    Raises:
        ReleaseFolderError: A file is missing or broken.
    """
    root_versions = [
        int(number)
        for path in (folder / METADATA_FOLDER).glob("*.root.json")
        if (number := path.name.partition(".")[0]).isdecimal()
    ]
    if not root_versions:
        raise ReleaseFolderError(
            folder, "no repository of releases; `convoy release init` makes one"
        )
    timestamp = _load(folder, "timestamp.json", Timestamp)
    snapshot = _load(folder, f"{timestamp.signed.snapshot_meta.version}.snapshot.json", Snapshot)
    meta = snapshot.signed.meta
    targets, channels = (
        _load(folder, f"{_version(folder, meta, role)}.{role}.json", Targets)
        for role in (TARGETS_ROLE, CHANNELS_ROLE)
    )
    return RepositoryState(
        root=_load(folder, f"{max(root_versions)}.root.json", Root),
        timestamp=timestamp,
        snapshot=snapshot,
        targets=targets,
        channels=channels,
    )


def check_signatures(state: RepositoryState) -> None:
    """Every role is signed by the keys that a vehicle will ask for.

    Raises:
        RepositoryError: One is not; names it.
    """
    root = state.root.signed
    for role in ("root", "timestamp", "snapshot", "targets"):
        metadata: AnyMetadata = getattr(state, role)
        root.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    channels = state.channels
    state.targets.signed.verify_delegate(CHANNELS_ROLE, channels.signed_bytes, channels.signatures)


def write_state(folder: Path, state: RepositoryState) -> None:
    """Make a state the one that vehicles get; the files of its targets are there already.

    Raises:
        ReleaseFolderError: The keys do not fit the roles, or the disk refuses.
    """
    try:
        check_signatures(state)
    except (RepositoryError, ValueError) as error:
        raise ReleaseFolderError(folder, f"vehicles would refuse it: {error}") from error
    with translated(folder):
        storage.make_directory(folder / METADATA_FOLDER)
        for role in ("root", "targets", "channels", "snapshot"):
            metadata: AnyMetadata = getattr(state, role)
            path = folder / METADATA_FOLDER / f"{metadata.signed.version}.{role}.json"
            data = to_bytes(metadata)
            if not path.exists() or path.read_bytes() != data:
                storage.write_file(path, data)
        storage.write_file(folder / METADATA_FOLDER / "timestamp.json", to_bytes(state.timestamp))


def write_target(folder: Path, target: TargetFile, data: bytes) -> None:
    """Put the bytes of a small target where vehicles look for them.

    Raises:
        ReleaseFolderError: The disk refuses.
    """
    path = target_file(folder, target)
    with translated(path):
        storage.make_directory(path.parent)
        storage.write_file(path, data)


def target_file(folder: Path, target: TargetFile) -> Path:
    """Where a target's bytes lie.

    Raises:
        ReleaseFolderError: The signed entry has no SHA-256 that may name a file.
    """
    with translated(folder):
        return folder / stored_path(target.path, target.hashes.get("sha256", ""))


def sign(content: S, signers: Sequence[Signer | CryptoSigner]) -> Metadata[S]:
    """Content with the signatures of all signers."""
    metadata = Metadata(content)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata


def next_version(content: S, role: str, lifetimes: Lifetimes, now: datetime) -> S:
    """A copy to be changed and signed: one version on, alive from now."""
    copy = deepcopy(content)
    copy.version += 1
    copy.expires = lifetimes.expiry(role, now)
    return copy


def to_bytes(metadata: AnyMetadata) -> bytes:
    """As it is stored."""
    return metadata.to_bytes(JSONSerializer(compact=True))


def signed_releases(targets: Targets) -> list[SignedRelease]:
    """Every release, the newest first.

    Raises:
        ReleaseFormatError: An entry is broken: whoever signed it did not use this program.
    """
    found_files: dict[tuple[str, int], dict[str, TargetFile]] = {}
    for path, target in targets.targets.items():
        place = release_file(path)
        if place is None:
            continue
        release, counter = read_release_entry(target.custom)
        if release != place[0]:
            raise ReleaseFormatError(f"{path}: its entry names the release {release}")
        found_files.setdefault((release, counter), {})[place[1]] = target
    listed = [
        SignedRelease(release=release, counter=counter, files=files)
        for (release, counter), files in found_files.items()
        if MANIFEST in files
    ]
    return sorted(listed, key=lambda one: one.counter, reverse=True)


def read_channels(folder: Path, channels: Targets) -> dict[str, ChannelPointer]:
    """Every channel's pointer by name.

    Raises:
        ReleaseFolderError: A pointer's file is missing or broken.
    """
    pointers: dict[str, ChannelPointer] = {}
    for path, target in channels.targets.items():
        name = path.removeprefix(f"{CHANNELS_FOLDER}/").removesuffix(".json")
        with translated(target_file(folder, target)):
            pointers[name] = read_pointer(target_file(folder, target).read_bytes(), name)
    return pointers


def read_current_policy(folder: Path, targets: Targets) -> ReleasePolicy:
    """What the offline keys forbid.

    Raises:
        ReleaseFolderError: Its file is missing or broken.
    """
    path = target_file(folder, targets.targets[POLICY_TARGET])
    with translated(path):
        return read_policy(path.read_bytes())


@contextmanager
def locked(releases: Path) -> Iterator[None]:
    """Alone in RELEASES: of two commands at once, one would lose the other's change.

    Raises:
        ReleaseFolderError: There is no such folder.
    """
    try:
        handle = os.open(releases, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ReleaseFolderError(
            releases, "no such folder; `convoy release init` makes one"
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """What the disk or a broken file raises becomes a ReleaseFolderError."""
    try:
        yield
    except StorageError as error:
        cause = error.__cause__
        why = getattr(cause, "strerror", None) or str(cause)
        raise ReleaseFolderError(error.path, f"{why}; nothing was published") from error
    except OSError as error:
        raise ReleaseFolderError(path, error.strerror or str(error)) from error
    except (ReleaseFormatError, DeserializationError, RepositoryError) as error:
        raise ReleaseFolderError(path, str(error)) from error


def _load(folder: Path, name: str, kind: type[S]) -> Metadata[S]:
    path = folder / METADATA_FOLDER / name
    with translated(path):
        metadata = Metadata[S].from_bytes(path.read_bytes())
    if not isinstance(metadata.signed, kind):
        raise ReleaseFolderError(path, f"expected the role {kind.type}, got {metadata.signed.type}")
    return metadata


def _version(folder: Path, meta: Mapping[str, MetaFile], role: str) -> int:
    entry = meta.get(f"{role}.json")
    if entry is None:
        raise ReleaseFolderError(folder, f"the snapshot does not name {role}.json")
    return entry.version
