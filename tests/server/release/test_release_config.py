"""Which release settings are refused."""

import math

import pytest

from convoy_protos.errors import SettingsError
from convoy_protos.settings import from_table, to_table
from convoy_server.release.config import ReleaseConfig


def test_the_section_survives_a_trip_through_a_table():
    config = ReleaseConfig(
        proxy=("proxy/tub_1",), student="textbook", prune_ratio=0.25, max_int8_ms=3.0
    )

    assert from_table(ReleaseConfig, to_table(config) | {"proxy": ["proxy/tub_1"]}, "x") == config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("proxy_frames", 0),
        ("teachers", 0),
        ("epochs", 0),
        ("batch_size", 0),
        ("golden_frames", 0),
        ("golden_frames", 65),
        ("max_steering_change", 0.0),
        ("temperature", 0.0),
        ("temperature", math.nan),
        ("learning_rate", math.inf),
        ("prune_ratio", 0.3),  # of which file would it be too much?
        ("max_int8_bytes", -1),
        ("max_int8_ms", -0.5),
        ("qat_epochs", -1),
        ("max_proxy_distance", 1.1),
        ("ensemble", "everybody"),
        ("prune_ratio", 1.0),  # nothing would be left
        ("prune_norm", "l3"),
        ("max_int8_accuracy_drop", -0.1),  # a drop is counted downwards
        ("min_int8_agreement", 1.1),
        ("min_closed_loop_score", math.nan),
        ("student", ""),
        ("gates", "off"),  # no such key
    ],
)
def test_a_value_out_of_range_is_named(key, value):
    with pytest.raises(SettingsError, match=key):
        from_table(ReleaseConfig, {key: value}, "[release]")
