"""A round whose model collapses on the server's own frames is rolled back, with a reason."""

import math

import pytest

from convoy_server.robust.canary import CanaryConfig, CanaryScore, judge

BEFORE = CanaryScore(balanced_accuracy=0.8, loss=0.5)
LIMITS = CanaryConfig(recordings=("tub",), max_drop=0.2, max_loss_ratio=3.0)


def score(balanced_accuracy=0.8, loss=0.5):
    return CanaryScore(balanced_accuracy=balanced_accuracy, loss=loss)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (BEFORE, score(0.9, 0.4), ""),
        (BEFORE, score(0.65, 0.5), ""),  # a bad round is no collapse
        (BEFORE, score(0.55, 0.5), "balanced accuracy fell from 0.800 to 0.550, more than 0.2"),
        (BEFORE, score(0.8, 1.4), ""),
        (BEFORE, score(0.8, 1.6), "the loss rose from 0.5 to 1.6, more than 3 times"),
        (BEFORE, score(0.8, math.nan), "balanced accuracy 0.800, loss nan"),
        (BEFORE, score(0.8, math.inf), "loss inf"),
        (BEFORE, score(math.nan, 0.5), "balanced accuracy nan"),
        (score(0.8, 0.001), score(0.8, 0.2), ""),  # small losses are noise
        (None, score(0.1, 99.0), ""),  # nothing to compare with
        (None, score(0.8, math.nan), "loss nan"),
        (score(math.nan, math.nan), score(0.4, 9.0), ""),  # whatever is finite is better
    ],
)
def test_a_collapse_is_rolled_back_and_says_why(before, after, reason):
    verdict = judge(before, after, LIMITS)
    assert verdict.keep == (not reason)
    assert reason in verdict.reason
    assert "\n" not in verdict.reason


def test_without_recordings_there_is_no_check():
    assert not CanaryConfig().enabled
    assert LIMITS.enabled


@pytest.mark.parametrize(
    "wrong",
    [
        {"frames": 0},
        {"max_drop": 0.0},
        {"max_drop": 1.1},
        {"max_drop": math.nan},
        {"max_loss_ratio": 1.0},
        {"max_loss_ratio": math.inf},
    ],
)
def test_limits_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CanaryConfig(**wrong)
