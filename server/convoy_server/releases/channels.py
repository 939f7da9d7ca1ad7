"""The operator's steps with a channel, and the one that the server takes by itself.

Each reads the repository, applies a rule of rollout.py and publishes the next pointer.
"""

import logging
import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from convoy_privacy.errors import ReleaseFormatError
from convoy_privacy.releases.signed_texts import ChannelPointer
from convoy_server.errors import NotReleasableError, RolloutError
from convoy_server.releases import rollout
from convoy_server.releases.publication import point_channels
from convoy_server.releases.release_keys import OnlineKeys
from convoy_server.releases.report_book import BOOK_FILE, ReportBook
from convoy_server.releases.repository import (
    REPOSITORY_FOLDER,
    Lifetimes,
    SignedRelease,
    load_state,
    read_channels,
    read_current_policy,
    signed_releases,
)
from convoy_server.releases.rollout import RolloutBounds

logger = logging.getLogger(__name__)


class ReleaseChannels:
    """The channels of a repository; the caller holds its lock."""

    def __init__(
        self,
        releases: Path,
        keys: OnlineKeys,
        lifetimes: Lifetimes,
        bounds: RolloutBounds,
    ) -> None:
        """Nothing is read yet.

        Args:
            releases: RELEASES.
            keys: The server's.
            lifetimes: Of the roles.
            bounds: When a rollout pauses.
        """
        self._folder = releases / REPOSITORY_FOLDER
        self._book = ReportBook(releases / BOOK_FILE)
        self._keys = keys
        self._lifetimes = lifetimes
        self._bounds = bounds

    def promote(
        self,
        channel: str,
        release: str | None,
        now: datetime,
        *,
        percent: int | None = None,
        tags: Mapping[str, tuple[str, ...]] | None = None,
        although: bool = False,
    ) -> ChannelPointer:
        """Begin with a release, go on to the next stage, or on from a pause.

        Args:
            channel: Made if it is not there.
            release: A signed one; None: the channel's.
            now: With a time zone.
            percent: Instead of the next stage.
            tags: Filter; None: as it is.
            although: Go on although the reports are against it.

        Raises:
            RolloutError: No such release, or one that vehicles would refuse.
            NotReleasableError: The reports are against it.
            ReleaseFolderError: The repository is broken, or the disk refuses.
        """
        pointer = self._pointers().get(channel)
        if release is None and pointer is None:
            raise RolloutError(f"nothing was released on {channel} yet: name a release")
        chosen = self._signed(release or (pointer.release if pointer else ""))
        reason = rollout.pause_reason(self._counts(chosen.release), self._bounds)
        if reason and not although:
            raise NotReleasableError(
                f"{chosen.release}: {reason}; withdraw it, or promote it with --although-failing"
            )
        salt = secrets.token_hex(16)
        try:
            following = rollout.promote(pointer, channel, chosen, salt, percent=percent, tags=tags)
        except ReleaseFormatError as error:
            raise RolloutError(f"{channel}: {error}") from error
        return self._publish(following, now)

    def pause(self, channel: str, now: datetime) -> ChannelPointer:
        """Nobody begins any more; otherwise as `withdraw`."""
        return self._publish(rollout.pause(self._pointer(channel)), now)

    def withdraw(self, channel: str, release: str | None, now: datetime) -> ChannelPointer:
        """Nobody tries a release any more.

        Args:
            channel: Its name.
            release: None: the one that the channel points at.
            now: With a time zone.

        Raises:
            RolloutError: No such channel or release.
            ReleaseFolderError: The repository is broken, or the disk refuses.
        """
        pointer = self._pointer(channel)
        chosen = self._signed(release or pointer.release)
        return self._publish(rollout.withdraw(pointer, chosen.release), now)

    def pause_failing(self, now: datetime) -> dict[str, str]:
        """Pause every rollout whose reports pass the bounds.

        Returns:
            Why, by channel.

        Raises:
            ReleaseFolderError: The repository is broken, or the disk refuses.
        """
        reasons: dict[str, str] = {}
        for channel, pointer in self._pointers().items():
            reason = rollout.pause_reason(self._counts(pointer.release), self._bounds)
            if pointer.state == "rolling" and reason:
                logger.warning("%s: %s is paused: %s", channel, pointer.release, reason)
                self._publish(rollout.pause(pointer), now)
                reasons[channel] = reason
        return reasons

    def _pointers(self) -> dict[str, ChannelPointer]:
        return read_channels(self._folder, load_state(self._folder).channels.signed)

    def _pointer(self, channel: str) -> ChannelPointer:
        pointers = self._pointers()
        if channel not in pointers:
            raise RolloutError(
                f"no channel {channel!r}; there are {', '.join(sorted(pointers)) or 'none'}"
            )
        return pointers[channel]

    def _signed(self, release: str) -> SignedRelease:
        targets = load_state(self._folder).targets.signed
        minimum = read_current_policy(self._folder, targets).minimum_counter
        known = {one.release: one for one in signed_releases(targets)}
        if release not in known:
            newest = ", ".join(list(known)[:5]) or "none: sign and publish one first"
            raise RolloutError(f"no signed release {release!r}; the newest are {newest}")
        if known[release].counter < minimum:
            raise RolloutError(f"{release} is below {minimum}, the policy's minimum counter")
        return known[release]

    def _counts(self, release: str) -> dict[rollout.Outcome, int]:
        return rollout.tally(self._book.reports(release), release)

    def _publish(self, pointer: ChannelPointer, now: datetime) -> ChannelPointer:
        point_channels(self._folder, {pointer.channel: pointer}, self._keys, now, self._lifetimes)
        return pointer
