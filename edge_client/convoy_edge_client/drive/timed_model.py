"""A model whose answers must come in time: it works in a thread of its own, and whoever asks may go on."""

import queue
import threading

import numpy as np
from numpy.typing import NDArray

from convoy_driving.errors import InferenceError
from convoy_edge_client.drive.loaded_model import Answer, LoadedModel


class TimedModel:
    """Costs two hand-overs between threads a frame; used during a trial only.

    A thread that hangs inside of onnxruntime cannot be ended; it is left behind.
    """

    def __init__(self, model: LoadedModel, patience_s: float) -> None:
        """Start the thread.

        Args:
            model: Asked by this thread only.
            patience_s: Longest time for an answer.
        """
        self._model = model
        self._patience_s = patience_s
        self._asked: queue.SimpleQueue[NDArray[np.uint8] | None] = queue.SimpleQueue()
        self._given: queue.SimpleQueue[Answer | InferenceError] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="convoy-trial", daemon=True).start()

    def answer(self, picture_HWC: NDArray[np.uint8]) -> Answer:
        """As the model does.

        Raises:
            InferenceError: It fails, or gives no answer in time; do not ask it again.
        """
        self._asked.put(picture_HWC)
        try:
            given = self._given.get(timeout=self._patience_s)
        except queue.Empty:
            raise InferenceError(f"gave no answer within {self._patience_s:g} s") from None
        if isinstance(given, InferenceError):
            raise given
        return given

    def close(self) -> None:
        """End the thread, if it still listens."""
        self._asked.put(None)

    def _work(self) -> None:
        while (picture_HWC := self._asked.get()) is not None:
            try:
                self._given.put(self._model.answer(picture_HWC))
            except InferenceError as error:
                self._given.put(error)
