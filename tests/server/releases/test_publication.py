"""What the server publishes, and what a crash at any file leaves."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from convoy_privacy.errors import ReleaseFormatError
from convoy_privacy.releases.layout import MANIFEST
from convoy_server import storage
from convoy_server.errors import ReleaseFolderError
from convoy_server.releases import proposal
from convoy_server.releases.inspection import faults
from convoy_server.releases.publication import renew
from convoy_server.releases.release_keys import generate_online_keys
from convoy_server.releases.repository import Lifetimes, signed_releases
from convoy_simulation.releases.release_stage import ReleaseStage

NOW = datetime.now(UTC)


@pytest.fixture
def stage(tmp_path):
    return ReleaseStage(tmp_path, NOW)


def renewed(stage, now):
    return renew(stage.repository, stage.online, now, stage.lifetimes)


def test_a_new_repository_is_one_that_a_vehicle_takes(stage):
    assert list(faults(stage.repository, NOW)) == []
    assert stage.vehicle().check(NOW).offer is None


def test_what_the_server_signs_is_renewed_at_half_its_life(stage):
    versions = stage.state()
    assert not renewed(stage, NOW + timedelta(hours=11))
    assert renewed(stage, NOW + timedelta(hours=12))
    state = stage.state()
    assert state.timestamp.signed.version == versions.timestamp.signed.version + 1
    assert state.snapshot.signed.version == versions.snapshot.signed.version
    assert renewed(stage, NOW + timedelta(days=4))
    assert stage.state().snapshot.signed.version == versions.snapshot.signed.version + 1
    assert renewed(stage, NOW + timedelta(days=16))
    assert stage.state().channels.signed.version == versions.channels.signed.version + 1
    assert list(faults(stage.repository, NOW + timedelta(days=16))) == []


def test_what_has_expired_is_named(stage):
    found = list(faults(stage.repository, NOW + timedelta(days=8)))
    assert [fault.split(":")[0] for fault in found] == ["snapshot", "timestamp"]


def test_keys_that_vehicles_do_not_know_publish_nothing(stage):
    before = stage.state()
    with pytest.raises(ReleaseFolderError, match="vehicles would refuse it"):
        renew(
            stage.repository,
            generate_online_keys(),
            NOW + timedelta(hours=12),
            stage.lifetimes,
        )
    assert stage.state() == before


@pytest.mark.parametrize("file", range(4))
def test_a_crash_before_any_file_leaves_what_was_there_and_the_next_try_ends_it(
    stage, monkeypatch, file
):
    stage.point(stage.publish(b"old"))
    car = stage.vehicle()
    car.update(NOW)
    source = proposal.read_source(stage.release_folder(b"new"))
    proposal.propose(stage.releases, source, NOW, stage.lifetimes)
    proposal.countersign(stage.releases, stage.offline.targets[1:])
    written, write_file = [], storage.write_file

    def crash(path, data):
        written.append(path)
        if len(written) > file:
            raise KeyboardInterrupt
        write_file(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_file", crash)
        try:
            proposal.publish(stage.releases, stage.online, NOW, stage.lifetimes)
        except KeyboardInterrupt:
            assert car.update(NOW)[1] == b"old"
    if proposal.waits(stage.releases):
        proposal.publish(stage.releases, stage.online, NOW, stage.lifetimes)
    assert list(faults(stage.repository, NOW)) == []
    stage.point(stage.publish(b"newest"))
    assert car.update(NOW)[1] == b"newest"


def test_old_releases_leave_the_list_unless_a_channel_has_them(stage, monkeypatch):
    monkeypatch.setattr(proposal, "KEPT_RELEASES", 2)
    first = stage.publish(b"0")
    stage.point(first)
    names = [stage.publish(str(number).encode()).release for number in range(1, 5)]
    listed = [one.release for one in signed_releases(stage.state().targets.signed)]
    assert listed == [*reversed(names[-2:]), first.release]


def test_counters_only_grow(stage):
    assert stage.publish(b"a", counter=7).counter == 7
    assert stage.publish(b"b").counter == 8
    with pytest.raises(ReleaseFormatError, match="counter 8 must be above 8"):
        stage.publish(b"c", counter=8)


def test_a_proposal_for_an_older_state_is_refused(stage):
    source = proposal.read_source(stage.release_folder(b"a"))
    proposal.propose(stage.releases, source, NOW, stage.lifetimes)
    old = (stage.releases / "proposal" / "targets.json").read_bytes()
    stage.publish(b"b")
    (stage.releases / "proposal").mkdir()
    (stage.releases / "proposal" / "targets.json").write_bytes(old)
    with pytest.raises(ReleaseFolderError, match="made for an older state"):
        proposal.load_proposal(stage.releases)


@pytest.mark.parametrize("role", ["root", "timestamp"])
def test_a_life_of_no_days_is_refused(role):
    with pytest.raises(ValueError, match=f"days of {role}"):
        Lifetimes(**{role: 0})


def test_a_counter_that_the_files_name_is_taken_if_it_is_the_next(stage):
    def counter_of(model, named):
        folder = stage.release_folder(model)
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps(manifest | {"counter": named}))
        new = proposal.propose(
            stage.releases, proposal.read_source(folder), NOW, stage.lifetimes
        ).new
        return new.counter

    stage.publish(b"first")
    assert counter_of(b"named", 5) == 5
    assert counter_of(b"old", 1) == 2
    assert counter_of(b"without", 0) == 2
