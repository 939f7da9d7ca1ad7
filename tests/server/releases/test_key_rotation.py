"""Keys change: who lost one, who was broken into, and a change that was cut short."""

import contextlib
from datetime import UTC, datetime

import pytest

from convoy_server import storage
from convoy_server.errors import NotReleasableError, ReleaseFolderError
from convoy_server.releases.inspection import faults
from convoy_server.releases.key_rotation import (
    KeyChange,
    replace_offline_key,
    replace_online_keys,
    server_keys,
)
from convoy_server.releases.publication import renew
from convoy_server.releases.release_keys import ONLINE_ROLES, load_key, save_online_keys
from convoy_simulation.releases.release_stage import ReleaseStage

NOW = datetime.now(UTC)


@pytest.fixture
def stage(tmp_path):
    stage = ReleaseStage(tmp_path, NOW)
    save_online_keys(stage.releases / "online", stage.online)
    stage.point(stage.publish(b"model"))
    return stage


def replace_online(stage, roles=ONLINE_ROLES):
    replace_online_keys(
        stage.releases,
        roles,
        NOW,
        stage.lifetimes,
        root_signers=stage.offline.root[1:],
        targets_signers=stage.offline.targets[1:],
    )
    stage.online = server_keys(stage.releases)


def keyids(keys):
    return [getattr(keys, role).public_key.keyid for role in ONLINE_ROLES]


def test_new_online_keys_sign_from_now_on_and_vehicles_follow(stage):
    old, car = stage.online, stage.vehicle()
    car.update(NOW)
    replace_online(stage)
    assert not set(keyids(old)) & set(keyids(stage.online))
    assert list(faults(stage.repository, NOW)) == []
    stage.point(stage.publish(b"next"))
    assert car.update(NOW)[1] == b"next"


def test_one_online_key_alone(stage):
    old = stage.online
    replace_online(stage, ["timestamp"])
    same = [one == other for one, other in zip(keyids(old), keyids(stage.online), strict=True)]
    assert same == [True, True, False]


@pytest.mark.parametrize("file", range(12))
def test_a_change_of_keys_that_was_cut_anywhere_is_ended_or_undone(stage, monkeypatch, file):
    written, write_file = [], storage.write_file

    def crash(path, data):
        written.append(path)
        if len(written) > file:
            raise KeyboardInterrupt
        write_file(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_file", crash)
        with contextlib.suppress(KeyboardInterrupt):
            replace_online(stage)
    if list(faults(stage.repository, NOW)):
        replace_online(stage)  # the operator's second try
    stage.online = server_keys(stage.releases)
    renew(stage.repository, stage.online, NOW, stage.lifetimes)
    assert list(faults(stage.repository, NOW)) == []
    stage.point(stage.publish(b"next"))
    assert stage.vehicle().update(NOW)[1] == b"next"
    assert not (stage.releases / "online.next").exists()


def test_lost_online_keys_are_replaced_without_them(stage):
    for role in ONLINE_ROLES:
        (stage.releases / "online" / f"{role}.key").unlink()
    replace_online(stage)
    stage.point(stage.publish(b"next"))
    assert stage.vehicle().update(NOW)[1] == b"next"


@pytest.mark.parametrize("role", ["root", "targets"])
def test_a_lost_offline_key_is_replaced_by_the_others(stage, role, tmp_path):
    car = stage.vehicle()
    car.update(NOW)
    signers = {"root": stage.offline.root, "targets": stage.offline.targets}
    old, others = signers[role][0].public_key.keyid, signers[role][1:]
    out = tmp_path / "new.key"
    replace_offline_key(
        stage.releases,
        role,
        NOW,
        stage.lifetimes,
        old=old[:12],
        out=out,
        root_signers=stage.offline.root[1:],
        targets_signers=stage.offline.targets[1:],
    )
    root = stage.state().root.signed
    assert load_key(out).public_key.keyid in root.roles[role].keyids
    assert old not in root.roles[role].keyids
    assert {signer.public_key.keyid for signer in others} <= set(root.roles[role].keyids)
    assert car.check(NOW).verdict.install


def test_one_root_key_changes_nothing(stage):
    before = stage.state()
    with pytest.raises(NotReleasableError, match="2 of the old root keys"):
        replace_online_keys(
            stage.releases,
            ["timestamp"],
            NOW,
            stage.lifetimes,
            root_signers=stage.offline.root[:1],
        )
    assert stage.state() == before
    assert keyids(server_keys(stage.releases)) == keyids(stage.online)


def test_the_channels_key_needs_targets_keys_not_root_keys(stage):
    with pytest.raises(NotReleasableError, match="2 of their keys"):
        replace_online_keys(
            stage.releases,
            ["channels"],
            NOW,
            stage.lifetimes,
            root_signers=stage.offline.root,
        )


def test_an_unknown_key_cannot_go(stage, tmp_path):
    with pytest.raises(ReleaseFolderError, match="has no single key"):
        replace_offline_key(
            stage.releases,
            "root",
            NOW,
            stage.lifetimes,
            old="",
            out=tmp_path / "new.key",
            root_signers=stage.offline.root,
        )


def test_an_unknown_role_is_refused(stage):
    with pytest.raises(ValueError, match="role must be one of"):
        KeyChange(role="mirrors", old="", new=stage.online.snapshot.public_key)
