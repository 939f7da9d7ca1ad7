"""The vehicle's updater: what is transferred, what is kept, what it needs."""

import ast
import contextlib
import errno
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import convoy_edge_client.releases
import convoy_privacy.releases
from convoy_edge_client.errors import Refusal, ReleaseRefusedError, ReleaseStoreError
from convoy_edge_client.releases.byte_source import DepotSource
from convoy_edge_client.releases.choice import Held, ReleaseRef
from convoy_edge_client.releases.pace import TransferLimits, is_too_slow
from convoy_privacy.releases.layout import MANIFEST
from convoy_simulation.releases.attack_cases import NEW_MODEL, Scene
from convoy_simulation.releases.release_stage import MODEL, ReleaseStage

NOW = datetime.now(UTC)


@pytest.fixture
def stage(tmp_path):
    return ReleaseStage(tmp_path / "stage", NOW)


@pytest.fixture
def pointed(stage):
    stage.point(stage.publish(b"model"))
    return stage


def test_a_check_with_nothing_new_takes_less_than_a_kilobyte(pointed):
    car = pointed.vehicle()
    car.update(NOW)
    car.source.sent.clear()
    car.check(NOW)
    assert [path for path, _, _ in car.source.sent] == ["metadata/timestamp.json"]
    assert car.source.sent_bytes() < 1000


def test_a_stick_serves_the_same_repository(pointed, tmp_path):
    stick = tmp_path / "stick"
    shutil.copytree(pointed.repository, stick)
    shutil.rmtree(pointed.releases)
    car = pointed.vehicle()
    car.source = DepotSource(stick)
    assert car.update(NOW)[1] == b"model"


def test_a_half_copied_stick_says_what_is_missing(pointed, tmp_path):
    stick = tmp_path / "stick"
    shutil.copytree(pointed.repository, stick)
    shutil.rmtree(stick / "targets" / "releases")
    car = pointed.vehicle()
    car.source = DepotSource(stick)
    with pytest.raises(ReleaseRefusedError, match="not in the repository") as caught:
        car.update(NOW)
    assert caught.value.refusal is Refusal.MISSING


@pytest.mark.parametrize("cut", [0, 1, 262_143, 262_144, 262_145, len(NEW_MODEL) - 1])
def test_a_cut_at_any_byte_resumes_without_a_byte_twice(tmp_path, cut):
    scene = Scene(tmp_path, NOW)
    with scene.car.updater() as updater:
        offer = updater.check("stable", scene.car.profile, scene.car.held, NOW).offer
    scene.source.sent.clear()
    scene.source.cut_after_bytes = cut
    assert [scene.try_update(), scene.try_update()] == ["down", "accepted"]
    assert scene.source.sent_bytes(MODEL) == len(NEW_MODEL)
    assert offer is not None


def test_only_the_named_files_are_fetched(pointed):
    car = pointed.vehicle()
    with car.updater() as updater:
        offer = updater.check("stable", car.profile, car.held, NOW).offer
        car.source.sent.clear()
        folder = updater.download(offer, [])
        assert [path.name for path in folder.iterdir()] == [MANIFEST]
        assert car.source.sent_bytes() == 0  # the manifest came with the check
        with pytest.raises(ReleaseRefusedError, match=r"has no other\.onnx, only"):
            updater.download(offer, ["other.onnx"])


def test_the_same_model_in_another_release_is_not_fetched_again(pointed):
    car = pointed.vehicle()
    car.update(NOW)
    again = pointed.publish(b"model")
    pointed.point(again)
    car.source.sent.clear()
    assert car.update(NOW) == (again.release, b"model")
    assert car.source.sent_bytes(MODEL) == 0


def test_a_release_lies_in_a_folder_of_its_own(pointed):
    car = pointed.vehicle()
    car.update(NOW)
    (folder,) = (car.folder / "releases").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, MODEL]
    assert (folder / MODEL).read_bytes() == b"model"
    (folder / MODEL).unlink()
    (folder / f".new-{MODEL}").write_bytes(b"half, from before a power cut")
    car.update(NOW)
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, MODEL]


def test_what_no_slot_needs_is_thrown_away(pointed):
    car = pointed.vehicle()
    car.update(NOW)
    old = {path.name for path in (car.folder / "store").iterdir()}
    new = pointed.publish(b"next")
    pointed.point(new)
    car.update(NOW)
    (car.folder / "store" / "half.part").touch()
    with car.updater() as updater:
        updater.check("stable", car.profile, car.held, NOW)
        updater.discard_others([new.release])
    left = {path.name for path in (car.folder / "store").iterdir()}
    assert len(left) == 4  # model, manifest, pointer, policy
    assert len(left & old) == 1  # the policy
    assert [path.name for path in (car.folder / "releases").iterdir()] == [new.release]
    car.source.sent.clear()
    car.update(NOW)
    assert [path for path, _, _ in car.source.sent] == ["metadata/timestamp.json"]


def test_two_releases_share_the_model_that_both_have(pointed):
    car = pointed.vehicle()
    first, _ = car.update(NOW)
    again = pointed.publish(b"model")
    pointed.point(again)
    car.update(NOW)
    with car.updater() as updater:
        updater.discard_others([again.release])
    assert not (car.folder / "releases" / first).exists()
    assert (car.folder / "releases" / again.release / MODEL).read_bytes() == b"model"


def test_a_model_that_failed_is_not_taken_again_under_another_name(pointed):
    car = pointed.vehicle()
    with car.updater() as updater:
        offer = updater.check("stable", car.profile, car.held, NOW).offer
    failed = offer.targets[MODEL].hashes["sha256"]
    car.held = Held(
        quarantined=frozenset({offer.ref.release}), quarantined_files=frozenset({failed})
    )
    again = pointed.publish(b"model")
    pointed.point(again)
    found = car.check(NOW)
    assert (found.offer, found.verdict.install) == (None, False)
    assert "failed on this vehicle under another name" in found.verdict.why
    pointed.point(pointed.publish(b"mended"))
    assert car.update(NOW)[1] == b"mended"


def test_a_vehicle_outside_the_rollout_fetches_nothing(stage):
    stage.point(stage.publish(b"model"), percent=0)
    car = stage.vehicle(canary=False)
    assert car.update(NOW) == ("", b"")
    assert car.source.sent_bytes(MODEL) == car.source.sent_bytes("releases/") == 0


def test_a_clock_that_is_set_right_by_minutes_is_fine(pointed):
    car = pointed.vehicle()
    car.check(NOW)
    car.check(NOW - timedelta(minutes=9))
    with pytest.raises(ReleaseRefusedError, match="before the last check"):
        car.check(NOW - timedelta(minutes=30))


def test_a_torn_note_of_the_clock_is_no_obstacle(pointed):
    car = pointed.vehicle()
    car.check(NOW)
    (car.folder / "last_check").write_text("2026-1")
    car.check(NOW)


def test_a_failed_check_leaves_the_clock_as_it_was(pointed):
    car = pointed.vehicle()
    car.source.lies["metadata/timestamp.json"] = b"garbage"
    with pytest.raises(ReleaseRefusedError):
        car.check(NOW + timedelta(hours=1))
    car.source.lies.clear()
    car.check(NOW)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    """A stage, and every public file that an update reads."""
    stage = ReleaseStage(tmp_path_factory.mktemp("fuzzed"), NOW)
    stage.point(stage.publish(b"model"))
    car = stage.vehicle()
    car.update(NOW)
    return stage, sorted({path for path, _, _ in car.source.sent})


@pytest.mark.slow
@given(data=st.data())
def test_whatever_a_repository_sends_is_taken_or_refused_in_our_words(fuzzed, data):
    stage, paths = fuzzed
    path = data.draw(st.sampled_from([*paths, "metadata/2.root.json"]))
    honest = stage.repository / path
    sent = bytearray(honest.read_bytes() if honest.exists() else stage.bootstrap_root)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(sent) - 1))
        sent[start : start + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    car = stage.vehicle()
    car.source.lies[path] = data.draw(st.just(bytes(sent)) | st.binary(max_size=40))
    with contextlib.suppress(ReleaseRefusedError):
        assert car.update(NOW)[1] == b"model"
    shutil.rmtree(car.folder)


def test_a_read_only_disk_is_named(pointed, monkeypatch):
    car = pointed.vehicle()
    car.update(NOW)

    def refuse(path, *_):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ReleaseStoreError, match="Read-only file system; make room or mend"):
        car.check(NOW)


def test_a_file_in_the_place_of_the_folder_is_named(pointed):
    car = pointed.vehicle()
    car.folder.write_text("")
    with pytest.raises(ReleaseStoreError, match=str(car.folder)):
        car.check(NOW)


def test_a_pointer_that_is_against_the_rules_takes_nothing_away(pointed):
    car = pointed.vehicle()
    car.held = Held(committed=ReleaseRef("r9", 9), floor=9)
    found = car.check(NOW)
    assert found.verdict.keep_committed
    assert found.offer is None
    assert "below 9" in found.verdict.refused


@pytest.mark.parametrize(
    ("received_bytes", "elapsed_s", "slow"),
    [
        (0, 19.9, False),  # patience first
        (0, 20.0, True),
        (19_999, 20.0, True),
        (20_000, 20.0, False),
        (10**9, 1800.0, True),  # whatever its rate
    ],
)
def test_a_transfer_is_given_up_when_it_is_slow_or_long(received_bytes, elapsed_s, slow):
    assert is_too_slow(received_bytes, elapsed_s, TransferLimits()) is slow


@pytest.mark.parametrize(
    "wrong",
    [{"slowest_bytes_per_s": -1.0}, {"reserve_bytes": -1}, {"patience_s": 0.0}, {"longest_s": 0.0}],
)
def test_limits_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TransferLimits(**wrong)


def test_a_vehicle_needs_neither_torch_nor_flower_for_it():
    script = (
        "import sys, convoy_edge_client.releases.updater\n"
        "print([name for name in ('torch', 'flwr', 'onnxruntime', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("package", [convoy_edge_client.releases, convoy_privacy.releases])
def test_python_3_10_reads_it(package):
    for path in Path(package.__path__[0]).glob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 10))
        names = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module in ("datetime", "typing", "enum")
            for alias in node.names
        }
        assert not names & {"UTC", "Self", "StrEnum", "assert_never", "NotRequired"}, path
