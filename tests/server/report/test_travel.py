"""What updates took, and who could read them."""

import dataclasses

import pytest

from convoy_compression.update.codec import UpdateConfig
from convoy_server.report.travel import privacy_of, update_of
from convoy_server.run_config import RunConfig


def run_with(codec):
    return RunConfig(update=UpdateConfig(codec=codec))


@pytest.fixture
def records(rounds):
    """One round of two updates of 100 parameters in 50 bytes each, one without any."""
    done = dataclasses.replace(
        rounds[0], completed=2, update_uplink_bytes=100, update_parameters=100, clip_norm=3.0
    )
    return (done, dataclasses.replace(done, completed=0, update_uplink_bytes=7))


@pytest.mark.parametrize(
    ("codec", "encrypted", "summed"),
    [("masked", True, True), ("sealed", True, False), ("float32", False, False)],
)
def test_the_codec_says_who_can_read_one_update(records, codec, encrypted, summed):
    update = update_of(run_with(codec), records)
    assert (update.codec, update.encrypted) == (f"{codec}/1", encrypted)
    assert privacy_of(run_with(codec), records).secure_aggregation is summed


def test_the_report_says_who_had_a_part_in_the_masks(records):
    helped = RunConfig(update=UpdateConfig(helpers=2))
    for run, source, helpers in (
        (helped, "helpers", 2),
        (run_with("masked"), "peers", 0),
        (run_with("sealed"), None, 0),
    ):
        assert update_of(run, records).mask_source == source
        assert privacy_of(run, records).mask_helpers == helpers


def test_bytes_are_means_over_the_updates_that_arrived(records):
    update = update_of(run_with("masked"), records)
    assert (update.bytes, update.bits_per_parameter, update.float32_bytes) == (50, 4.0, 400)


def test_where_nothing_arrived_nothing_is_told(records):
    assert update_of(run_with("masked"), records[1:]) is None
    assert update_of(run_with("masked"), ()) is None
    assert privacy_of(run_with("masked"), ()).epsilon is None


def test_the_clipping_bound_is_the_last_one(records):
    assert privacy_of(run_with("masked"), records).clip_norm == 3.0
