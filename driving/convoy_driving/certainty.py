"""How sure a model is of frames, as a histogram: two sets of frames that differ in it differ in kind.

A model meets frames unlike those it learned from with other certainty, and answers another share of them
with a turn; which of the two depends on the frames, so both are counted together. In our trials (total
variation distance; a fleet's held-back frames against others) the same roads on other tracks were within
0.17 and every single vehicle within 0.34, noise, grey, negatives and another fleet's pictures beyond 0.46.
Only upside-down pictures of the right roads hid below (0.31).
"""

# Shapes: N frames, B batch, 3 steering classes, C = COUNTS cells of the histogram.

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from convoy_driving.evaluation import BATCH, Predictor
from convoy_driving.steering_classes import CLASS_NAMES

ENTROPY_STEPS: Final = 10
"""Of the entropy over that of a fair choice among the classes, from 0 (sure) to 1 (no idea)."""
COUNTS: Final = 2 * ENTROPY_STEPS
"""First the frames answered with a turn, then those answered with straight."""

_STRAIGHT: Final = CLASS_NAMES.index("straight")
_LEAST_PROBABILITY: Final = 1e-12


def certainty_counts(predict: Predictor, frames_NHWC: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count frames by the model's certainty; the counts of several vehicles add up.

    Args:
        predict: The model.
        frames_NHWC: uint8, RGB.

    Returns:
        int64, shape (C,); sums to N.
    """
    counts_C = np.zeros(COUNTS, np.int64)
    for start in range(0, len(frames_NHWC), BATCH):
        probabilities_B3, _ = predict(frames_NHWC[start : start + BATCH])
        counts_C += _count(probabilities_B3.astype(np.float64))
    return counts_C


def distance(one_C: NDArray[np.int64], other_C: NDArray[np.int64]) -> float:
    """Total variation distance of two histograms, whatever their sums: 0 alike, 1 nothing in common.

    Raises:
        ValueError: One of them counts nothing.
    """
    if not (one_C.sum() > 0 and other_C.sum() > 0):
        raise ValueError("a histogram without counts is at no distance from another")
    return float(0.5 * np.abs(one_C / one_C.sum() - other_C / other_C.sum()).sum())


def mean_entropy(counts_C: NDArray[np.int64]) -> float:
    """In 0..1, as exact as the histogram's steps; NaN without counts."""
    middles_C = np.tile((np.arange(ENTROPY_STEPS) + 0.5) / ENTROPY_STEPS, 2)
    return _share(float(counts_C @ middles_C), counts_C)


def straight_share(counts_C: NDArray[np.int64]) -> float:
    """Share of the frames answered with straight; NaN without counts."""
    return _share(float(counts_C[ENTROPY_STEPS:].sum()), counts_C)


def _count(probabilities_B3: NDArray[np.float64]) -> NDArray[np.int64]:
    logs_B3 = np.log(np.maximum(probabilities_B3, _LEAST_PROBABILITY))
    entropy_B = -(probabilities_B3 * logs_B3).sum(axis=1) / math.log(probabilities_B3.shape[1])
    # Written so that NaN counts as no idea.
    sure_B = np.where(entropy_B < 1.0, np.maximum(entropy_B, 0.0), 1.0)
    step_B = np.minimum((sure_B * ENTROPY_STEPS).astype(np.int64), ENTROPY_STEPS - 1)
    straight_B = probabilities_B3.argmax(axis=1) == _STRAIGHT
    return np.bincount(step_B + ENTROPY_STEPS * straight_B, minlength=COUNTS)


def _share(part: float, counts_C: NDArray[np.int64]) -> float:
    total = counts_C.sum()
    return float(part / total) if total else float("nan")
