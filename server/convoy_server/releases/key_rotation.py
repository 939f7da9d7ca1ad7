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

from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets

from convoy_privacy.releases.layout import CHANNELS_ROLE
from convoy_server.errors import NotReleasableError
from convoy_server.releases.publication import with_online
from convoy_server.releases.release_keys import OnlineKeys
from convoy_server.releases.repository import (
    Lifetimes,
    RepositoryState,
    load_state,
    next_version,
    sign,
    write_state,
)

_OF_ROOT = ("root", "targets", "snapshot", "timestamp")


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
    before = load_state(folder)
    state = before
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
