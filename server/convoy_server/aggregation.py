"""What the updates of a round amount to, one update in memory at a time where the rule allows it.

The weighted mean (McMahan et al., AISTATS 2017, algorithm 1) adds each update as it comes, in the
order in which the grid yields replies: float32 addition is not associative, so the same order gives
the same model, bit for bit. The robust rules (convoy_server.robust) compare updates with each other
and hold all of them.
"""

# Shapes: M parameters that are sent.

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convoy_compression.update.codec import UpdateCodec
from convoy_protos.errors import ProtocolError
from convoy_server.admission import (
    AdmittedUpdate,
    Expectation,
    check_examples,
    check_metrics,
    refusal_of,
)
from convoy_server.robust.registry import RobustConfig, combine, min_items

Float32Vector = NDArray[np.float32]

TRUSTED_SHARE: Final = 0.5
"""Of an equal share: an update that a robust rule gives less does not teach."""


class Aggregate(NamedTuple):
    """The outcome of a round's updates.

    Attributes:
        update_M: What the global model should move by, float32, shape (M,).
        train_loss: Mean training loss, weighted by examples; None where every vehicle withholds it.
        left_out: Vehicles or shards that a robust rule gave no share at all.
        parts: Updates of the vehicles or shards that a robust rule trusts, float32, shape (M,); none where
            it does not say.
    """

    update_M: Float32Vector
    train_loss: float | None
    left_out: tuple[str, ...] = ()
    parts: tuple[Float32Vector, ...] = ()


class SingleUpdates:
    """Updates that come one by one, readable by the server."""

    def __init__(
        self,
        codec: UpdateCodec,
        expected: Expectation,
        weighting: Literal["examples", "equal"],
        robust: RobustConfig,
    ) -> None:
        self._codec = codec
        self._expected = expected
        self._weighting = weighting
        self._robust = robust
        self._sum = codec.accumulator(expected.parameter_count)
        self._items: list[tuple[str, Float32Vector, float]] = []
        self._loss_sum = 0.0
        self._example_sum = 0

    def add(self, update: AdmittedUpdate, payload: memoryview) -> None:
        """Add one update; after a refusal everything is as it was, to the last bit.

        Args:
            update: Its header was admitted.
            payload: As the codec wrote it, unsealed.

        Raises:
            RefusedReplyError: With the reason.
        """
        header = update.header
        check_examples(header.example_count, self._expected)
        train_loss = check_metrics(header.metrics)
        weight = float(header.example_count) if self._weighting == "examples" else 1.0
        try:
            if self._robust.rule == "mean" and not self._robust.bound_norms:
                self._sum.add(payload, weight)
            else:
                self._keep(header.vehicle_id, payload, weight)
        except ProtocolError as error:
            raise refusal_of(error) from error
        if train_loss is not None:
            self._loss_sum += header.example_count * train_loss
            self._example_sum += header.example_count

    def result(self) -> Aggregate | None:
        """The aggregate, which ends this object's life; None where the rule needs more updates."""
        train_loss = self._loss_sum / self._example_sum if self._example_sum else None
        if not self._items:
            return Aggregate(self._sum.mean(), train_loss) if self._sum.count else None
        if len(self._items) < min_items(self._robust):
            return None
        return combined(self._items, self._robust, train_loss)

    def _keep(self, vehicle: str, payload: memoryview, weight: float) -> None:
        """Decode one update by adding it to nothing."""
        alone = self._codec.accumulator(self._expected.parameter_count)
        alone.add(payload, 1.0)
        self._items.append((vehicle, alone.mean(), weight))


def combined(
    items: list[tuple[str, Float32Vector, float]], robust: RobustConfig, train_loss: float | None
) -> Aggregate:
    """Combine named updates, or named shards' means, by a rule that has enough of them."""
    names, vectors, weights = zip(*items, strict=True)
    outcome = combine(vectors, weights, robust)
    return Aggregate(
        outcome.mean_N,
        train_loss,
        left_out=tuple(names[place] for place in outcome.left_out),
        parts=trusted(vectors, outcome.shares_K),
    )


def trusted(
    updates_KM: Sequence[Float32Vector], shares_K: Sequence[float] | None
) -> tuple[Float32Vector, ...]:
    """Those that a rule gave at least half of an equal share; none where it decides by coordinate."""
    least = TRUSTED_SHARE / len(updates_KM)
    return tuple(
        update_M
        for update_M, share in zip(updates_KM, shares_K or (), strict=shares_K is not None)
        if share >= least
    )
