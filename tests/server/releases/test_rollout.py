"""How a release spreads: rules and their properties."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_server.errors import RolloutError
from convoy_server.releases.repository import SignedRelease
from convoy_server.releases.rollout import (
    STAGES,
    Outcome,
    RolloutBounds,
    VehicleReport,
    next_stage,
    pause,
    pause_reason,
    promote,
    tally,
    withdraw,
)

SALT = "00" * 16
BOUNDS = RolloutBounds(max_failure_rate=0.05, max_rollback_rate=0.1, min_bad=2)
REPORTS = st.builds(
    VehicleReport,
    vehicle=st.sampled_from(["a", "b", "c", "d"]),
    number=st.integers(0, 5),
    release=st.sampled_from(["r1", "r2"]),
    outcome=st.sampled_from(Outcome),
)
COUNTS = st.fixed_dictionaries({outcome: st.integers(0, 100) for outcome in Outcome})


def release(counter):
    return SignedRelease(release=f"r{counter}", counter=counter, files={})


def begun(counter=1, **changes):
    return dataclasses.replace(promote(None, "stable", release(counter), SALT), **changes)


def test_a_release_goes_from_canaries_to_everybody():
    pointer = begun()
    seen = [pointer.percent]
    for _ in range(len(STAGES)):
        pointer = promote(pointer, "stable", release(1), "ff" * 16)
        seen.append(pointer.percent)
    assert seen == [0, 1, 5, 25, 100, 100]
    assert pointer.salt == SALT  # who is in stays in


def test_another_release_begins_anew_with_other_vehicles_first():
    pointer = promote(begun(percent=100), "stable", release(2), "ff" * 16)
    assert (pointer.release, pointer.percent, pointer.salt) == ("r2", 0, "ff" * 16)


def test_a_paused_release_goes_on_where_it_was():
    paused = pause(begun(percent=5))
    assert (paused.state, paused.percent) == ("paused", 5)
    assert promote(paused, "stable", release(1), SALT) == begun(percent=5)


def test_an_older_release_is_not_promoted():
    with pytest.raises(RolloutError, match="older than r2 on stable"):
        promote(begun(2), "stable", release(1), SALT)


def test_a_withdrawn_release_does_not_come_back():
    pointer = withdraw(begun(percent=25), "r1")
    assert (pointer.withdrawn, pointer.percent) == (("r1",), 25)
    assert withdraw(pointer, "r1") == pointer
    with pytest.raises(RolloutError, match="was withdrawn"):
        promote(pointer, "stable", release(1), SALT)
    following = promote(pointer, "stable", release(2), SALT)
    assert following.withdrawn == ("r1",)  # a vehicle that was away still learns of it


def test_only_the_newest_withdrawn_releases_are_named():
    pointer = begun()
    for number in range(40):
        pointer = withdraw(pointer, f"r{number}")
    assert (len(pointer.withdrawn), pointer.withdrawn[-1]) == (32, "r39")


def test_tags_stay_until_they_are_changed():
    tagged = promote(None, "stable", release(1), SALT, tags={"hardware": ("orin",)})
    again = promote(tagged, "stable", release(1), SALT)
    assert again.tags == {"hardware": ("orin",)}
    assert promote(again, "stable", release(1), SALT, tags={}).tags == {}


@given(st.integers(0, 100))
def test_the_next_stage_is_never_smaller(percent):
    assert percent <= next_stage(percent) <= 100


@pytest.mark.parametrize(
    ("committed", "failed", "rolled_back", "said"),
    [
        (0, 0, 0, None),
        (0, 1, 0, None),  # one broken vehicle stops nobody
        (0, 2, 0, "2 of 2 vehicles failed, at most 5%"),
        (38, 2, 0, None),  # exactly the bound
        (37, 2, 0, "2 of 39 vehicles failed, at most 5%"),
        (18, 0, 2, None),
        (17, 0, 2, "2 of 19 vehicles rolled back, at most 10%"),
    ],
)
def test_a_rollout_pauses_when_a_rate_passes_its_bound(committed, failed, rolled_back, said):
    counts = {
        Outcome.STARTED: 7,  # not ended: they say nothing yet
        Outcome.COMMITTED: committed,
        Outcome.FAILED: failed,
        Outcome.ROLLED_BACK: rolled_back,
    }
    assert pause_reason(counts, BOUNDS) == said


@given(COUNTS)
def test_one_more_commit_never_pauses_and_one_less_never_resumes(counts):
    more = {**counts, Outcome.COMMITTED: counts[Outcome.COMMITTED] + 1}
    assert pause_reason(more, BOUNDS) is None or pause_reason(counts, BOUNDS) is not None


@given(COUNTS, st.sampled_from([Outcome.FAILED, Outcome.ROLLED_BACK]))
def test_a_vehicle_that_fails_instead_never_resumes(counts, bad):
    if counts[Outcome.COMMITTED]:
        worse = {
            **counts,
            Outcome.COMMITTED: counts[Outcome.COMMITTED] - 1,
            bad: counts[bad] + 1,
        }
        assert pause_reason(counts, BOUNDS) is None or pause_reason(worse, BOUNDS) is not None


@given(st.lists(REPORTS, max_size=20), st.randoms(use_true_random=False))
def test_reports_count_once_in_whatever_order_they_come(reports, random):
    shuffled = reports + reports
    random.shuffle(shuffled)
    counts = tally(shuffled, "r1")
    assert counts == tally(reports, "r1")
    assert sum(counts.values()) == len({one.vehicle for one in reports if one.release == "r1"})


def test_a_vehicles_newest_report_counts():
    reports = [
        VehicleReport(vehicle="a", number=number, release="r1", outcome=outcome)
        for number, outcome in enumerate([Outcome.STARTED, Outcome.COMMITTED, Outcome.ROLLED_BACK])
    ]
    assert tally(reports, "r1")[Outcome.ROLLED_BACK] == 1
    assert tally(reports[:2], "r1")[Outcome.COMMITTED] == 1


@pytest.mark.parametrize(
    "wrong", [{"max_failure_rate": 1.1}, {"max_rollback_rate": -0.1}, {"min_bad": 0}]
)
def test_bounds_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RolloutBounds(**wrong)
