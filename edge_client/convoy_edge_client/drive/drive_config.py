"""Table [drive]: how a vehicle drives, and how a new model gets the wheel."""

import math
from dataclasses import dataclass
from typing import Literal

SwapWindow = Literal["parked", "disengaged", "any"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveConfig:
    """Table [drive].

    Attributes:
        rate_hz: Frames a second that the camera gives; a frame that takes longer than its period has
            missed its deadline. In 1..240.
        steering_gain: Steering at full certainty of one side; positive.
        crop_top: Share of the camera's picture cut off at the top, as in training; in 0..1.
        crop_bottom: Likewise at the bottom.
        swap_window: When a new model may begin to drive: "parked"; "disengaged", while a person drives;
            "any" time. What the vehicle does not say counts as not so.
        shadow_every: Every so many frames one goes to the candidate as well.
        shadow_frames: So many must be compared before the candidate may drive.
        largest_disagreement: Mean difference of the steering (-1..1) to what drives; of the shadow.
        trial_frames: So many frames are driven before the candidate is committed.
        largest_slowdown: Factor on the median time of a frame before, above which the trial ends.
        largest_missed_share: Share of frames that miss their deadline, in addition to that before, above
            which the trial ends; in 0..1.
        watchdog_s: A frame without an answer for so long ends the trial; the model before answers it. In
            0.02..60.
        settled_frames: After so many frames in which nothing went wrong, earlier starts are forgiven.
        telemetry_every_s: Seconds that one line of telemetry sums up; in 1..3600.
        telemetry_rows: Lines that are kept until they are sent; the oldest give way.
    """

    rate_hz: float = 20.0
    steering_gain: float = 1.0
    crop_top: float = 0.0
    crop_bottom: float = 0.0
    swap_window: SwapWindow = "parked"
    shadow_every: int = 5
    shadow_frames: int = 200
    largest_disagreement: float = 0.2
    trial_frames: int = 1200
    largest_slowdown: float = 1.5
    largest_missed_share: float = 0.02
    watchdog_s: float = 1.0
    settled_frames: int = 600
    telemetry_every_s: float = 60.0
    telemetry_rows: int = 5000

    def __post_init__(self) -> None:
        for name, low, high in (
            ("rate_hz", 1, 240),
            ("crop_top", 0, 1),
            ("crop_bottom", 0, 1),
            ("largest_missed_share", 0, 1),
            ("watchdog_s", 0.02, 60),
            ("telemetry_every_s", 1, 3600),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be in {low:g}..{high:g}, got {getattr(self, name)}")
        if self.crop_top + self.crop_bottom >= 1:
            raise ValueError("crop_top + crop_bottom must be below 1")
        for name in ("steering_gain", "largest_disagreement", "largest_slowdown"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive, got {value}")
        for name in (
            "shadow_every",
            "shadow_frames",
            "trial_frames",
            "settled_frames",
            "telemetry_rows",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def frame_period_s(self) -> float:
        """From one frame to the next."""
        return 1.0 / self.rate_hz
