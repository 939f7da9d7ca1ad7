"""An answer on its way to the server: a state machine that survives a lost link, kill -9 and a reboot.

The SuperLink takes the objects of an answer in a session that it opens when the answer is announced. Once
our ServerApp has seen the announcement, announcing again opens none: whoever wants to go on must have kept
session and progress. And it does not say why it takes an object no more:

    refused right after an interruption    the object had come, its receipt was lost: on to the next
    refused otherwise                      the session is over: the answer is announced once more
    nothing lacking when announced         it has seen an announcement whose receipt was lost: objects go
                                           to whichever session waits for them, the message itself first;
                                           if that is refused, all had come or nobody waits for it

Record on disk: one JSON line with session and objects, then one line for every object that has come.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from convoy_edge_client.agent.state_files import append, keep

ANY_SESSION: Final = ""

_LONGEST_COUNT: Final = 20
"""Digits; more are damage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """What is left to do.

    Attributes:
        session: In which the server takes the objects.
        waiting: Ids of the objects that it has not confirmed, in the order in which they are sent.
        unsure: Whether the first of them may have come although nobody heard of it.
        large_refused: Whether a large one was refused since then; one receipt is lost at a time.
    """

    session: str
    waiting: tuple[str, ...]
    unsure: bool = False
    large_refused: bool = False

    @property
    def done(self) -> bool:
        """Whether all has come for certain."""
        return not self.waiting and not self.unsure

    def came(self) -> "Upload":
        """The server has the first of those that waited."""
        waiting = self.waiting[1:]
        # In a session of others, objects that the server has for another reason are refused.
        unsure = self.session == ANY_SESSION and bool(waiting)
        return Upload(session=self.session, waiting=waiting, unsure=unsure)

    def interrupted(self) -> "Upload":
        """Nobody knows whether the first has come."""
        return replace(self, unsure=True)

    def refused(self, *, large: bool) -> "Upload | None":
        """The server did not want the first; None: it wants none of this any more.

        Args:
            large: Whether it costs something to send such a one in vain.
        """
        if not self.unsure or (large and self.large_refused):
            return None
        return replace(self, waiting=self.waiting[1:], large_refused=self.large_refused or large)


def announced(missing: set[str], session: str, root: str, objects: Mapping[str, bytes]) -> Upload:
    """The upload that begins with what the server says to an announcement.

    The message itself goes first, then from small to large: whether the server still wants the answer is
    known before anything large is sent.

    Args:
        missing: Ids of the objects that it lacks.
        session: In which it takes them.
        root: Id of the message itself, which no other message shares.
        objects: All of the answer, by id.
    """
    order = sorted(objects, key=lambda key: (key != root, len(objects[key]), key))
    if not missing:
        return Upload(session=ANY_SESSION, waiting=tuple(order))
    return Upload(session=session, waiting=tuple(key for key in order if key in missing))


class UploadRecord:
    """A file that says how far an upload has come, or that there is none."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self, upload: Upload, *, durable: bool) -> None:
        """Keep it, in place of any other.

        Args:
            upload: As announced.
            durable: See `state_files`.

        Raises:
            FleetFolderError: The disk refuses.
        """
        line = json.dumps({"session": upload.session, "waiting": upload.waiting})
        keep(self._path, line.encode() + b"\n", durable=durable)

    def came(self, left: int, *, durable: bool) -> None:
        """Note how many objects are left of those that the upload began with.

        Raises:
            FleetFolderError: The disk refuses.
        """
        append(self._path, b"%d\n" % left, durable=durable)

    def load(self, objects: Collection[str]) -> Upload | None:
        """Where to go on; None: nothing was begun, or the file is damaged: the answer is announced anew.

        Args:
            objects: Ids of the answer's objects; a record that names others is none of it.
        """
        try:
            first, *lines = self._path.read_bytes().split(b"\n")
            table = json.loads(first)
            session, waiting = str(table["session"]), tuple(map(str, table["waiting"]))
            # What follows the last newline is empty, or was cut off by the crash.
            left = min([len(waiting), *map(int, filter(_is_count, lines[:-1]))])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not set(waiting) <= set(objects):
            return None
        return Upload(session=session, waiting=waiting[len(waiting) - left :], unsure=True)

    def clear(self) -> None:
        """There is none."""
        self._path.unlink(missing_ok=True)


def _is_count(line: bytes) -> bool:
    return line.isdigit() and len(line) < _LONGEST_COUNT
