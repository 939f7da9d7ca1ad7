"""Attacks and faults between a repository and a vehicle, each with what must become of it.

Source: TUF 1.0, section 1.5.2 (goals against attacks). Every case plays on a stage of its own; it gives one
word for each attempt of the vehicle: "accepted", a reason of `Refusal`, "down" or "disk".
"""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Final, cast

from tuf.api.metadata import TargetFile, Targets

from convoy_edge_client.errors import (
    ReleaseRefusedError,
    ReleaseStoreError,
    RepositoryDownError,
)
from convoy_edge_client.releases.byte_source import DepotSource
from convoy_edge_client.releases.choice import Held, ReleaseRef
from convoy_edge_client.releases.fetching import PART_SUFFIX
from convoy_edge_client.releases.pace import TransferLimits
from convoy_privacy.releases.counters import MAX_COUNTER_STEP
from convoy_privacy.releases.layout import (
    channel_target,
    release_entry,
    release_target,
    stored_path,
)
from convoy_server.releases.release_keys import (
    ONLINE_ROLES,
    generate_offline_keys,
    generate_online_keys,
)
from convoy_server.releases.repository import (
    SignedRelease,
    next_version,
    sign,
)
from convoy_simulation.releases.release_stage import (
    CHANNEL,
    MODEL,
    LyingSource,
    ReleaseStage,
    Vehicle,
)

OLD_MODEL: Final = b"old model " * 40_000
NEW_MODEL: Final = b"new model " * 40_000
_ENDLESS: Final = b"x" * (8 << 20)


@dataclass(frozen=True, slots=True)
class AttackCase:
    """One case.

    Attributes:
        name: What is done to the vehicle.
        expected: What must become of each of its attempts.
        play: Plays it.
    """

    name: str
    expected: tuple[str, ...]
    play: Callable[["Scene"], tuple[str, ...]]


class Scene:
    """A stage with an old release that a vehicle drives and a new one that the channel points at."""

    def __init__(self, folder: Path, now: datetime) -> None:
        """Two releases, one vehicle that has updated to the old one.

        Args:
            folder: New or empty.
            now: The true time: python-tuf looks at the system's clock.
        """
        self.now = now
        self.stage = ReleaseStage(folder, now)
        self.old = self.stage.publish(OLD_MODEL)
        self.stage.point(self.old)
        self.car = self.stage.vehicle()
        self.car.update(now)
        self.car.held = Held(
            committed=ReleaseRef(self.old.release, self.old.counter), floor=self.old.counter
        )
        self.before = self._published()
        self.new = self.stage.publish(NEW_MODEL)
        self.stage.point(self.new)

    @property
    def source(self) -> LyingSource:
        """Of the vehicle."""
        return cast("LyingSource", self.car.source)

    def try_update(self, car: Vehicle | None = None, at: datetime | None = None) -> str:
        """One attempt; "accepted" if the new release is there, byte for byte."""
        return attempt(lambda: (car or self.car).update(at or self.now), self.new, NEW_MODEL)

    def model_path(self, release: SignedRelease) -> str:
        """Where the repository keeps a release's model."""
        target = release.files[MODEL]
        return stored_path(target.path, target.hashes["sha256"])

    def part(self) -> Path:
        """Half of the new model, on the vehicle."""
        digest = self.new.files[MODEL].hashes["sha256"]
        return self.car.folder / "store" / (digest + PART_SUFFIX)

    def _published(self) -> dict[str, bytes]:
        folder = self.stage.repository
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in (folder / "metadata").iterdir()
        }


def attempt(act: Callable[[], tuple[str, bytes]], wanted: SignedRelease, model: bytes) -> str:
    """What became of an update: a word."""
    try:
        got = act()
    except ReleaseRefusedError as error:
        return error.refusal.value
    except RepositoryDownError:
        return "down"
    except ReleaseStoreError:
        return "disk"
    return "accepted" if got == (wanted.release, model) else f"another release: {got[0] or 'none'}"


def flipped_bit(scene: Scene) -> tuple[str, ...]:
    """One bit of the model: it would load and drive plausibly."""
    wrong = bytes([NEW_MODEL[0] ^ 1]) + NEW_MODEL[1:]
    scene.source.lies[scene.model_path(scene.new)] = wrong
    return _and_then_honest(scene)


def truncated(scene: Scene) -> tuple[str, ...]:
    """The model's last byte is missing."""
    scene.source.lies[scene.model_path(scene.new)] = NEW_MODEL[:-1]
    return _and_then_honest(scene)


def endless_model(scene: Scene) -> tuple[str, ...]:
    """More and more bytes after the model."""
    scene.source.lies[scene.model_path(scene.new)] = NEW_MODEL + _ENDLESS
    return _and_then_honest(scene)


def endless_timestamp(scene: Scene) -> tuple[str, ...]:
    """More and more bytes where a few hundred are expected."""
    path = "metadata/timestamp.json"
    scene.source.lies[path] = (scene.stage.repository / path).read_bytes() + _ENDLESS
    return _and_then_honest(scene)


def replayed_timestamp(scene: Scene) -> tuple[str, ...]:
    """The timestamp of before, to a vehicle that has seen the newer one."""
    scene.car.check(scene.now)
    scene.source.lies["metadata/timestamp.json"] = scene.before["metadata/timestamp.json"]
    return _and_then_honest(scene)


def older_snapshot(scene: Scene) -> tuple[str, ...]:
    """The snapshot of before under the new one's name."""
    version = scene.stage.state().snapshot.signed.version
    old = scene.stage.repository / "metadata" / f"{version - 1}.snapshot.json"
    scene.source.lies[f"metadata/{version}.snapshot.json"] = old.read_bytes()
    return _and_then_honest(scene)


def older_targets(scene: Scene) -> tuple[str, ...]:
    """The targets of before under the new ones' name."""
    version = scene.stage.state().targets.signed.version
    old = scene.before[f"metadata/{version - 1}.targets.json"]
    scene.source.lies[f"metadata/{version}.targets.json"] = old
    return _and_then_honest(scene)


def garbage_timestamp(scene: Scene) -> tuple[str, ...]:
    """No JSON at all."""
    scene.source.lies["metadata/timestamp.json"] = b"\0garbage"
    return _and_then_honest(scene)


def frozen(scene: Scene) -> tuple[str, ...]:
    """Nothing newer is let through until it has expired."""
    past = ReleaseStage(scene.stage.folder / "past", scene.now - timedelta(days=2))
    release = past.publish(NEW_MODEL)
    past.point(release)
    car = past.vehicle()
    first = attempt(lambda: car.update(scene.now), release, NEW_MODEL)
    past.now = scene.now
    past.point(release)
    return first, attempt(lambda: car.update(scene.now), release, NEW_MODEL)


def one_of_three_targets_keys(scene: Scene) -> tuple[str, ...]:
    """All online keys and one offline key are stolen."""
    stolen = scene.stage.offline.targets[:1]
    scene.source.lies |= scene.stage.forged_targets(stolen, _add_evil)
    return (scene.try_update(),)


def unknown_keys(scene: Scene) -> tuple[str, ...]:
    """All online keys are stolen, and the attacker makes targets keys of their own."""
    own = generate_offline_keys().targets
    scene.source.lies |= scene.stage.forged_targets(own, _add_evil)
    return (scene.try_update(),)


def one_key_twice(scene: Scene) -> tuple[str, ...]:
    """One stolen offline key signs under two names."""
    stolen = scene.stage.offline.targets[0]
    forged = scene.stage.forged_targets([stolen], _add_evil)
    scene.source.lies |= {
        path: data.replace(b'"signatures":[', b'"signatures":[' + _first_signature(data) + b",")
        if path.endswith("targets.json")
        else data
        for path, data in forged.items()
    }
    return (scene.try_update(),)


def model_by_channels_key(scene: Scene) -> tuple[str, ...]:
    """The stolen key of channels lists a model of its own, and points at it."""
    stage = scene.stage
    content = next_version(stage.state().channels.signed, "channels", stage.lifetimes, scene.now)
    _add_evil(content)
    scene.source.lies |= stage.forged({"channels": sign(content, [stage.online.channels])})
    evil = replace(scene.new, release="r0099-evil", counter=99)
    first = scene.try_update()
    stage.point(evil)
    scene.source.lies.clear()
    return first, scene.try_update(scene.stage.vehicle())


def hash_that_is_a_path(scene: Scene) -> tuple[str, ...]:
    """The stolen key of channels signs a "hash" that leads out of the vehicle's folder, and none at all."""
    stage = scene.stage
    outside = scene.stage.folder / f"outside{PART_SUFFIX}"
    results = []
    for hashes in ({"sha256": "../../outside"}, {"sha512": "0" * 128}):
        content = next_version(
            stage.state().channels.signed, "channels", stage.lifetimes, scene.now
        )
        content.targets[channel_target(CHANNEL)] = TargetFile(5, hashes, channel_target(CHANNEL))
        scene.source.lies = dict(stage.forged({"channels": sign(content, [stage.online.channels])}))
        results.append(scene.try_update(stage.vehicle(source=scene.source)))
    return *results, "written outside" if outside.exists() else "nothing written outside"


def back_below_the_floor(scene: Scene) -> tuple[str, ...]:
    """The stolen key of channels points back at a release that was truly signed."""
    scene.car.held = Held(
        committed=ReleaseRef(scene.new.release, scene.new.counter), floor=scene.new.counter
    )
    scene.stage.point(scene.old)
    return (scene.try_update(),)


def back_below_the_minimum(scene: Scene) -> tuple[str, ...]:
    """The same to a new vehicle, after the offline keys raised the minimum."""
    scene.stage.set_minimum(scene.new.counter)
    scene.stage.point(scene.old)
    first = scene.try_update(scene.stage.vehicle())
    scene.stage.point(scene.new)
    return first, scene.try_update(scene.stage.vehicle())


def lied_counter(scene: Scene) -> tuple[str, ...]:
    """The pointer gives an old release a new counter."""
    scene.stage.point(replace(scene.old, counter=scene.new.counter))
    return (scene.try_update(scene.stage.vehicle()),)


def counter_to_the_skies(scene: Scene) -> tuple[str, ...]:
    """Two stolen targets keys use up all counters, so that no honest release follows."""
    scene.stage.point(scene.stage.publish(b"evil", counter=MAX_COUNTER_STEP + 3))
    return (scene.try_update(),)


def other_fleets_root(scene: Scene) -> tuple[str, ...]:
    """A vehicle that was given another fleet's root."""
    other = ReleaseStage(scene.stage.folder / "other", scene.now)
    return (scene.try_update(scene.stage.vehicle(bootstrap_root=other.bootstrap_root)),)


def rotated_root(scene: Scene) -> tuple[str, ...]:
    """A root key and a targets key are replaced; a vehicle that knows the old ones follows."""
    stage, new = scene.stage, generate_offline_keys()
    old_root, old_targets = stage.offline.root[2], stage.offline.targets[2]
    stage.change_keys(
        [
            ("root", old_root.public_key.keyid, new.root[0]),
            ("targets", old_targets.public_key.keyid, new.targets[0]),
        ],
        stage.online,
        stage.offline.targets[:2],
    )
    return scene.try_update(), scene.try_update(stage.vehicle())


def revoked_targets_key(scene: Scene) -> tuple[str, ...]:
    """A revoked targets key and a valid one are not two."""
    stage, new = scene.stage, generate_offline_keys()
    revoked, valid, other = stage.offline.targets
    stage.change_keys(
        [("targets", revoked.public_key.keyid, new.targets[0])],
        stage.online,
        [valid, other],
    )
    scene.car.check(scene.now)
    scene.source.lies |= stage.forged_targets([revoked, valid], _add_evil)
    first = scene.try_update()
    # The stolen online keys made a newer snapshot than the honest one.
    scene.source.lies.clear()
    recover_from_fast_forward(stage)
    return first, scene.try_update()


def fast_forward(scene: Scene) -> tuple[str, ...]:
    """Stolen online keys raise the versions to the skies; new keys bring the vehicle back."""
    stage = scene.stage
    scene.source.lies |= stage.forged({}, versions_ahead=1_000_000)
    seen = scene.try_update()
    scene.source.lies.clear()
    refused = scene.try_update()
    recover_from_fast_forward(stage)
    return seen, refused, scene.try_update()


def fast_forward_of_channels(scene: Scene) -> tuple[str, ...]:
    """The same with the version of the channels role; its key is replaced too."""
    stage = scene.stage
    content = next_version(stage.state().channels.signed, "channels", stage.lifetimes, scene.now)
    content.version = 1_000_000
    forged = sign(content, [stage.online.channels])
    scene.source.lies |= stage.forged({"channels": forged}, versions_ahead=1_000_000)
    seen = scene.try_update()
    scene.source.lies.clear()
    refused = scene.try_update()
    recover_from_fast_forward(stage)
    return seen, refused, scene.try_update()


def recover_from_fast_forward(stage: ReleaseStage) -> None:
    """The drill: new online keys, put into force by two root keys and two targets keys."""
    old, new = stage.online, generate_online_keys()
    stage.change_keys(
        [(role, getattr(old, role).public_key.keyid, getattr(new, role)) for role in ONLINE_ROLES],
        new,
        stage.offline.targets[1:],
    )


def broken_cache(scene: Scene) -> tuple[str, ...]:
    """What the vehicle keeps of the metadata is damaged."""
    (scene.car.folder / "metadata" / "timestamp.json").write_text("{broken")
    (scene.car.folder / "metadata" / "snapshot.json").write_bytes(b"\0")
    return (scene.try_update(),)


def lost_root(scene: Scene) -> tuple[str, ...]:
    """The vehicle's newest root is gone."""
    (scene.car.folder / "metadata" / "root.json").unlink()
    return (scene.try_update(),)


def damaged_store(scene: Scene) -> tuple[str, ...]:
    """A file that was fetched and verified rots on the disk."""
    first = scene.try_update()
    digest = scene.new.files[MODEL].hashes["sha256"]
    (scene.car.folder / "store" / digest).write_bytes(b"rotten")
    return first, scene.try_update()  # the release's folder gets the sound one too


def path_out_of_the_repository(scene: Scene) -> tuple[str, ...]:
    """A path that leads elsewhere is not read."""
    source = DepotSource(scene.stage.repository)

    def read(path: str) -> Callable[[], tuple[str, bytes]]:
        return lambda: (path, b"".join(source.read(path, 0)))

    paths = ("metadata/../../../etc/hostname", "/etc/hostname", "targets/./x", "targets//x")
    return tuple(attempt(read(path), scene.new, b"") for path in paths)


def link_out_of_the_repository(scene: Scene) -> tuple[str, ...]:
    """A link on the stick leads to another file of the vehicle."""
    model = scene.stage.repository / scene.model_path(scene.new)
    secret = scene.stage.folder / "secret"
    secret.write_bytes(NEW_MODEL)
    model.unlink()
    model.symlink_to(secret)
    return (scene.try_update(),)


def pipe_in_the_repository(scene: Scene) -> tuple[str, ...]:
    """A pipe on the stick, which would never end."""
    model = scene.stage.repository / scene.model_path(scene.new)
    model.unlink()
    os.mkfifo(model)
    return (scene.try_update(),)


def poisoned_part(scene: Scene) -> tuple[str, ...]:
    """Somebody wrote into the half file."""
    scene.part().write_bytes(b"z" * 1000)
    return scene.try_update(), scene.try_update()


def overlong_part(scene: Scene) -> tuple[str, ...]:
    """The half file is longer than the whole."""
    scene.part().write_bytes(NEW_MODEL + b"z")
    return scene.try_update(), scene.try_update()


def cut_link(scene: Scene) -> tuple[str, ...]:
    """The link breaks within the model; no byte of it comes twice."""
    scene.car.check(scene.now)
    scene.source.sent.clear()
    scene.source.cut_after_bytes = 300_001
    first, second = scene.try_update(), scene.try_update()
    twice = scene.source.sent_bytes(MODEL) - len(NEW_MODEL)
    return first, second, f"{twice} bytes twice"


def full_disk(scene: Scene) -> tuple[str, ...]:
    """The disk takes no more in the middle of the model."""
    scene.car.check(scene.now)
    with _files_of_at_most(len(NEW_MODEL) // 2):
        first = scene.try_update()
    left_over = "room given back" if not scene.part().exists() else "half a file is left"
    return first, left_over, scene.try_update()


def little_room(scene: Scene) -> tuple[str, ...]:
    """Less room than the release needs: not begun."""
    scene.car.limits = TransferLimits(reserve_bytes=1 << 60)
    first = scene.try_update()
    begun = "begun" if scene.source.sent_bytes(MODEL) > len(OLD_MODEL) else "not begun"
    scene.car.limits = TransferLimits(reserve_bytes=0)
    return first, begun, scene.try_update()


def absent_repository(scene: Scene) -> tuple[str, ...]:
    """The stick was pulled out."""
    away = scene.stage.folder / "away"
    scene.stage.repository.rename(away)
    first = scene.try_update()
    away.rename(scene.stage.repository)
    return first, scene.try_update()


def slow_repository(scene: Scene) -> tuple[str, ...]:
    """One chunk an hour."""
    hours = count(step=3600)
    scene.car.now_s = lambda: float(next(hours))
    first = scene.try_update()
    scene.car.now_s = lambda: 0.0
    return first, scene.try_update()


def clock_back(scene: Scene) -> tuple[str, ...]:
    """The vehicle's clock is set to where the old metadata still looked fresh."""
    scene.car.check(scene.now)
    return scene.try_update(at=scene.now - timedelta(days=1)), scene.try_update()


def two_updaters(scene: Scene) -> tuple[str, ...]:
    """A second process in the vehicle's folder."""
    with scene.car.updater():
        first = scene.try_update()
    return first, scene.try_update()


CASES: Final = (
    AttackCase("flipped bit in the model", ("altered", "accepted"), flipped_bit),
    AttackCase("truncated model", ("altered", "accepted"), truncated),
    AttackCase("endless model", ("too_long", "accepted"), endless_model),
    AttackCase("endless timestamp", ("too_long", "accepted"), endless_timestamp),
    AttackCase("replayed timestamp", ("replayed", "accepted"), replayed_timestamp),
    AttackCase("older snapshot under a newer name", ("replayed", "accepted"), older_snapshot),
    AttackCase("older targets under a newer name", ("replayed", "accepted"), older_targets),
    AttackCase("garbage instead of a timestamp", ("malformed", "accepted"), garbage_timestamp),
    AttackCase("held back until it has expired", ("expired", "accepted"), frozen),
    AttackCase("online keys and 1 of 3 targets keys", ("unsigned",), one_of_three_targets_keys),
    AttackCase("targets signed by unknown keys", ("unsigned",), unknown_keys),
    AttackCase("one targets key signs twice", ("malformed",), one_key_twice),
    AttackCase(
        "channels key lists a model of its own", ("accepted", "missing"), model_by_channels_key
    ),
    AttackCase(
        "signed hash that is a path",
        ("malformed", "malformed", "nothing written outside"),
        hash_that_is_a_path,
    ),
    AttackCase("pointer back below the floor", ("old_counter",), back_below_the_floor),
    AttackCase(
        "pointer back below the minimum", ("old_counter", "accepted"), back_below_the_minimum
    ),
    AttackCase("pointer with a false counter", ("old_counter",), lied_counter),
    AttackCase("counter to the skies", ("old_counter",), counter_to_the_skies),
    AttackCase("another fleet's root", ("unsigned",), other_fleets_root),
    AttackCase("rotated root and targets keys", ("accepted", "accepted"), rotated_root),
    AttackCase("revoked targets key", ("unsigned", "accepted"), revoked_targets_key),
    AttackCase("fast-forward", ("accepted", "replayed", "accepted"), fast_forward),
    AttackCase(
        "fast-forward of channels",
        ("accepted", "replayed", "accepted"),
        fast_forward_of_channels,
    ),
    AttackCase("broken metadata on the vehicle", ("accepted",), broken_cache),
    AttackCase("lost root on the vehicle", ("accepted",), lost_root),
    AttackCase("rotten model on the vehicle", ("accepted", "accepted"), damaged_store),
    AttackCase("path out of the repository", ("malformed",) * 4, path_out_of_the_repository),
    AttackCase("link out of the repository", ("missing",), link_out_of_the_repository),
    AttackCase("pipe in the repository", ("missing",), pipe_in_the_repository),
    AttackCase("poisoned partial file", ("altered", "accepted"), poisoned_part),
    AttackCase("overlong partial file", ("altered", "accepted"), overlong_part),
    AttackCase("cut link", ("down", "accepted", "0 bytes twice"), cut_link),
    AttackCase("full disk", ("disk", "room given back", "accepted"), full_disk),
    AttackCase("little room", ("disk", "not begun", "accepted"), little_room),
    AttackCase("absent repository", ("down", "accepted"), absent_repository),
    AttackCase("slow repository", ("down", "accepted"), slow_repository),
    AttackCase("clock set back", ("clock", "accepted"), clock_back),
    AttackCase("two updaters in one folder", ("disk", "accepted"), two_updaters),
)


def _and_then_honest(scene: Scene) -> tuple[str, ...]:
    return (scene.try_update(), *_honest(scene))


def _honest(scene: Scene) -> tuple[str, ...]:
    scene.source.lies.clear()
    return (scene.try_update(),)


def _add_evil(content: Targets) -> None:
    path = release_target("r0099-evil", MODEL)
    target = TargetFile.from_data(path, b"evil", ["sha256"])
    target.unrecognized_fields["custom"] = release_entry("r0099-evil", 99)
    content.targets[path] = target


def _first_signature(metadata: bytes) -> bytes:
    start = metadata.index(b'"signatures":[') + len(b'"signatures":[')
    return metadata[start : metadata.index(b"}", start) + 1]


@contextmanager
def _files_of_at_most(length: int) -> Iterator[None]:
    """A disk that is full in the middle of a file; Python ignores the signal that comes with it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
