"""The canary check: does the model that a round made still drive on the server's own frames?

A robust rule bounds what a few hostile vehicles can do; this notices what got through all the same, and
what honest vehicles did by mistake. It sees collapses, not backdoors: frames that the attacker leaves
alone tell nothing.
"""

import math
from dataclasses import dataclass
from typing import Final

_SMALL_LOSS: Final = 0.1
"""Multiples of a loss below this are noise: 0.001 becoming 0.004 is no explosion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryConfig:
    """What the global model is checked with after every round, and what counts as a collapse.

    Attributes:
        recordings: Recordings that the server may see; empty: no check. Never the fleet's own.
        frames: Frames taken from them at most, spread evenly.
        max_drop: Balanced accuracy that one round may lose, above 0.
        max_loss_ratio: A loss this many times that before the round is an explosion; above 1.
    """

    recordings: tuple[str, ...] = ()
    frames: int = 500
    max_drop: float = 0.2
    max_loss_ratio: float = 4.0

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"frames must be at least 1, got {self.frames}")
        if not 0.0 < self.max_drop <= 1.0:
            raise ValueError(f"max_drop must be above 0 and at most 1, got {self.max_drop}")
        if not 1.0 < self.max_loss_ratio < math.inf:
            raise ValueError(f"max_loss_ratio must be above 1, got {self.max_loss_ratio}")

    @property
    def enabled(self) -> bool:
        """Whether there is anything to check with."""
        return bool(self.recordings)


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryScore:
    """One global model on the server's frames.

    Attributes:
        balanced_accuracy: Of the steering classes, in 0..1.
        loss: Mean over the frames.
    """

    balanced_accuracy: float
    loss: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a round.

    Attributes:
        keep: Whether the new model stays; otherwise the round is rolled back.
        reason: One line with the figures; empty where the model stays.
    """

    keep: bool
    reason: str = ""


def judge(before: CanaryScore | None, after: CanaryScore, config: CanaryConfig) -> Verdict:
    """Keep the round's model or roll it back.

    Args:
        before: The model that the round started from; None where it was not scored.
        after: The model that the round made.
        config: Limits.
    """
    if not (math.isfinite(after.balanced_accuracy) and math.isfinite(after.loss)):
        return Verdict(
            False, f"balanced accuracy {after.balanced_accuracy:.3f}, loss {after.loss:.3g}"
        )
    if before is None:
        return Verdict(True)
    if before.balanced_accuracy - after.balanced_accuracy > config.max_drop:
        return Verdict(
            False,
            f"balanced accuracy fell from {before.balanced_accuracy:.3f} to "
            f"{after.balanced_accuracy:.3f}, more than {config.max_drop:g}",
        )
    if after.loss > config.max_loss_ratio * max(before.loss, _SMALL_LOSS):
        return Verdict(
            False,
            f"the loss rose from {before.loss:.3g} to {after.loss:.3g}, more than "
            f"{config.max_loss_ratio:g} times",
        )
    return Verdict(True)
