"""Change who may sign: rotation, revocation, and the way back after a fast-forward attack.

Source: TUF 1.0, sections 6.1 and 5.3.11. Keys of root, targets, snapshot and timestamp stand in the root
metadata, which the old and the new root keys sign; the key of channels stands in the targets metadata.

Fast-forward: whoever has the online keys raises the versions to the skies, and vehicles refuse the honest
repository for ever after. New keys for snapshot and timestamp end it: what the old ones signed no longer
counts on a vehicle either.
"""

import dataclasses
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets

from convoy_privacy.releases.layout import CHANNELS_ROLE
from convoy_server import storage
from convoy_server.errors import NotReleasableError, ReleaseFolderError
from convoy_server.releases.publication import with_online
from convoy_server.releases.release_keys import (
    ONLINE_FOLDER,
    ONLINE_ROLES,
    OnlineKeys,
    generate_keys,
    generate_online_keys,
    load_key,
    load_online_keys,
    save_key,
    save_online_keys,
)
from convoy_server.releases.repository import (
    REPOSITORY_FOLDER,
    Lifetimes,
    RepositoryState,
    load_state,
    next_version,
    sign,
    translated,
    write_state,
)

NEXT_ONLINE_FOLDER: Final = "online.next"

_OF_ROOT: Final = ("root", "targets", "snapshot", "timestamp")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange:
    """One key goes, another comes.

    Attributes:
        role: root, targets, snapshot, timestamp or channels.
        old: Key id that counts no longer.
        new: The key that counts from now on.
    """

    role: str
    old: str
    new: Key

    def __post_init__(self) -> None:
        if self.role not in (*_OF_ROOT, CHANNELS_ROLE):
            raise ValueError(
                f"role must be one of {_OF_ROOT} or {CHANNELS_ROLE}, got {self.role!r}"
            )


def change_keys(
    folder: Path,
    changes: Sequence[KeyChange],
    online: OnlineKeys,
    now: datetime,
    lifetimes: Lifetimes,
    *,
    root_signers: Sequence[Signer] = (),
    targets_signers: Sequence[Signer] = (),
) -> None:
    """Publish the repository under changed keys; every role is signed by who may from now on.

    Args:
        folder: The public repository.
        changes: At least one.
        online: The server's keys after the change.
        now: With a time zone.
        lifetimes: Of the roles.
        root_signers: Enough of the old root keys and enough of the new, unless only channels changes.
        targets_signers: Enough targets keys after the change, if a key of targets or channels changes.

    Raises:
        NotReleasableError: Signatures are missing.
        ReleaseFolderError: The repository is broken, the online keys do not fit, or the disk refuses.
        ValueError: A key that is to go is none of the role's.
    """
    state = load_state(folder)
    of_root = [change for change in changes if change.role in _OF_ROOT]
    if of_root:
        state = dataclasses.replace(
            state, root=_next_root(state, of_root, root_signers, now, lifetimes)
        )
    if any(change.role in ("targets", CHANNELS_ROLE) for change in changes):
        state = dataclasses.replace(
            state, targets=_next_targets(state, changes, targets_signers, now, lifetimes)
        )
    new_channels = any(change.role == CHANNELS_ROLE for change in changes)
    channels = (
        next_version(state.channels.signed, "channels", lifetimes, now) if new_channels else None
    )
    write_state(
        folder,
        with_online(state, online, now, lifetimes, channels=channels, fresh_snapshot=True),
    )


def replace_online_keys(
    releases: Path,
    roles: Sequence[str],
    now: datetime,
    lifetimes: Lifetimes,
    *,
    root_signers: Sequence[Signer] = (),
    targets_signers: Sequence[Signer] = (),
) -> None:
    """Make new keys for some of the server's roles and put them into force.

    The new keys are on the disk before the repository asks for them: `server_keys` ends what a crash in
    between has left.

    Args:
        releases: RELEASES.
        roles: Some of channels, snapshot and timestamp.
        now: With a time zone.
        lifetimes: Of the roles.
        root_signers: See `change_keys`.
        targets_signers: See `change_keys`.

    Raises:
        NotReleasableError: Signatures are missing; nothing has changed.
        ReleaseFolderError: See `change_keys`.
        FleetFolderError: A key cannot be read or written.
    """
    _end_replacement(releases)
    state, fresh = load_state(releases / REPOSITORY_FOLDER), generate_online_keys()
    kept = {
        role: load_key(releases / ONLINE_FOLDER / f"{role}.key")
        for role in ONLINE_ROLES
        if role not in roles
    }
    new = dataclasses.replace(fresh, **kept)
    save_online_keys(releases / NEXT_ONLINE_FOLDER, new)
    changes = [
        KeyChange(role=role, old=_keyids(state, role)[0], new=getattr(new, role).public_key)
        for role in roles
    ]
    try:
        change_keys(
            releases / REPOSITORY_FOLDER,
            changes,
            new,
            now,
            lifetimes,
            root_signers=root_signers,
            targets_signers=targets_signers,
        )
    finally:
        _end_replacement(releases)


def replace_offline_key(
    releases: Path,
    role: str,
    now: datetime,
    lifetimes: Lifetimes,
    *,
    old: str,
    out: Path,
    root_signers: Sequence[Signer],
    targets_signers: Sequence[Signer] = (),
    passphrase: bytes | None = None,
) -> None:
    """Make a new key for root or targets, in the place of one that is lost or stolen.

    Args:
        releases: RELEASES.
        role: root or targets.
        now: With a time zone.
        lifetimes: Of the roles.
        old: The start of the key id that goes.
        out: For the new private key; must not be there yet.
        root_signers: See `change_keys`; the new root key signs too.
        targets_signers: See `change_keys`; the new targets key signs too.
        passphrase: Protects the new key.

    Raises:
        NotReleasableError: Signatures are missing; the repository has not changed.
        ReleaseFolderError: No such key, or see `change_keys`.
        FleetFolderError: The new key cannot be written.
    """
    keyids = load_state(releases / REPOSITORY_FOLDER).root.signed.roles[role].keyids
    chosen = [keyid for keyid in keyids if old and keyid.startswith(old)]
    if len(chosen) != 1:
        listed = ", ".join(keyid[:8] for keyid in keyids)
        raise ReleaseFolderError(
            releases, f"{role} has no single key {old!r}; its keys are {listed}"
        )
    if out.exists():
        raise ReleaseFolderError(out, "there is a file already; keys are never overwritten")
    (new,) = generate_keys(1)
    save_key(out, new, passphrase)
    change_keys(
        releases / REPOSITORY_FOLDER,
        [KeyChange(role=role, old=chosen[0], new=new.public_key)],
        server_keys(releases),
        now,
        lifetimes,
        root_signers=[*root_signers, new] if role == "root" else root_signers,
        targets_signers=[*targets_signers, new] if role == "targets" else targets_signers,
    )


def server_keys(releases: Path) -> OnlineKeys:
    """The server's keys, after a change of them that was cut short has been ended or undone.

    Raises:
        FleetFolderError: A file is missing, broken or readable by others.
        ReleaseFolderError: The repository is broken.
    """
    _end_replacement(releases)
    return load_online_keys(releases / ONLINE_FOLDER)


def _end_replacement(releases: Path) -> None:
    """Keep those of the new keys that the repository asks for already, forget the others."""
    following = releases / NEXT_ONLINE_FOLDER
    if not following.exists():
        return
    with translated(following):
        state = load_state(releases / REPOSITORY_FOLDER)
        for role in ONLINE_ROLES:
            path = following / f"{role}.key"
            if path.exists() and load_key(path).public_key.keyid in _keyids(state, role):
                path.replace(releases / ONLINE_FOLDER / path.name)
        storage.remove(following)


def _keyids(state: RepositoryState, role: str) -> list[str]:
    delegator = state.targets.signed if role == CHANNELS_ROLE else state.root.signed
    return list(delegator.get_delegated_role(role).keyids)


def _next_root(
    state: RepositoryState,
    changes: Sequence[KeyChange],
    signers: Sequence[Signer],
    now: datetime,
    lifetimes: Lifetimes,
) -> Metadata[Root]:
    content = next_version(state.root.signed, "root", lifetimes, now)
    for change in changes:
        content.revoke_key(change.old, change.role)
        content.add_key(change.new, change.role)
    metadata = sign(content, signers)
    for judge, whose in ((state.root.signed, "old"), (content, "new")):
        try:
            judge.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
        except RepositoryError as error:
            raise NotReleasableError(
                f"a new root needs the signatures of {judge.roles['root'].threshold} of the {whose} "
                "root keys: name more with --root-key"
            ) from error
    return metadata


def _next_targets(
    state: RepositoryState,
    changes: Sequence[KeyChange],
    signers: Sequence[Signer],
    now: datetime,
    lifetimes: Lifetimes,
) -> Metadata[Targets]:
    content = next_version(state.targets.signed, "targets", lifetimes, now)
    for change in changes:
        if change.role == CHANNELS_ROLE:
            content.revoke_key(change.old, change.role)
            content.add_key(deepcopy(change.new), change.role)
    metadata = sign(content, signers)
    root = state.root.signed
    try:
        root.verify_delegate("targets", metadata.signed_bytes, metadata.signatures)
    except RepositoryError as error:
        raise NotReleasableError(
            f"the targets need the signatures of {root.roles['targets'].threshold} of their keys: name "
            "more with --key"
        ) from error
    return metadata
