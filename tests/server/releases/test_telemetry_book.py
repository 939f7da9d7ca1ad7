"""Telemetry of vehicles is hostile: bounded, finite, one line each, and each line once."""

import math

import pytest

from convoy_protos.errors import MalformedMessageError
from convoy_protos.v1.release_pb2 import TelemetryLine
from convoy_server.releases import telemetry_book
from convoy_server.releases.telemetry_book import TelemetryBook


@pytest.fixture
def book(tmp_path):
    return TelemetryBook(tmp_path / "telemetry.sqlite")


def test_the_same_line_again_changes_nothing(book):
    assert book.add("car", [TelemetryLine(number=4, frames=1)]) == 4
    assert book.add("car", [TelemetryLine(number=4, frames=2)]) == 4
    assert [line.frames for line in book.newest("car", 9)] == [1]


def test_a_vehicle_overwrites_its_own_lines_only(book, monkeypatch):
    monkeypatch.setattr(telemetry_book, "KEPT_PER_VEHICLE", 3)
    book.add("other", [TelemetryLine(number=1)])
    for start in range(1, 41, 10):
        book.add("car", [TelemetryLine(number=start + step) for step in range(10)])
    assert [line.number for line in book.newest("car", 99)] == [40, 39, 38]
    assert len(book.newest("other", 9)) == 1


@pytest.mark.parametrize(
    "line",
    [
        TelemetryLine(number=0),
        TelemetryLine(number=1 << 63),
        TelemetryLine(number=1, p50_ms=math.nan),
        TelemetryLine(number=1, time_s=math.inf),
        TelemetryLine(number=1, temperature_c=math.nan),
        TelemetryLine(number=1, reason="two\nlines"),
        TelemetryLine(number=1, first_failure="x" * 501),
        TelemetryLine(number=1, steering_bins=[1] * 65),
    ],
)
def test_what_no_vehicle_sends_is_refused_whole(book, line):
    with pytest.raises(MalformedMessageError):
        book.add("car", [TelemetryLine(number=1), line])
    assert book.newest("car") == []


@pytest.mark.parametrize("count", [0, 65])
def test_a_request_has_one_to_sixty_four_lines(book, count):
    with pytest.raises(MalformedMessageError, match="1 to 64"):
        book.add("car", [TelemetryLine(number=1)] * count)
