"""Settings that make no sense are refused when they are made."""

import pytest

from convoy_driving.data_config import DataConfig
from convoy_protos.settings import from_table, to_table


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frame_height": 8}, r"frame_height must be in 16\.\.1024, got 8"),
        ({"crop_top": 0.6, "crop_bottom": 0.4}, "must leave a tenth"),
        ({"crop_top": 1.0}, "crop_top must be in"),
        ({"steering_threshold": 0.0}, "steering_threshold"),
        ({"held_share": 0.95}, "held_share"),
        ({"blocks": 1}, "blocks must be at least 2"),
        ({"guard_frames": -1}, "guard_frames"),
        ({"lap_gap_s": 0.0}, "lap_gap_s"),
        ({"side_camera_correction": 2.0}, "side_camera_correction"),
        ({"ros_time_tolerance_s": -0.1}, "ros_time_tolerance_s"),
        ({"held_share": float("nan")}, "held_share"),
    ],
)
def test_a_value_out_of_range_is_refused_with_what_is_expected(settings, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**settings)


def test_settings_survive_the_trip_through_a_table():
    config = DataConfig(modes=("user", "local"), crop_top=0.25)

    assert from_table(DataConfig, to_table(config), "[data]") == config
