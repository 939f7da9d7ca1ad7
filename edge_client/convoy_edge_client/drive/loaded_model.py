"""A model of a release, loaded, warm, and ready to answer the camera's pictures."""

# Shapes: HWC a picture of the camera, uint8, RGB; B3 probabilities of left, straight, right.

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convoy_driving.data_config import DataConfig
from convoy_driving.errors import InferenceError
from convoy_driving.onnx_driver import OnnxDriver
from convoy_driving.pictures import fit
from convoy_edge_client.drive.drive_config import DriveConfig
from convoy_edge_client.errors import ReleaseFileError
from convoy_edge_client.preflight.choice import Choice
from convoy_edge_client.preflight.chosen_driver import chosen_driver
from convoy_edge_client.preflight.preflight_config import Provider
from convoy_edge_client.updates.states import Slot
from convoy_protos.errors import MalformedMessageError
from convoy_protos.release_manifest import MANIFEST, Variant, read_manifest

FACTORY: Final = "factory"
_WARM_UP: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model says to a frame.

    Attributes:
        steering: -1 full left to +1 full right.
        throttle: -1 full reverse to +1 full ahead.
        probabilities: Of left, straight, right.
        release: Whose model; "factory" is the factory's.
        latency_ms: From the picture to the answer.
    """

    steering: float
    throttle: float
    probabilities: tuple[float, float, float]
    release: str
    latency_ms: float


class LoadedModel:
    """One session; one thread at a time may ask it."""

    def __init__(self, driver: OnnxDriver, slot: Slot | None, config: DriveConfig) -> None:
        """Warm it.

        Args:
            driver: Of a model file.
            slot: Of which release; None: the factory's.
            config: Crop and gain.

        Raises:
            InferenceError: It fails on a black picture.
        """
        self.slot = slot
        self.release = FACTORY if slot is None else slot.release
        self._driver = driver
        self._gain = config.steering_gain
        # A file that leaves the size open takes what the simulator and most cars record.
        self._size = DataConfig(
            frame_height=driver.frame_height or DataConfig().frame_height,
            frame_width=driver.frame_width or DataConfig().frame_width,
            crop_top=config.crop_top,
            crop_bottom=config.crop_bottom,
        )
        black = np.zeros((self._size.frame_height, self._size.frame_width, 3), np.uint8)
        for _ in range(_WARM_UP):
            self.answer(black)

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Height, width, 3 of what the network sees."""
        return (self._size.frame_height, self._size.frame_width, 3)

    def answer(self, picture_HWC: NDArray[np.uint8]) -> Answer:
        """Look and decide.

        Raises:
            InferenceError: onnxruntime fails, or the answer is NaN or infinite.
        """
        started_s = time.perf_counter()
        steering_B3, throttle_B = self._driver.predict(self._seen(picture_HWC)[None])
        left, straight, right = (float(value) for value in steering_B3[0])
        throttle = float(throttle_B[0])
        if not np.isfinite(left + straight + right + throttle):
            raise InferenceError("answers NaN or infinite values")
        return Answer(
            steering=_bounded((right - left) * self._gain),
            throttle=_bounded(throttle),
            probabilities=(left, straight, right),
            release=self.release,
            latency_ms=(time.perf_counter() - started_s) * 1e3,
        )

    def _seen(self, picture_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if picture_HWC.shape == self.frame_shape and not (
            self._size.crop_top or self._size.crop_bottom
        ):
            return picture_HWC
        return fit(Image.fromarray(picture_HWC), self._size)


def load_model(folder: Path, slot: Slot | None, config: DriveConfig, engines: Path) -> LoadedModel:
    """Load a release as its preflight has tried it; the factory's as float or int8 on the processor.

    Args:
        folder: With the release's files.
        slot: Of the release; None: the factory's.
        config: Crop and gain.
        engines: Where TensorRT's engines are.

    Raises:
        ReleaseFileError: A file is missing, or not what the manifest names.
        ModelFileError: onnxruntime does not load it.
        InferenceError: It fails on a black picture.
    """
    try:
        manifest = read_manifest((folder / MANIFEST).read_bytes())
    except (OSError, MalformedMessageError) as error:
        raise ReleaseFileError(f"{folder / MANIFEST}: {error}") from error
    if slot is not None:
        variant, provider = Variant(slot.variant), Provider(slot.provider)
    else:
        order = (Variant.INT8_CPU, Variant.FP32, Variant.INT8_TRT)
        there = [one for one in order if one in manifest.variants]
        if not there:
            raise ReleaseFileError(f"{folder / MANIFEST}: names no model")
        variant, provider = there[0], Provider.CPU
    if variant.file_name not in manifest.files or (
        slot is not None and manifest.files[variant.file_name].sha256 not in slot.models
    ):
        raise ReleaseFileError(f"{folder / MANIFEST}: not the manifest that was examined")
    choice = Choice(variant=variant, provider=provider, p50_ms=0.0)
    return LoadedModel(chosen_driver(folder, manifest, choice, engine_cache=engines), slot, config)


def _bounded(value: float) -> float:
    return max(-1.0, min(1.0, value))
