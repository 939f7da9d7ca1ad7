"""The weighted mean of a round's updates, one update in memory at a time.

Source: McMahan et al., AISTATS 2017, algorithm 1. The sum runs in the order in which the grid yields replies; float32 addition is not associative, so
the same order gives the same model, bit for bit.
"""

# Shapes: N parameters.

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from convoy_compression.errors import CompressionError, InvalidUpdateError, PayloadLengthError
from convoy_compression.update.codec import UpdateAccumulator
from convoy_server.admission import AdmittedUpdate, one_line
from convoy_server.errors import RefusedReplyError


class Aggregation:
    """What a round has summed up so far: updates in the codec's accumulator, and their losses."""

    def __init__(
        self, accumulator: UpdateAccumulator, weighting: Literal["examples", "equal"]
    ) -> None:
        self._accumulator = accumulator
        self._weighting = weighting
        self._loss_sum = 0.0
        self._example_sum = 0

    def add(self, update: AdmittedUpdate) -> None:
        """Add one update; after a refusal everything is as it was, to the last bit.

        Raises:
            RefusedReplyError: not_finite, wrong_length or malformed.
        """
        weight = float(update.example_count) if self._weighting == "examples" else 1.0
        try:
            self._accumulator.add(update.payload, weight)
        except InvalidUpdateError as error:
            raise RefusedReplyError("not_finite", one_line(str(error))) from error
        except PayloadLengthError as error:
            raise RefusedReplyError("wrong_length", one_line(str(error))) from error
        except CompressionError as error:
            raise RefusedReplyError("malformed", one_line(str(error))) from error
        self._loss_sum += update.example_count * update.train_loss
        self._example_sum += update.example_count

    @property
    def train_loss(self) -> float | None:
        """Mean training loss, weighted by examples; None where nothing was added."""
        return self._loss_sum / self._example_sum if self._example_sum else None

    def mean(self) -> NDArray[np.float32]:
        """The mean update, float32, shape (N,); ends the aggregation's life.

        Raises:
            ValueError: Nothing was added.
        """
        return self._accumulator.mean()
