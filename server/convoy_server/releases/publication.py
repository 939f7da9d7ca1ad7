"""What the server does with its online keys: publish what is signed, point channels, stay fresh.

Each step makes a whole new state, checks that vehicles would take it, and only then writes it.
"""

import dataclasses
import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Signed, Snapshot, TargetFile, Targets

from convoy_privacy.releases.layout import CHANNELS_ROLE, channel_target
from convoy_privacy.releases.signed_texts import ChannelPointer, write_pointer
from convoy_server.releases.release_keys import OnlineKeys
from convoy_server.releases.repository import (
    TARGETS_ROLE,
    Lifetimes,
    RepositoryState,
    check_signatures,
    load_state,
    next_version,
    sign,
    write_state,
    write_target,
)

logger = logging.getLogger(__name__)


def point_channels(
    folder: Path,
    pointers: Mapping[str, ChannelPointer],
    keys: OnlineKeys,
    now: datetime,
    lifetimes: Lifetimes,
) -> None:
    """Make vehicles of these channels get these pointers.

    Args:
        folder: The public repository.
        pointers: By channel; the other channels stay as they are.
        keys: The server's.
        now: With a time zone.
        lifetimes: Of the roles.

    Raises:
        ReleaseFolderError: The repository is broken, the keys do not fit, or the disk refuses.
    """
    state = load_state(folder)
    content = next_version(state.channels.signed, "channels", lifetimes, now)
    for channel, pointer in pointers.items():
        data = write_pointer(pointer)
        target = TargetFile.from_data(channel_target(channel), data, ["sha256"])
        content.targets[target.path] = target
        write_target(folder, target, data)
    write_state(folder, with_online(state, keys, now, lifetimes, channels=content))


def publish_targets(
    folder: Path,
    targets: Metadata[Targets],
    keys: OnlineKeys,
    now: datetime,
    lifetimes: Lifetimes,
) -> None:
    """Make vehicles get new targets, whose files are in place; otherwise as `point_channels`."""
    state = dataclasses.replace(load_state(folder), targets=targets)
    write_state(folder, with_online(state, keys, now, lifetimes))


def renew(folder: Path, keys: OnlineKeys, now: datetime, lifetimes: Lifetimes) -> bool:
    """Sign again what the server signs and what has lived for half its days.

    Returns:
        Whether anything was signed.

    Raises:
        ReleaseFolderError: As `point_channels`.
    """
    state = load_state(folder)
    torn = not _is_signed(state)  # a change of keys that was cut short
    due = {
        role: torn or is_half_spent(getattr(state, role).signed, role, lifetimes, now)
        for role in ("channels", "snapshot", "timestamp")
    }
    if not any(due.values()):
        return False
    channels = next_version(state.channels.signed, "channels", lifetimes, now)
    renewed = with_online(
        state,
        keys,
        now,
        lifetimes,
        channels=channels if due["channels"] else None,
        fresh_snapshot=due["snapshot"],
    )
    write_state(folder, renewed)
    return True


def _is_signed(state: RepositoryState) -> bool:
    try:
        check_signatures(state)
    except RepositoryError:
        return False
    return True


def is_half_spent(content: Signed, role: str, lifetimes: Lifetimes, now: datetime) -> bool:
    """Whether a role has lived for half the days that it would get now."""
    return content.expires - now <= (lifetimes.expiry(role, now) - now) / 2


def with_online(
    state: RepositoryState,
    keys: OnlineKeys,
    now: datetime,
    lifetimes: Lifetimes,
    *,
    channels: Targets | None = None,
    fresh_snapshot: bool = False,
) -> RepositoryState:
    """The state after this one: a snapshot if something in it changed, and a timestamp.

    Args:
        state: With the root and targets that shall be.
        keys: The server's.
        now: With a time zone.
        lifetimes: Of the roles.
        channels: The next content of that role; None: as it is.
        fresh_snapshot: Sign a snapshot even if it names the same versions.
    """
    signed_channels = state.channels if channels is None else sign(channels, [keys.channels])
    meta = {
        f"{TARGETS_ROLE}.json": MetaFile(state.targets.signed.version),
        f"{CHANNELS_ROLE}.json": MetaFile(signed_channels.signed.version),
    }
    snapshot: Metadata[Snapshot] = state.snapshot
    if fresh_snapshot or meta != snapshot.signed.meta:
        content = next_version(snapshot.signed, "snapshot", lifetimes, now)
        content.meta = meta
        snapshot = sign(content, [keys.snapshot])
    timestamp = next_version(state.timestamp.signed, "timestamp", lifetimes, now)
    timestamp.snapshot_meta = MetaFile(snapshot.signed.version)
    logger.info(
        "releases: targets %d, channels %d, snapshot %d, timestamp %d",
        state.targets.signed.version,
        signed_channels.signed.version,
        snapshot.signed.version,
        timestamp.version,
    )
    return dataclasses.replace(
        state,
        channels=signed_channels,
        snapshot=snapshot,
        timestamp=sign(timestamp, [keys.timestamp]),
    )
