"""Channels with the vehicles' reports: pause by itself, and promote against the reports only on demand."""

from datetime import UTC, datetime

import pytest

from convoy_edge_client.releases.choice import Held, ReleaseRef
from convoy_server.errors import NotReleasableError, ReleaseFolderError
from convoy_server.releases import report_book
from convoy_server.releases.channels import ReleaseChannels
from convoy_server.releases.report_book import BOOK_FILE, ReportBook
from convoy_server.releases.rollout import Outcome, RolloutBounds, VehicleReport
from convoy_simulation.releases.release_stage import ReleaseStage

NOW = datetime.now(UTC)


@pytest.fixture
def stage(tmp_path):
    return ReleaseStage(tmp_path, NOW)


@pytest.fixture
def channels(stage):
    return ReleaseChannels(stage.releases, stage.online, stage.lifetimes, RolloutBounds())


@pytest.fixture
def book(stage):
    return ReportBook(stage.releases / BOOK_FILE)


def report(vehicle, outcome, release, number=1):
    return VehicleReport(vehicle=vehicle, number=number, release=release, outcome=outcome)


def test_a_failing_rollout_pauses_by_itself_and_goes_on_only_on_demand(stage, channels, book):
    release = stage.publish(b"model").release
    channels.promote("stable", release, NOW)
    book.add(report("a", Outcome.ROLLED_BACK, release))
    assert channels.pause_failing(NOW) == {}
    book.add(report("b", Outcome.ROLLED_BACK, release))
    assert channels.pause_failing(NOW) == {"stable": "2 of 2 vehicles rolled back, at most 5%"}
    assert channels.pause_failing(NOW) == {}  # it is paused already
    car = stage.vehicle()
    assert car.check(NOW).verdict.why == f"the rollout of {release} is paused"
    with pytest.raises(NotReleasableError, match="2 of 2 vehicles rolled back"):
        channels.promote("stable", None, NOW)
    channels.promote("stable", None, NOW, although=True)
    assert car.check(NOW).verdict.install


def test_a_withdrawn_release_is_left_by_who_tries_it(stage, channels):
    release = stage.publish(b"model")
    channels.promote("stable", release.release, NOW)
    channels.withdraw("stable", None, NOW)
    car, ref = stage.vehicle(), ReleaseRef(release.release, release.counter)
    car.held = Held(candidate=ref)
    assert not car.check(NOW).verdict.keep_candidate
    car.held = Held(committed=ref, floor=ref.counter)
    assert car.check(NOW).verdict.keep_committed


def test_the_way_back_is_the_earlier_folder_signed_again(stage, channels):
    earlier = stage.publish(b"good")
    channels.promote("stable", earlier.release, NOW)
    broken = stage.publish(b"broken")
    channels.promote("stable", broken.release, NOW)
    again = stage.publish(b"good")
    channels.promote("stable", again.release, NOW)
    car = stage.vehicle()
    assert car.update(NOW) == (again.release, b"good")
    assert again.counter > broken.counter > earlier.counter


def test_the_same_report_twice_is_one(book):
    assert book.add(report("a", Outcome.STARTED, "r1"))
    assert not book.add(report("a", Outcome.FAILED, "r1"))
    assert book.reports("r1") == [report("a", Outcome.STARTED, "r1")]


def test_a_vehicle_that_reports_without_end_overwrites_itself_only(book, monkeypatch):
    monkeypatch.setattr(report_book, "KEPT_PER_VEHICLE", 4)
    book.add(report("b", Outcome.COMMITTED, "r1"))
    for number in range(10):
        book.add(report("a", Outcome.FAILED, "r1", number))
    kept = book.reports("r1")
    assert len(kept) == 4 + 1
    assert report("b", Outcome.COMMITTED, "r1") in kept


def test_a_broken_book_is_named(book, stage):
    (stage.releases / BOOK_FILE).write_bytes(b"x" * 5000)
    with pytest.raises(ReleaseFolderError, match=r"reports\.sqlite"):
        book.reports("r1")
