"""Read a file that must be the one that the manifest names, and no byte more."""

import hashlib
from pathlib import Path

from convoy_edge_client.errors import ReleaseFileError
from convoy_protos.release_manifest import FileFacts


def checked_content(path: Path, facts: FileFacts) -> bytes:
    """Read a file.

    Raises:
        ReleaseFileError: It is another one, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(facts.size_bytes + 1)
    except OSError as error:
        raise ReleaseFileError(f"{path.name}: {error.strerror or error}") from error
    if len(content) != facts.size_bytes:
        size = "more" if len(content) > facts.size_bytes else str(len(content))
        raise ReleaseFileError(f"{path.name}: expected {facts.size_bytes} bytes, got {size}")
    if hashlib.sha256(content).hexdigest() != facts.sha256:
        raise ReleaseFileError(f"{path.name}: its SHA-256 is not that of the manifest")
    return content
