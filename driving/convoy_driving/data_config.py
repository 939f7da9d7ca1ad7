"""Section [data] of a scenario: how recordings become frames and labels."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """How recordings become frames and labels.

    Steering is -1 full left to +1 full right everywhere inside Convoy.

    Attributes:
        frame_height: Pixels, of the picture that the model sees.
        frame_width: Pixels, of the picture that the model sees.
        crop_top: Share of the source picture cut off at the top before resizing.
        crop_bottom: Share of the source picture cut off at the bottom before resizing.
        steering_threshold: Steering of a smaller magnitude is "straight".
        held_share: Share of each vehicle's laps or blocks held back for validation; 0 holds none.
        blocks: A vehicle of fewer laps than this is cut into this many contiguous blocks instead.
        guard_frames: Training frames dropped on either side of a held part, so that no training
            frame was taken a blink before or after a held one.
        lap_gap_s: A longer pause between two frames starts a new lap.
        modes: Driving modes that are learned from ("user" is the human); empty takes every mode.
        side_cameras: Train on the left and right cameras of a driving log as well.
        side_camera_correction: Added to the steering of a left camera, subtracted for a right one.
        log_columns: Columns of a driving log without a header, in order.
        log_image: Column of the (centre) picture's path.
        log_left_image: Column of the left camera's picture.
        log_right_image: Column of the right camera's picture.
        log_steering: Column of the steering.
        log_throttle: Column of the throttle; a log without it counts as throttle 0.
        log_time: Column of the time in seconds; empty reads it from Udacity's picture names.
        log_steering_scale: Factor on the logged steering; negative where left is positive.
        ros_image_topic: Topic of the camera; empty takes the only image topic of the bag.
        ros_steering_topic: Topic of the steering command; empty takes the only one that has the
            field `ros_steering_field`.
        ros_steering_field: Path of the field inside the message.
        ros_steering_scale: Factor on that field; negative because ROS counts left as positive.
        ros_throttle_topic: Topic of the throttle; empty takes the steering topic.
        ros_throttle_field: Path of the field inside the message.
        ros_throttle_scale: Factor on that field, for example 1 / top speed in m/s.
        ros_time_tolerance_s: A frame without a command this close in time is skipped.
        ros_message_folder: Folder of .msg files (package/msg/Name.msg) for bags that lack them.
    """

    frame_height: int = 60
    frame_width: int = 80
    crop_top: float = 0.0
    crop_bottom: float = 0.0
    steering_threshold: float = 0.2
    held_share: float = 0.2
    blocks: int = 10
    guard_frames: int = 5
    lap_gap_s: float = 15.0
    modes: tuple[str, ...] = ()
    side_cameras: bool = False
    side_camera_correction: float = 0.2
    log_columns: tuple[str, ...] = (
        "center",
        "left",
        "right",
        "steering",
        "throttle",
        "brake",
        "speed",
    )
    log_image: str = "center"
    log_left_image: str = "left"
    log_right_image: str = "right"
    log_steering: str = "steering"
    log_throttle: str = "throttle"
    log_time: str = ""
    log_steering_scale: float = 1.0
    ros_image_topic: str = ""
    ros_steering_topic: str = ""
    ros_steering_field: str = "twist.angular.z"
    ros_steering_scale: float = -1.0
    ros_throttle_topic: str = ""
    ros_throttle_field: str = "twist.linear.x"
    ros_throttle_scale: float = 1.0
    ros_time_tolerance_s: float = 0.05
    ros_message_folder: str = ""

    def __post_init__(self) -> None:
        for name in ("frame_height", "frame_width"):
            if not 16 <= getattr(self, name) <= 1024:
                raise ValueError(f"{name} must be in 16..1024, got {getattr(self, name)}")
        for name in ("crop_top", "crop_bottom"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.crop_top + self.crop_bottom > 0.9:
            raise ValueError(
                "crop_top + crop_bottom must leave a tenth of the picture (at most 0.9), "
                f"got {self.crop_top + self.crop_bottom}"
            )
        if not 0 < self.steering_threshold < 1:
            raise ValueError(f"steering_threshold must be in (0, 1), got {self.steering_threshold}")
        if not 0 <= self.held_share <= 0.9:
            raise ValueError(f"held_share must be in [0, 0.9], got {self.held_share}")
        if self.blocks < 2:
            raise ValueError(f"blocks must be at least 2, got {self.blocks}")
        if self.guard_frames < 0:
            raise ValueError(f"guard_frames must not be negative, got {self.guard_frames}")
        if not self.lap_gap_s > 0:
            raise ValueError(f"lap_gap_s must be positive, got {self.lap_gap_s}")
        if not 0 <= self.side_camera_correction <= 1:
            raise ValueError(
                f"side_camera_correction must be in [0, 1], got {self.side_camera_correction}"
            )
        if not self.ros_time_tolerance_s >= 0:
            raise ValueError(
                f"ros_time_tolerance_s must not be negative, got {self.ros_time_tolerance_s}"
            )
