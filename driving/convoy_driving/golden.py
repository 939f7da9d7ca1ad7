"""Golden vectors: frames, and what each variant of a release answered where it was made.

A vehicle lets every execution provider answer the same frames. The file is NumPy's npz without
pickles; the same content gives the same bytes.

    frames             uint8    (N, H, W, 3)
    VARIANT.steering   float32  (N, 3)        for each variant
    VARIANT.throttle   float32  (N,)
"""

# Shapes: N frames, H height, W width, 3 colour channels; N3: probabilities of the 3 classes.

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convoy_driving.errors import ModelFileError
from convoy_protos.release_manifest import Variant

MAX_FRAMES: Final = 64


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model says to frames.

    Attributes:
        steering_N3: float32, probabilities of left, straight, right.
        throttle_N: float32.
    """

    steering_N3: NDArray[np.float32]
    throttle_N: NDArray[np.float32]

    def difference(self, other: "Answers") -> float:
        """Largest absolute difference of any probability or throttle; NaN where either is NaN."""
        return float(
            np.maximum(
                np.abs(self.steering_N3 - other.steering_N3).max(),
                np.abs(self.throttle_N - other.throttle_N).max(),
            )
        )


@dataclass(frozen=True, slots=True)
class GoldenVectors:
    """Frames and the right answers.

    Attributes:
        frames_NHWC: uint8, RGB, N in 1..MAX_FRAMES.
        answers: Of each variant of the release.
    """

    frames_NHWC: NDArray[np.uint8]
    answers: Mapping[Variant, Answers]


def golden_bytes(golden: GoldenVectors) -> bytes:
    """The file."""
    arrays: dict[str, NDArray[Any]] = {"frames": golden.frames_NHWC}
    for variant, answers in golden.answers.items():
        arrays[f"{variant.value}.steering"] = answers.steering_N3
        arrays[f"{variant.value}.throttle"] = answers.throttle_N
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def read_golden(content: bytes) -> GoldenVectors:
    """Read the file; call it where memory is limited, for a small file can claim large arrays.

    Raises:
        ModelFileError: It is no such file.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            frames_NHWC = arrays["frames"]
            answers = {
                variant: Answers(
                    arrays[f"{variant.value}.steering"], arrays[f"{variant.value}.throttle"]
                )
                for variant in Variant
                if f"{variant.value}.steering" in arrays
            }
    except Exception as error:  # zipfile, zlib and NumPy raise what their parts raise
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelFileError(f"golden vectors: not what a release holds ({what})") from error
    count = len(frames_NHWC) if frames_NHWC.ndim else 0
    if not 1 <= count <= MAX_FRAMES or frames_NHWC.ndim != 4 or frames_NHWC.dtype != np.uint8:
        raise ModelFileError(
            f"golden vectors: expected uint8 frames (1..{MAX_FRAMES}, H, W, 3), "
            f"got {frames_NHWC.dtype} {frames_NHWC.shape}"
        )
    for variant, answer in answers.items():
        for array, shape in ((answer.steering_N3, (count, 3)), (answer.throttle_N, (count,))):
            if array.dtype != np.float32 or array.shape != shape or not np.isfinite(array).all():
                raise ModelFileError(
                    f"golden vectors: {variant.value}: expected finite float32 {shape}, "
                    f"got {array.dtype} {array.shape}"
                )
    return GoldenVectors(frames_NHWC, answers)
