"""What waits for the offline keys: the next targets metadata, signed k of n times, and its new files.

    RELEASES/proposal/targets.json         with the signatures so far
    RELEASES/proposal/files/RELEASE/FILE   what it brings along

Each signer may work on a copy of RELEASES (without online/) on a machine of their own, compare the proposal
with their own copy of the release, and pass the folder on. Publishing asks for the threshold.
"""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from convoy_privacy.errors import ReleaseFormatError
from convoy_privacy.releases.layout import (
    MANIFEST,
    POLICY_TARGET,
    check_counter_range,
    release_entry,
    release_file,
    release_target,
)
from convoy_privacy.releases.manifest import read_manifest
from convoy_privacy.releases.signed_texts import ReleasePolicy, write_policy
from convoy_server import storage
from convoy_server.errors import NotReleasableError, ReleaseFolderError
from convoy_server.releases.publication import publish_targets
from convoy_server.releases.release_keys import OnlineKeys
from convoy_server.releases.repository import (
    REPOSITORY_FOLDER,
    TARGETS_ROLE,
    Lifetimes,
    SignedRelease,
    load_state,
    next_version,
    read_channels,
    read_current_policy,
    signed_releases,
    target_file,
    to_bytes,
    translated,
    write_target,
)

PROPOSAL_FOLDER: Final = "proposal"
KEPT_RELEASES: Final = 20
"""Older ones leave the signed list, unless a channel points at them: every vehicle loads it."""

_TARGETS_FILE: Final = "targets.json"
_FILES_FOLDER: Final = "files"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseSource:
    """A folder with a manifest, as `convoy simulate` leaves it in RUN/release.

    Attributes:
        folder: Where its files are.
        accepted: Every gate passed.
        counter: That its files name; 0: none.
        files: Path by name, the manifest among them; each is what the manifest says.
        digest: SHA-256 of the manifest, hexadecimal: what the release is.
    """

    folder: Path
    accepted: bool
    counter: int
    files: dict[str, Path]
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What waits.

    Attributes:
        metadata: The next targets, with the signatures so far.
        new: The release that it brings; None: it renews, or changes the policy.
        minimum_counter: What the policy says once this is published.
        signatures: That count.
        threshold: That are needed.
    """

    metadata: Metadata[Targets]
    new: SignedRelease | None
    minimum_counter: int
    signatures: int
    threshold: int

    @property
    def complete(self) -> bool:
        """Whether it may be published."""
        return self.signatures >= self.threshold


def read_source(folder: Path) -> ReleaseSource:
    """A folder that may be signed.

    Raises:
        ReleaseFolderError: The manifest or a file is missing, or a file is not what the manifest says.
    """
    manifest_path = folder / MANIFEST
    with translated(manifest_path):
        data = manifest_path.read_bytes()
        manifest = read_manifest(data)
    files = {MANIFEST: manifest_path}
    for name, listed in manifest.files.items():
        path = folder / name
        with translated(path):
            found = (path.stat().st_size, _sha256(path))
        if found != (listed.length, listed.sha256):
            raise ReleaseFolderError(
                path, f"not the file that {MANIFEST} lists; build the release again"
            )
        files[name] = path
    return ReleaseSource(
        folder=folder,
        accepted=manifest.accepted,
        counter=manifest.counter,
        files=files,
        digest=hashlib.sha256(data).hexdigest(),
    )


def propose(
    releases: Path,
    source: ReleaseSource | None,
    now: datetime,
    lifetimes: Lifetimes,
    *,
    counter: int | None = None,
    minimum_counter: int | None = None,
) -> Proposal:
    """Begin a proposal, without signatures; one that was there is replaced.

    Args:
        releases: RELEASES.
        source: The release to bring; None: sign again what is there, to renew it or for the policy.
        now: With a time zone.
        lifetimes: Of the roles.
        counter: Of the release, above all that were signed; None: the one that its files name if it is,
            else the next free one.
        minimum_counter: The policy's new minimum; None: as it is.

    Raises:
        ReleaseFolderError: The repository is broken or the disk refuses.
        ReleaseFormatError: A counter out of range, or not above those that were signed.
    """
    folder = releases / REPOSITORY_FOLDER
    state = load_state(folder)
    content = next_version(state.targets.signed, "targets", lifetimes, now)
    known = signed_releases(content)
    policy = read_current_policy(folder, content)
    highest = max([policy.minimum_counter - 1, *(one.counter for one in known)])
    pending = releases / PROPOSAL_FOLDER
    with translated(pending):
        storage.remove(pending)
        storage.make_directory(pending)
    if source is not None:
        wish = source.counter if source.counter > highest else highest + 1
        chosen = wish if counter is None else check_counter_range(counter)
        if chosen <= highest:
            raise ReleaseFormatError(
                f"counter {chosen} must be above {highest}, the highest so far"
            )
        _add_release(content, pending, source, chosen)
        pointed = {
            pointer.release for pointer in read_channels(folder, state.channels.signed).values()
        }
        _drop_old(content, pointed)
    if minimum_counter is not None:
        data = write_policy(ReleasePolicy(minimum_counter=minimum_counter))
        content.targets[POLICY_TARGET] = TargetFile.from_data(POLICY_TARGET, data, ["sha256"])
        write_target(pending / _FILES_FOLDER, content.targets[POLICY_TARGET], data)
    _write(pending, Metadata(content))
    return load_proposal(releases)


def countersign(releases: Path, signers: Sequence[Signer]) -> Proposal:
    """Add signatures of offline keys to what waits.

    Raises:
        ReleaseFolderError: Nothing waits, a key is none of the targets role's, or the disk refuses.
    """
    check_signers(releases, signers)
    proposal = load_proposal(releases)
    for signer in signers:
        proposal.metadata.sign(signer, append=True)
    _write(releases / PROPOSAL_FOLDER, proposal.metadata)
    return load_proposal(releases)


def check_signers(releases: Path, signers: Sequence[Signer]) -> None:
    """Every one is a key of the targets role.

    Raises:
        ReleaseFolderError: One is not, or the repository is broken.
    """
    root = load_state(releases / REPOSITORY_FOLDER).root.signed
    for signer in signers:
        keyid = signer.public_key.keyid
        if keyid not in root.roles[TARGETS_ROLE].keyids:
            raise ReleaseFolderError(
                releases,
                f"the key {keyid[:8]} is none of its targets keys; use targets-N.key",
            )


def load_proposal(releases: Path) -> Proposal:
    """What waits for signatures.

    Raises:
        ReleaseFolderError: Nothing, or it is broken, or the repository has moved on since.
    """
    path = releases / PROPOSAL_FOLDER / _TARGETS_FILE
    if not path.exists():
        raise ReleaseFolderError(
            path, "nothing waits for signatures; `convoy release sign RELEASE_FOLDER` proposes"
        )
    with translated(path):
        metadata = Metadata[Targets].from_bytes(path.read_bytes())
    folder = releases / REPOSITORY_FOLDER
    state = load_state(folder)
    expected = (TARGETS_ROLE, state.targets.signed.version + 1)
    if (metadata.signed.type, metadata.signed.version) != expected:
        raise ReleaseFolderError(
            path, "made for an older state of the repository: propose again with --anew"
        )
    before = {one.release for one in signed_releases(state.targets.signed)}
    new = [one for one in signed_releases(metadata.signed) if one.release not in before]
    signatures, threshold = _counted(state.root.signed, metadata)
    policy_folder = folder
    policy = metadata.signed.targets[POLICY_TARGET]
    if policy != state.targets.signed.targets[POLICY_TARGET]:
        policy_folder = path.parent / _FILES_FOLDER
    return Proposal(
        metadata=metadata,
        new=new[0] if new else None,
        minimum_counter=read_current_policy(policy_folder, metadata.signed).minimum_counter,
        signatures=signatures,
        threshold=threshold,
    )


def waits(releases: Path) -> bool:
    """Whether there is a proposal."""
    return (releases / PROPOSAL_FOLDER / _TARGETS_FILE).exists()


def check_same(proposal: Proposal, source: ReleaseSource) -> None:
    """A further signer's own copy of the release is what the proposal holds.

    Raises:
        ReleaseFolderError: It is another one.
    """
    listed = {} if proposal.new is None else proposal.new.files
    own = {name: _sha256(path) for name, path in source.files.items()}
    if own != {name: target.hashes["sha256"] for name, target in listed.items()}:
        raise ReleaseFolderError(
            source.folder,
            "not the release that waits for signatures: sign without a folder what waits, or propose "
            "this one with --anew",
        )


def publish(releases: Path, keys: OnlineKeys, now: datetime, lifetimes: Lifetimes) -> Proposal:
    """Make vehicles get what enough offline keys signed.

    Args:
        releases: RELEASES.
        keys: The server's.
        now: With a time zone.
        lifetimes: Of the roles.

    Raises:
        NotReleasableError: Signatures are missing.
        ReleaseFolderError: Nothing waits, a file is not what was signed, or the disk refuses.
    """
    proposal = load_proposal(releases)
    if not proposal.complete:
        raise NotReleasableError(
            f"{releases / PROPOSAL_FOLDER}: {proposal.signatures} of {proposal.threshold} signatures; "
            "the next signer runs `convoy release sign --key targets-N.key`"
        )
    folder, pending = releases / REPOSITORY_FOLDER, releases / PROPOSAL_FOLDER / _FILES_FOLDER
    for path, target in proposal.metadata.signed.targets.items():
        stored, place = target_file(folder, target), release_file(path)
        proposed = target_file(pending, target) if place is None else pending.joinpath(*place)
        if not stored.exists():
            _bring(proposed, stored, target)
    publish_targets(folder, proposal.metadata, keys, now, lifetimes)
    with translated(pending):
        storage.remove(releases / PROPOSAL_FOLDER)
    return proposal


def drop(releases: Path) -> None:
    """Forget what waits."""
    with translated(releases / PROPOSAL_FOLDER):
        storage.remove(releases / PROPOSAL_FOLDER)


def _add_release(content: Targets, pending: Path, source: ReleaseSource, counter: int) -> None:
    release = f"r{counter:04d}-{source.digest[:8]}"
    for name, path in source.files.items():
        target_path = release_target(release, name)
        with translated(path):
            target = TargetFile.from_file(target_path, str(path), ["sha256"])
        target.unrecognized_fields["custom"] = release_entry(release, counter)
        content.targets[target_path] = target
        _bring(path, pending / _FILES_FOLDER / release / name, target)


def _drop_old(content: Targets, pointed: set[str]) -> None:
    for old in signed_releases(content)[KEPT_RELEASES:]:
        if old.release not in pointed:
            for name in old.files:
                del content.targets[release_target(old.release, name)]


def _bring(source: Path, place: Path, target: TargetFile) -> None:
    """Copy a file to where it belongs, if it is what was signed."""
    with translated(source):
        if _sha256(source) != target.hashes["sha256"]:
            raise ReleaseFolderError(source, "not the file that was signed; propose again")
        storage.make_directory(place.parent)
        storage.fill_file(place, lambda temporary: _copy(source, temporary))


def _copy(source: Path, place: Path) -> None:
    shutil.copyfile(source, place)


def _counted(root: Root, metadata: Metadata[Targets]) -> tuple[int, int]:
    result = root.get_verification_result(TARGETS_ROLE, metadata.signed_bytes, metadata.signatures)
    return len(result.signed), result.threshold


def _write(pending: Path, metadata: Metadata[Targets]) -> None:
    with translated(pending):
        storage.write_file(pending / _TARGETS_FILE, to_bytes(metadata))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
