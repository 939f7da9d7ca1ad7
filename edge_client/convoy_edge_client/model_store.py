"""The global models that this vehicle has: what a difference that comes down is applied to.

A folder of files named by their SHA-256, the last few kept, so that a vehicle that slept for some
rounds, or whose process is new for every message, needs no whole model again.
"""

# Shapes: N parameters.

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from convoy_compression.update.model_delta import apply_delta
from convoy_edge_client.errors import BaseModelMissingError, RefusedInstructionsError
from convoy_edge_client.instructions import check_digest, model_digest
from convoy_protos.flower_messages import read_model, read_model_delta
from convoy_protos.v1.federation_pb2 import RoundInstructions

MODELS_FOLDER: Final = "models"
_KEPT: Final = 16
"""Simulated runs that share a cache share this folder, and let go of each other's models."""
_DIGEST_BYTES: Final = 32

Float32Vector = NDArray[np.float32]


class ModelStore:
    """Models by digest, in memory and in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._recent: dict[bytes, Float32Vector] = {}

    def get(self, digest: bytes) -> Float32Vector | None:
        """The model with that SHA-256, read-only; None where this vehicle does not have it."""
        if digest in self._recent:
            return self._recent[digest]
        try:
            model_N = np.frombuffer(self._file(digest).read_bytes(), "<f4")
        except (FileNotFoundError, ValueError):
            return None
        return model_N if model_digest(model_N) == digest else None

    def used(self, digest: bytes, model_N: Float32Vector) -> None:
        """Note that a model is the vehicle's newest, though it was here before."""
        self._recent[digest] = self._recent.pop(digest, model_N)
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._file(digest))

    def put(self, digest: bytes, model_N: Float32Vector) -> None:
        """Keep a model whose digest was checked, and let the oldest go."""
        self._recent[digest] = model_N
        while len(self._recent) > 2:
            del self._recent[next(iter(self._recent))]
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
            file.write(model_N.data)
        # A vehicle of the same simulation may have written or deleted it meanwhile: same bytes. What
        # a power cut has left of it is mended.
        Path(file.name).replace(self._file(digest))
        self._discard_oldest()

    def _discard_oldest(self) -> None:
        def written_s(path: Path) -> float:
            with contextlib.suppress(FileNotFoundError):
                return path.stat().st_mtime
            return 0.0

        for path in sorted(self._folder.glob("*.f32"), key=written_s)[:-_KEPT]:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def _file(self, digest: bytes) -> Path:
        return self._folder / f"{digest.hex()}.f32"


def received_model(
    content: RecordDict, instructions: RoundInstructions, store: ModelStore
) -> Float32Vector:
    """The global model that a message brings, whole or as a difference, and keep it.

    Raises:
        MalformedMessageError: There is none in the message.
        CorruptPayloadError: The difference is not one.
        BaseModelMissingError: It starts from a model that this vehicle does not have.
        RefusedInstructionsError: The model does not have the digest announced for it.
    """
    if len(instructions.model_digest) != _DIGEST_BYTES:
        raise RefusedInstructionsError("the digest announced for the global model is none")
    known_N = store.get(instructions.model_digest)
    if known_N is not None:
        store.used(instructions.model_digest, known_N)
        return known_N
    if not instructions.base_digest:
        model_N = read_model(content)
    else:
        base_N = store.get(instructions.base_digest)
        if base_N is None:
            raise BaseModelMissingError(
                f"the model {instructions.base_digest.hex()[:16]} that the difference starts from "
                "is not here"
            )
        model_N = apply_delta(base_N, memoryview(read_model_delta(content)))
    check_digest(model_N, instructions)
    store.put(instructions.model_digest, model_N)
    return model_N
