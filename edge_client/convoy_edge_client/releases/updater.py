"""Ask a repository for this vehicle's release, and fetch it: the TUF client with our rules on top.

    FOLDER/metadata/      what python-tuf trusts
    FOLDER/store/SHA256   files, verified; SHA256.part is half a file
    FOLDER/releases/ID/   a release's files under their names, as the same bytes on the disk: hard links
                          into the store; manifest.json is there last
    FOLDER/last_check     time of the last check that found everything fresh
    FOLDER/lock           held by the one process that uses the folder

Trust begins with the root that the vehicle was given when it joined. A check that fails changes nothing: the
vehicle goes on with what it has. Source: TUF 1.0, section 5; python-tuf's ngclient.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from tuf.api import exceptions
from tuf.api.metadata import TargetFile
from tuf.api.serialization import DeserializationError
from tuf.ngclient import Updater, UpdaterConfig

from convoy_edge_client.errors import (
    Refusal,
    ReleaseRefusedError,
    ReleaseStoreError,
    RepositoryDownError,
)
from convoy_edge_client.releases.byte_source import ByteSource
from convoy_edge_client.releases.choice import (
    Held,
    ReleaseRef,
    Verdict,
    choose,
    judge_files,
)
from convoy_edge_client.releases.fetching import (
    PART_SUFFIX,
    SourceFetcher,
    fetch_target,
    sync_folder,
)
from convoy_edge_client.releases.pace import TransferLimits
from convoy_privacy.errors import ReleaseFormatError
from convoy_privacy.releases.cohort import VehicleProfile
from convoy_privacy.releases.layout import (
    MANIFEST,
    MAX_FILE_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_ROOT_BYTES,
    MAX_SMALL_FILE_BYTES,
    MAX_SNAPSHOT_BYTES,
    MAX_TARGETS_BYTES,
    MAX_TIMESTAMP_BYTES,
    METADATA_FOLDER,
    POLICY_TARGET,
    RELEASES_FOLDER,
    channel_target,
    check_sha256,
    read_release_entry,
    release_target,
)
from convoy_privacy.releases.manifest import Manifest, read_manifest
from convoy_privacy.releases.signed_texts import (
    ChannelPointer,
    ReleasePolicy,
    read_pointer,
    read_policy,
)

CLOCK_SLACK: Final = timedelta(minutes=10)
"""By which a clock that is set right may go back."""

_STORE: Final = "store"
_LAST_CHECK: Final = "last_check"
_LOCK: Final = "lock"
_LIMITS: Final = UpdaterConfig(
    max_root_rotations=64,
    max_delegations=4,
    root_max_length=MAX_ROOT_BYTES,
    timestamp_max_length=MAX_TIMESTAMP_BYTES,
    snapshot_max_length=MAX_SNAPSHOT_BYTES,
    targets_max_length=MAX_TARGETS_BYTES,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A release that this vehicle may install, verified as far as its manifest.

    Attributes:
        ref: Name and counter.
        manifest: Its files.
        manifest_json: The whole text of manifest.json.
        targets: Signed length and hash of each file, by name, the manifest among them.
    """

    ref: ReleaseRef
    manifest: Manifest
    manifest_json: bytes
    targets: Mapping[str, TargetFile]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What a check found.

    Attributes:
        verdict: What to do.
        pointer: What the channel says; None: nothing yet.
        policy: What the offline keys say.
        offer: The release to install; None unless the verdict says so.
    """

    verdict: Verdict
    pointer: ChannelPointer | None
    policy: ReleasePolicy
    offer: Offer | None


@contextmanager
def release_updater(
    folder: Path,
    source: ByteSource,
    bootstrap_root: bytes,
    *,
    limits: TransferLimits | None = None,
    now_s: Callable[[], float] = time.monotonic,
) -> Iterator["ReleaseUpdater"]:
    """The updater of a folder, alone in it while the block lasts.

    Args:
        folder: The vehicle's own; made if it is not there.
        source: Where the repository is: a server or a depot.
        bootstrap_root: The root metadata that the vehicle was given when it joined.
        limits: Of every transfer.
        now_s: A clock that never goes back.

    Raises:
        ReleaseStoreError: The folder cannot be written, or another process uses it.
    """
    with _disk(folder):
        (folder / _STORE).mkdir(parents=True, exist_ok=True)
        (folder / RELEASES_FOLDER).mkdir(exist_ok=True)
        (folder / METADATA_FOLDER).mkdir(exist_ok=True)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ReleaseStoreError(
                f"{folder}: another process updates from this folder; one is enough"
            ) from error
        yield ReleaseUpdater(folder, source, bootstrap_root, limits or TransferLimits(), now_s)
    finally:
        os.close(lock)


class ReleaseUpdater:
    """Checks and fetches; what is installed when is decided elsewhere."""

    def __init__(
        self,
        folder: Path,
        source: ByteSource,
        bootstrap_root: bytes,
        limits: TransferLimits,
        now_s: Callable[[], float],
    ) -> None:
        """See `release_updater`, which holds the folder."""
        self._folder = folder
        self._store = folder / _STORE
        self._releases = folder / RELEASES_FOLDER
        self._source = source
        self._bootstrap = bootstrap_root
        self._limits = limits
        self._now_s = now_s
        self._small_files: set[str] = set()

    def check(
        self, channel: str, profile: VehicleProfile, held: Held, now: datetime
    ) -> CheckResult:
        """Ask what this vehicle shall have. With nothing new, one small file is transferred.

        Args:
            channel: Whose pointer counts.
            profile: Of the vehicle.
            held: What it has.
            now: The vehicle's clock, with a time zone.

        Raises:
            ReleaseRefusedError: Something is not to be trusted; `refusal` says what.
            RepositoryDownError: The repository is absent or too slow.
            ReleaseStoreError: The disk refuses.
        """
        self._check_clock(now)
        with _translated(self._folder):
            trusted = self._refreshed()
            policy = read_policy(
                self._small(_required(trusted, POLICY_TARGET), MAX_SMALL_FILE_BYTES)
            )
            pointer = self._pointer(trusted, channel)
            verdict = choose(pointer, policy, profile, held)
            offer = self._offer(trusted, pointer) if pointer and verdict.install else None
            if offer is not None:
                digests = [target.hashes["sha256"] for target in offer.targets.values()]
                verdict = judge_files(verdict, offer.ref.release, digests, held)
                offer = offer if verdict.install else None
        self._note_clock(now)
        return CheckResult(verdict=verdict, pointer=pointer, policy=policy, offer=offer)

    def download(self, offer: Offer, names: Iterable[str]) -> Path:
        """Fetch files of a release; what is here already, of whichever release, is not fetched again.

        Args:
            offer: Of `check`.
            names: Which of its files: this vehicle's variant and what belongs to it. The manifest comes
                with them.

        Returns:
            The release's folder, with these files, verified.

        Raises:
            ReleaseRefusedError: A file is not what was signed.
            RepositoryDownError: The link broke; call again, and it goes on where it was.
            ReleaseStoreError: Too little room, or the disk refuses.
        """
        wanted = {name: self._listed(offer, name) for name in {*names, MANIFEST}}
        with _disk(self._folder):
            missing = {
                target.hashes["sha256"]: target
                for target in wanted.values()
                if not self._is_stored(target)
            }
            self._check_room(missing.values())
        for target in missing.values():
            fetch_target(self._source, target, self._place(target), self._limits, self._now_s)
        with _disk(self._folder):
            return self._lay_out(offer, wanted)

    def discard_others(self, keep: Iterable[str]) -> None:
        """Delete every release that is not named, and every file that none of these needs.

        What the checks of this updater have read stays, so that the next check need not fetch it again.

        Args:
            keep: Releases, by name: what is driven, tried and gone back to.

        Raises:
            ReleaseStoreError: The disk refuses.
        """
        kept = set(keep)
        with _disk(self._folder):
            for folder in self._releases.iterdir():
                if folder.name not in kept:
                    shutil.rmtree(folder)
            for path in self._store.iterdir():
                if path.name not in self._small_files and path.stat().st_nlink == 1:
                    path.unlink()

    def _lay_out(self, offer: Offer, wanted: Mapping[str, TargetFile]) -> Path:
        """Put the files under their names; what is there already stays."""
        folder = self._releases / offer.ref.release
        folder.mkdir(exist_ok=True)
        for name in sorted(wanted, key=lambda name: name == MANIFEST):
            stored, place = self._place(wanted[name]), folder / name
            linked = folder / f".new-{name}"
            linked.unlink(missing_ok=True)  # of a crash
            if not place.exists() or not place.samefile(stored):
                os.link(stored, linked)
                linked.replace(place)
        sync_folder(folder)
        sync_folder(self._releases)
        return folder

    def _refreshed(self) -> Updater:
        updater = Updater(
            str(self._folder / METADATA_FOLDER),
            f"{METADATA_FOLDER}/",
            fetcher=SourceFetcher(self._source, self._limits, self._now_s),
            config=_LIMITS,
            bootstrap=self._bootstrap,
        )
        updater.refresh()
        return updater

    def _pointer(self, trusted: Updater, channel: str) -> ChannelPointer | None:
        target = _signed(trusted, channel_target(channel))
        if target is None:
            return None
        return read_pointer(self._small(target, MAX_SMALL_FILE_BYTES), channel)

    def _offer(self, trusted: Updater, pointer: ChannelPointer) -> Offer:
        release = pointer.release
        manifest_target = _signed_file(trusted, pointer, MANIFEST)
        text = self._small(manifest_target, MAX_MANIFEST_BYTES)
        manifest = read_manifest(text)
        targets = {MANIFEST: manifest_target}
        for name, listed in manifest.files.items():
            target = _signed_file(trusted, pointer, name)
            if (target.length, target.hashes["sha256"]) != (listed.length, listed.sha256):
                raise ReleaseRefusedError(
                    Refusal.ALTERED, f"{release}: {MANIFEST} and the signed entry of {name} differ"
                )
            targets[name] = target
        return Offer(
            ref=ReleaseRef(release, pointer.counter),
            manifest=manifest,
            manifest_json=text,
            targets=targets,
        )

    def _small(self, target: TargetFile, most_bytes: int) -> bytes:
        """The bytes of a small target: the stored ones, else fetched."""
        if target.length > most_bytes:
            raise ReleaseRefusedError(
                Refusal.TOO_LONG, f"{target.path} has {target.length} bytes, at most {most_bytes}"
            )
        place = self._place(target)
        self._small_files.add(place.name)
        if not self._is_stored(target):
            fetch_target(self._source, target, place, self._limits, self._now_s)
        return place.read_bytes()

    def _is_stored(self, target: TargetFile) -> bool:
        """Whether the file is here and still what was signed; a damaged one is thrown away."""
        place = self._place(target)
        try:
            with place.open("rb") as file:
                target.verify_length_and_hashes(file)
        except FileNotFoundError:
            return False
        except exceptions.LengthOrHashMismatchError:
            place.unlink()
            return False
        return True

    def _place(self, target: TargetFile) -> Path:
        return self._store / target.hashes["sha256"]

    def _listed(self, offer: Offer, name: str) -> TargetFile:
        if name not in offer.targets:
            raise ReleaseRefusedError(
                Refusal.MISSING,
                f"{offer.ref.release} has no {name}, only {', '.join(sorted(offer.targets))}",
            )
        return offer.targets[name]

    def _check_room(self, missing: Iterable[TargetFile]) -> None:
        needed = self._limits.reserve_bytes
        for target in missing:
            part = self._place(target).with_name(target.hashes["sha256"] + PART_SUFFIX)
            needed += target.length - (part.stat().st_size if part.exists() else 0)
        disk = os.statvfs(self._store)
        free = disk.f_bavail * disk.f_frsize
        if free < needed:
            raise ReleaseStoreError(
                f"{self._store}: {needed >> 20} MiB needed, {free >> 20} MiB free; make room"
            )

    def _check_clock(self, now: datetime) -> None:
        """A clock far back would make everything look fresh."""
        path = self._folder / _LAST_CHECK
        with _disk(path):
            try:
                last = datetime.fromisoformat(path.read_text("ascii"))
                behind = last - now
            except (FileNotFoundError, ValueError, TypeError):
                return  # the first check, or a torn note
        if behind > CLOCK_SLACK:
            raise ReleaseRefusedError(
                Refusal.CLOCK,
                f"the clock says {now:%Y-%m-%d %H:%M}, {behind} before the last check",
            )

    def _note_clock(self, now: datetime) -> None:
        path = self._folder / _LAST_CHECK
        temporary = path.with_name(path.name + ".new")
        with _disk(path):
            with temporary.open("w", encoding="ascii") as file:
                file.write(now.isoformat())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)


def _signed(trusted: Updater, path: str) -> TargetFile | None:
    """The signed entry of a target, if there is one; its hash is one and may name a file."""
    target = trusted.get_targetinfo(path)
    if target is not None:
        check_sha256(target.hashes.get("sha256"))
        if target.length > MAX_FILE_BYTES:
            raise ReleaseRefusedError(
                Refusal.TOO_LONG, f"{path} has {target.length} bytes, at most {MAX_FILE_BYTES}"
            )
    return target


def _required(trusted: Updater, path: str) -> TargetFile:
    target = _signed(trusted, path)
    if target is None:
        raise ReleaseRefusedError(Refusal.MISSING, f"no signed {path} in the repository")
    return target


def _signed_file(trusted: Updater, pointer: ChannelPointer, name: str) -> TargetFile:
    """A file of the release that the pointer names, with the counter that the pointer names."""
    target = _required(trusted, release_target(pointer.release, name))
    signed = read_release_entry(target.custom)
    if signed != (pointer.release, pointer.counter):
        raise ReleaseRefusedError(
            Refusal.OLD_COUNTER,
            f"{pointer.channel} gives {pointer.release} the counter {pointer.counter}, signed is "
            f"{signed[1]}",
        )
    return target


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    """What python-tuf raises, in our words."""
    try:
        yield
    except exceptions.UnsignedMetadataError as error:
        raise ReleaseRefusedError(
            Refusal.UNSIGNED, f"{error}: not signed by keys that this vehicle trusts"
        ) from error
    except exceptions.BadVersionNumberError as error:
        raise ReleaseRefusedError(Refusal.REPLAYED, str(error)) from error
    except exceptions.ExpiredMetadataError as error:
        raise ReleaseRefusedError(
            Refusal.EXPIRED, f"{error}; is the clock right, and the depot's copy fresh?"
        ) from error
    except exceptions.DownloadLengthMismatchError as error:
        raise ReleaseRefusedError(Refusal.TOO_LONG, str(error)) from error
    except exceptions.LengthOrHashMismatchError as error:
        raise ReleaseRefusedError(Refusal.ALTERED, str(error)) from error
    except exceptions.DownloadHTTPError as error:
        raise ReleaseRefusedError(Refusal.MISSING, str(error)) from error
    except exceptions.DownloadError as error:
        raise RepositoryDownError(str(error)) from error
    except (
        exceptions.RepositoryError,
        DeserializationError,
        ReleaseFormatError,
    ) as error:
        raise ReleaseRefusedError(Refusal.MALFORMED, str(error)) from error
    except OSError as error:
        raise _store_error(folder, error) from error


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _store_error(path, error) from error


def _store_error(path: Path, error: OSError) -> ReleaseStoreError:
    return ReleaseStoreError(
        f"{error.filename or path}: {error.strerror}; make room or mend the disk"
    )
