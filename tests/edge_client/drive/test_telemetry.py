"""What a vehicle counts, keeps while there is no link, and sends."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_edge_client.drive.frame_statistics import FrameStatistics, entropy_bits
from convoy_edge_client.drive.telemetry import TelemetryWriter, hottest_c
from convoy_edge_client.drive.wheel import Interval
from convoy_edge_client.errors import ReleaseStoreError
from convoy_edge_client.updates.states import Record
from convoy_edge_client.updates.telemetry_ring import RING_FILE, TelemetryLine, TelemetryRing


def counted(latencies, probabilities=(0.2, 0.5, 0.3)):
    statistics = FrameStatistics(deadline_ms=10.0)
    for latency in latencies:
        statistics.add(latency, 0.1, probabilities)
    return statistics


@given(st.lists(st.floats(0.02, 1000), min_size=1, max_size=200), st.sampled_from([0.5, 0.99]))
def test_a_quantile_is_known_to_five_percent(latencies, share):
    exact = float(np.quantile(latencies, share, method="inverted_cdf"))
    assert counted(latencies).quantile_ms(share) == pytest.approx(exact, rel=0.05)


@given(st.floats(0, 1e12), st.floats(-1, 1))
def test_any_answer_is_counted(latency, steering):
    statistics = FrameStatistics(deadline_ms=10.0)
    statistics.add(latency, steering, (1.0, 0.0, 0.0))
    assert sum(statistics.buckets) == sum(statistics.steering_bins) == 1
    assert statistics.missed == (latency > 10.0)


def test_entropy_is_zero_when_sure_and_largest_when_undecided():
    assert entropy_bits((0.0, 1.0, 0.0)) == 0
    assert entropy_bits((1 / 3, 1 / 3, 1 / 3)) == pytest.approx(math.log2(3))


def interval(statistics, release="spring"):
    return Interval(
        statistics=statistics,
        record=Record(reason="why", first_failure="first"),
        release=release,
        provider="cpu",
    )


def test_a_line_says_how_the_model_drifts_and_what_failed_first(tmp_path):
    ring = TelemetryRing(tmp_path, 10)
    writer = TelemetryWriter(ring, now_s=lambda: 5.0)
    writer(interval(counted([1.0, 20.0])))
    writer(interval(counted([1.0], probabilities=(0.0, 1.0, 0.0))))
    (_, first), (_, second) = ring.oldest(10)
    assert (first.frames, first.missed, first.entropy_drift) == (2, 1, 0.0)
    assert second.entropy_drift == pytest.approx(-first.mean_entropy)
    assert (first.reason, first.first_failure, first.time_s) == ("why", "first", 5.0)


def test_an_interval_without_frames_is_no_line(tmp_path):
    ring = TelemetryRing(tmp_path, 10)
    TelemetryWriter(ring)(interval(counted([])))
    assert ring.oldest(10) == []


def test_a_full_ring_lets_the_oldest_go(tmp_path):
    ring = TelemetryRing(tmp_path, 3)
    writer = TelemetryWriter(ring)
    for _ in range(8):
        writer(interval(counted([1.0])))
    assert [number for number, _ in ring.oldest(10)] == [6, 7, 8]


def test_what_the_server_has_is_forgotten_and_numbers_never_come_back(tmp_path):
    ring = TelemetryRing(tmp_path, 10)
    writer = TelemetryWriter(ring)
    writer(interval(counted([1.0])))
    ring.forget(1)
    writer(interval(counted([1.0])))
    assert [number for number, _ in TelemetryRing(tmp_path, 10).oldest(10)] == [2]


def test_a_damaged_ring_is_an_error_that_drives_on(tmp_path):
    (tmp_path / RING_FILE).write_bytes(b"no database" * 100)
    with pytest.raises(ReleaseStoreError, match="delete the file"):
        TelemetryRing(tmp_path, 3).oldest(1)


def test_a_line_holds_no_picture():
    kinds = {field.type for field in TelemetryLine.__dataclass_fields__.values()}
    assert "bytes" not in str(kinds)


def test_the_hottest_sensor_counts_and_the_fixed_one_does_not(tmp_path):
    for number, (kind, milli) in enumerate(
        [("CPU", "41000"), ("PMIC-Die", "100000"), ("GPU", "x")]
    ):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "type").write_text(kind)
        (zone / "temp").write_text(milli)
    assert hottest_c(tmp_path) == 41.0
    assert hottest_c(tmp_path / "none") is None
