"""When a candidate may drive, must be left, is committed: pure rules over what was counted."""

from dataclasses import dataclass

from convoy_edge_client.drive.drive_config import DriveConfig, SwapWindow

_FIRST_FRAMES = 50
"""Fewer say nothing about a rate."""
_NOTICEABLE_MS = 0.5
"""By which a median must be worse: below, the clock and the other programs decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleMoment:
    """What the vehicle says of itself; None: it does not say.

    Attributes:
        parked: It stands, and is not about to move.
        engaged: The model drives, not a person.
    """

    parked: bool | None = None
    engaged: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrivenFrames:
    """What was counted while one model drove.

    Attributes:
        frames: How many.
        p50_ms: Median time of a frame.
        missed: Frames that took longer than their period.
    """

    frames: int = 0
    p50_ms: float = 0.0
    missed: int = 0

    @property
    def missed_share(self) -> float:
        """Of all frames."""
        return self.missed / self.frames if self.frames else 0.0


def is_open(window: SwapWindow, moment: VehicleMoment) -> bool:
    """Whether another model may take the wheel now."""
    if window == "any" or moment.parked is True:
        return True
    return window == "disengaged" and moment.engaged is False


def shadow_objection(compared: int, mean_difference: float, config: DriveConfig) -> str | None:
    """Why the candidate must be left; empty: it may drive; None: too few frames were compared."""
    if compared < config.shadow_frames:
        return None
    if not mean_difference <= config.largest_disagreement:  # written so that NaN objects
        return (
            f"steers {mean_difference:.3f} off what drives in the mean of {compared} frames, at most "
            f"{config.largest_disagreement:g} allowed"
        )
    return ""


def trial_objection(before: DrivenFrames, trial: DrivenFrames, config: DriveConfig) -> str | None:
    """Why the trial must end; empty: it is passed; None: it goes on.

    Args:
        before: Of the model that drove before; without frames there is nothing to compare with.
        trial: Of the candidate.
        config: Bounds.
    """
    if trial.frames >= _FIRST_FRAMES or trial.frames >= config.trial_frames:
        share = trial.missed_share - before.missed_share
        if share > config.largest_missed_share:
            return (
                f"missed the deadline of {config.frame_period_s * 1e3:.3g} ms in "
                f"{trial.missed} of {trial.frames} frames"
            )
        slower_ms = trial.p50_ms - before.p50_ms
        if before.frames >= _FIRST_FRAMES and slower_ms > max(
            _NOTICEABLE_MS, before.p50_ms * (config.largest_slowdown - 1)
        ):
            return f"takes {trial.p50_ms:.2f} ms a frame, {before.p50_ms:.2f} ms before"
    return "" if trial.frames >= config.trial_frames else None
