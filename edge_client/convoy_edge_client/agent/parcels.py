"""The two messages that an agent must not lose: the one it works on, and the one it sends.

    STATE/inbox     announced or come whole, not yet answered
    STATE/outbox    our answer, not yet with the server whole

Each is one file that is there whole or not at all, readable by the agent's user only: an answer may hold
shares of secrets. Written before the step that relies on it. The SuperLink hands a message out once: what
it has announced and nobody has kept is lost.
"""

import io
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from convoy_edge_client.agent.state_files import keep

_OBJECTS: Final = "objects/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """One message in the pieces in which Flower sends it.

    Attributes:
        run_id: Flower's, of the run it belongs to.
        message: Serialized, without its content.
        tree: Serialized: which objects it consists of.
        objects: By their id, which is a digest of their bytes; none: it is announced and has not come.
        interruptions: How often work on it was begun and neither ended nor put off.
    """

    run_id: int
    message: bytes
    tree: bytes
    objects: Mapping[str, bytes] = field(default_factory=dict)
    interruptions: int = 0


class Shelf:
    """A file that holds one parcel or none."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, parcel: Parcel, *, durable: bool = True) -> None:
        """Keep it, in place of any other.

        Args:
            parcel: What to keep.
            durable: See `state_files`.

        Raises:
            FleetFolderError: The disk refuses.
        """
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("run", str(parcel.run_id))
            archive.writestr("interruptions", str(parcel.interruptions))
            archive.writestr("message", parcel.message)
            archive.writestr("tree", parcel.tree)
            for key, content in parcel.objects.items():
                archive.writestr(_OBJECTS + key, content)
        keep(self._path, buffer.getvalue(), durable=durable)

    def get(self) -> Parcel | None:
        """What is kept; None: nothing is, or the file is damaged, which costs that one message."""
        try:
            with zipfile.ZipFile(io.BytesIO(self._path.read_bytes())) as archive:
                return Parcel(
                    run_id=int(archive.read("run")),
                    interruptions=int(archive.read("interruptions")),
                    message=archive.read("message"),
                    tree=archive.read("tree"),
                    objects={
                        name.removeprefix(_OBJECTS): archive.read(name)
                        for name in archive.namelist()
                        if name.startswith(_OBJECTS)
                    },
                )
        except FileNotFoundError:
            return None
        except (zipfile.BadZipFile, KeyError, ValueError, RuntimeError, EOFError, struct.error):
            self.clear()
            return None

    def clear(self) -> None:
        """Keep nothing."""
        self._path.unlink(missing_ok=True)
