"""Run a released ONNX model on one thread, as a vehicle does; needs no torch.

A released model takes `frames`, uint8 (batch, height, width, 3), RGB, and gives `steering`,
float32 (batch, 3), probabilities of left, straight, right, and `throttle`, float32 (batch,).
"""

# Shapes: B batch, H height, W width, 3 colour channels; B3: probabilities of the 3 classes.

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from convoy_driving.errors import InferenceError, ModelFileError
from convoy_protos.release_manifest import MODEL_INPUT as INPUT
from convoy_protos.release_manifest import MODEL_OUTPUTS as OUTPUTS

ProviderChoice = str | tuple[str, Mapping[str, str]]
"""onnxruntime's name of an execution provider, perhaps with its options."""


class OnnxDriver:
    """An onnxruntime session behind the predictor protocol.

    Attributes:
        frame_height: Pixels of the frames it wants; None where the file leaves it open.
        frame_width: Likewise.
        metadata: The strings in the file, for example "convoy.schema".
    """

    def __init__(
        self,
        path: Path,
        *,
        content: bytes | None = None,
        providers: Sequence[ProviderChoice] = ("CPUExecutionProvider",),
        profile_prefix: str = "",
    ) -> None:
        """Load the file.

        Args:
            path: The file; names it in errors.
            content: Its bytes, where they were read before to check their hash; None reads them.
            providers: In the order of preference.
            profile_prefix: Where a profile is written until `end_profile`; empty: none is.

        Raises:
            ModelFileError: No such file, not ONNX, or not a driving model.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        if profile_prefix:
            options.enable_profiling = True
            options.profile_file_prefix = profile_prefix
        if content is None:
            if not path.is_file():
                raise ModelFileError(f"{path}: no such file; name a released model.int8.onnx")
            content = path.read_bytes()
        try:
            self._session = onnxruntime.InferenceSession(
                content, sess_options=options, providers=list(providers)
            )
        except Exception as error:  # onnxruntime's errors share no public base class
            raise ModelFileError(f"{path}: onnxruntime cannot load it ({error})") from error
        self.frame_height, self.frame_width = self._check_contract(path)
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)

    def predict(
        self, frames_BHWC: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Probabilities of left, straight, right (B, 3) and throttle (B,).

        Raises:
            InferenceError: onnxruntime fails on these frames.
        """
        try:
            steering_B3, throttle_B = self._session.run(
                list(OUTPUTS), {INPUT: np.ascontiguousarray(frames_BHWC)}
            )
        except Exception as error:  # onnxruntime's errors share no public base class
            raise InferenceError(f"onnxruntime fails on these frames: {error}") from error
        return steering_B3, throttle_B

    def end_profile(self) -> frozenset[str]:
        """Stop the profile, delete its file, and say which providers computed nodes of the graph."""
        profile = Path(self._session.end_profiling())
        events = json.loads(profile.read_text("utf-8"))
        profile.unlink()
        providers = {event.get("args", {}).get("provider") for event in events}
        return frozenset(providers - {None, ""})

    def _check_contract(self, path: Path) -> tuple[int | None, int | None]:
        inputs = {item.name: item for item in self._session.get_inputs()}
        outputs = {item.name for item in self._session.get_outputs()}
        if set(inputs) != {INPUT} or not outputs >= set(OUTPUTS):
            raise ModelFileError(
                f"{path}: expected input {INPUT} and outputs {', '.join(OUTPUTS)}, "
                f"got {', '.join(inputs)} and {', '.join(sorted(outputs))}"
            )
        shape = inputs[INPUT].shape
        if inputs[INPUT].type != "tensor(uint8)" or len(shape) != 4 or shape[3] != 3:
            raise ModelFileError(
                f"{path}: expected frames of uint8 (batch, height, width, 3), "
                f"got {inputs[INPUT].type} {shape}"
            )
        height, width = (size if isinstance(size, int) else None for size in shape[1:3])
        return height, width
