"""A small fleet's releases in one folder: keys, repository, vehicles, and a source that lies on request."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Targets

from convoy_edge_client.errors import Refusal, ReleaseRefusedError, RepositoryDownError
from convoy_edge_client.releases.byte_source import ByteSource, DepotSource
from convoy_edge_client.releases.choice import Held
from convoy_edge_client.releases.pace import TransferLimits
from convoy_edge_client.releases.updater import CheckResult, ReleaseUpdater, release_updater
from convoy_privacy.releases.cohort import VehicleProfile
from convoy_privacy.releases.layout import CHUNK_BYTES, MANIFEST
from convoy_privacy.releases.signed_texts import ChannelPointer
from convoy_server.releases import key_rotation, proposal
from convoy_server.releases.publication import point_channels
from convoy_server.releases.release_keys import (
    OFFLINE_THRESHOLD,
    OfflineKeys,
    OnlineKeys,
    generate_offline_keys,
    generate_online_keys,
)
from convoy_server.releases.repository import (
    REPOSITORY_FOLDER,
    Lifetimes,
    RepositoryState,
    SignedRelease,
    found,
    load_state,
    next_version,
    sign,
    to_bytes,
)

CHANNEL = "stable"
MODEL = "model.int8.onnx"
LIMITS = TransferLimits(reserve_bytes=0)


@dataclass(slots=True)
class LyingSource:
    """A depot that gives other bytes than it holds, where told to.

    Attributes:
        folder: Of the honest repository.
        lies: Bytes by path, instead of what is there.
        cut_after_bytes: The link breaks once, after as many; None: it holds.
        sent: (path, offset, bytes) of every answer.
    """

    folder: Path
    lies: dict[str, bytes] = field(default_factory=dict)
    cut_after_bytes: int | None = None
    sent: list[tuple[str, int, int]] = field(default_factory=list)

    def read(self, path: str, offset: int) -> Iterator[bytes]:
        """See ByteSource."""
        if path in self.lies:
            lie = self.lies[path][offset:]
            chunks: Iterator[bytes] = (
                lie[start : start + CHUNK_BYTES] for start in range(0, len(lie), CHUNK_BYTES)
            )
        else:
            chunks = DepotSource(self.folder).read(path, offset)
        return self._counted(path, offset, chunks)

    def sent_bytes(self, part: str = "") -> int:
        """Of all paths that contain `part`."""
        return sum(length for path, _, length in self.sent if part in path)

    def _counted(self, path: str, offset: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            cut = self.cut_after_bytes
            if cut is not None and len(chunk) > cut:
                self.cut_after_bytes = None
                self.sent.append((path, offset, cut))
                yield chunk[:cut]
                raise RepositoryDownError("the link broke")
            if cut is not None:
                self.cut_after_bytes = cut - len(chunk)
            self.sent.append((path, offset, len(chunk)))
            offset += len(chunk)
            yield chunk


@dataclass(slots=True)
class Vehicle:
    """A vehicle that checks and downloads.

    Attributes:
        folder: Its own.
        source: Where it asks.
        bootstrap_root: What it trusts at first.
        profile: Who it is.
        held: What it has; changed by whoever plays.
        limits: Of its transfers.
        now_s: Its steady clock.
    """

    folder: Path
    source: ByteSource
    bootstrap_root: bytes
    profile: VehicleProfile
    held: Held = field(default_factory=Held)
    limits: TransferLimits = LIMITS
    now_s: Callable[[], float] = time.monotonic

    def check(self, now: datetime) -> CheckResult:
        """One check on the stage's channel."""
        with self.updater() as updater:
            return updater.check(CHANNEL, self.profile, self.held, now)

    def update(self, now: datetime) -> tuple[str, bytes]:
        """Check and fetch the model: name of the release and its bytes.

        Raises:
            ReleaseRefusedError: Also where the pointer itself is against the rules.
        """
        with self.updater() as updater:
            result = updater.check(CHANNEL, self.profile, self.held, now)
            if result.verdict.refused:
                raise ReleaseRefusedError(Refusal.OLD_COUNTER, result.verdict.refused)
            if result.offer is None:
                return "", b""
            folder = updater.download(result.offer, [MODEL])
            return result.offer.ref.release, (folder / MODEL).read_bytes()

    @contextmanager
    def updater(self) -> Iterator[ReleaseUpdater]:
        """The updater of its folder."""
        with release_updater(
            self.folder,
            self.source,
            self.bootstrap_root,
            limits=self.limits,
            now_s=self.now_s,
        ) as updater:
            yield updater


class ReleaseStage:
    """Keys and repository of one fleet; everything in the clear, as no fleet should have it."""

    def __init__(self, folder: Path, now: datetime, lifetimes: Lifetimes | None = None) -> None:
        """A new fleet without releases.

        Args:
            folder: New or empty.
            now: When everything so far is signed.
            lifetimes: Of the roles.
        """
        self.folder = folder
        self.now = now
        self.lifetimes = lifetimes or Lifetimes()
        self.offline: OfflineKeys = generate_offline_keys()
        self.online: OnlineKeys = generate_online_keys()
        self.releases = folder / "releases"
        found(self.releases, self.offline, self.online, now, self.lifetimes)
        self.bootstrap_root = (self.repository / "metadata" / "1.root.json").read_bytes()
        self._vehicles = 0

    @property
    def repository(self) -> Path:
        """What vehicles fetch."""
        return self.releases / REPOSITORY_FOLDER

    def state(self) -> RepositoryState:
        """What is published."""
        return load_state(self.repository)

    def vehicle(
        self,
        *,
        bootstrap_root: bytes | None = None,
        canary: bool = True,
        source: ByteSource | None = None,
    ) -> Vehicle:
        """A new vehicle; with a source of its own, unless one is given."""
        self._vehicles += 1
        name = f"car-{self._vehicles}"
        return Vehicle(
            folder=self.folder / name,
            source=source or LyingSource(self.repository),
            bootstrap_root=bootstrap_root or self.bootstrap_root,
            profile=VehicleProfile(vehicle=name, canary=canary),
        )

    def release_folder(self, model: bytes, *, accepted: bool = True) -> Path:
        """A folder as a training run leaves it, with one model of these bytes."""
        digest = hashlib.sha256(model).hexdigest()
        folder = self.folder / f"built-{digest[:8]}"
        folder.mkdir(exist_ok=True)
        (folder / MODEL).write_bytes(model)
        manifest = {
            "schema": "convoy.release/1",
            "accepted": accepted,
            "files": {MODEL: {"sha256": digest, "bytes": len(model)}},
        }
        (folder / MANIFEST).write_text(json.dumps(manifest))
        return folder

    def publish(self, model: bytes, *, counter: int | None = None) -> SignedRelease:
        """Sign a release with two of the offline keys and publish it; no channel points at it."""
        source = proposal.read_source(self.release_folder(model))
        proposal.propose(self.releases, source, self.now, self.lifetimes, counter=counter)
        proposal.countersign(self.releases, self.offline.targets[:OFFLINE_THRESHOLD])
        new = proposal.publish(self.releases, self.online, self.now, self.lifetimes).new
        if new is None:
            raise ValueError("the release was signed before")
        return new

    def point(self, release: SignedRelease, **changes: object) -> ChannelPointer:
        """Point the channel at a release, for everybody unless changed."""
        fields: dict[str, object] = {
            "channel": CHANNEL,
            "release": release.release,
            "counter": release.counter,
            "percent": 100,
            "salt": "00" * 16,
        }
        pointer = ChannelPointer(**{**fields, **changes})  # type: ignore[arg-type]  # of the caller
        point_channels(self.repository, {CHANNEL: pointer}, self.online, self.now, self.lifetimes)
        return pointer

    def set_minimum(self, counter: int) -> None:
        """Raise the policy's minimum, signed by two of the offline keys."""
        proposal.propose(self.releases, None, self.now, self.lifetimes, minimum_counter=counter)
        proposal.countersign(self.releases, self.offline.targets[:OFFLINE_THRESHOLD])
        proposal.publish(self.releases, self.online, self.now, self.lifetimes)

    def change_keys(
        self,
        changes: Sequence[tuple[str, str, CryptoSigner]],
        online: OnlineKeys,
        targets_signers: Sequence[CryptoSigner] = (),
    ) -> None:
        """Put other keys into force, signed by two of the root keys.

        Args:
            changes: (role, old key id, new key).
            online: The server's keys from now on.
            targets_signers: If a key of targets or channels changes.
        """
        key_rotation.change_keys(
            self.repository,
            [
                key_rotation.KeyChange(role=role, old=old, new=new.public_key)
                for role, old, new in changes
            ],
            online,
            self.now,
            self.lifetimes,
            root_signers=self.offline.root[:OFFLINE_THRESHOLD],
            targets_signers=targets_signers,
        )
        self.online = online

    def forged_targets(
        self, signers: Sequence[CryptoSigner], forge: Callable[[Targets], None]
    ) -> Mapping[str, bytes]:
        """Metadata of an attacker who has the online keys and these signers, by path.

        Args:
            signers: Who sign the targets.
            forge: Changes the targets.
        """
        state = self.state()
        content = next_version(state.targets.signed, "targets", self.lifetimes, self.now)
        forge(content)
        return self.forged({"targets": sign(content, signers)})

    def forged(
        self, roles: Mapping[str, Metadata[Targets]], *, versions_ahead: int = 1
    ) -> Mapping[str, bytes]:
        """Snapshot and timestamp around forged roles, by the true online keys, by path."""
        state = self.state()
        snapshot = next_version(state.snapshot.signed, "snapshot", self.lifetimes, self.now)
        timestamp = next_version(state.timestamp.signed, "timestamp", self.lifetimes, self.now)
        snapshot.version += versions_ahead - 1
        timestamp.version += versions_ahead - 1
        files: dict[str, bytes] = {}
        for role, metadata in roles.items():
            snapshot.meta[f"{role}.json"] = MetaFile(metadata.signed.version)
            files[f"metadata/{metadata.signed.version}.{role}.json"] = to_bytes(metadata)
        timestamp.snapshot_meta = MetaFile(snapshot.version)
        files[f"metadata/{snapshot.version}.snapshot.json"] = to_bytes(
            sign(snapshot, [self.online.snapshot])
        )
        files["metadata/timestamp.json"] = to_bytes(sign(timestamp, [self.online.timestamp]))
        return files
