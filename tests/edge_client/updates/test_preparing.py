"""From a signed repository to the shadow, and what each fault on the way leaves behind."""

import json
import shutil
from datetime import UTC, datetime

import pytest

from convoy_edge_client.errors import ReleaseStoreError
from convoy_edge_client.preflight.preflight_config import PreflightConfig
from convoy_edge_client.releases.updater import release_updater
from convoy_edge_client.updates import states
from convoy_edge_client.updates.preparing import release_folder
from convoy_edge_client.updates.releases_config import ReleasesConfig
from convoy_edge_client.updates.states import State
from convoy_edge_client.updates.update_file import UpdateFile
from convoy_edge_client.updates.updating import Updating
from convoy_protos.release_manifest import Variant
from convoy_server.releases import proposal
from convoy_server.releases.release_keys import OFFLINE_THRESHOLD
from convoy_simulation.releases import small_release
from convoy_simulation.releases.release_stage import ReleaseStage

NOW = datetime.now(UTC)
PREFLIGHT = PreflightConfig(providers=("cpu",), frame_period_ms=1e6, repetitions=3)


class Fleet:
    """A repository with real, tiny releases, and one vehicle with a depot."""

    def __init__(self, folder):
        self.folder = folder
        self.stage = ReleaseStage(folder / "stage", NOW)
        self.car = folder / "car"
        self.car.mkdir()
        (self.car / "root.json").write_bytes(self.stage.bootstrap_root)
        self.config = ReleasesConfig(
            depot=str(self.stage.repository), folder=str(self.car), canary=True
        )
        self.file = UpdateFile(self.car)
        self.process = self.new_process()

    def new_process(self):
        return Updating(self.config, PREFLIGHT, "car-1", lambda: None)

    def publish(self, name, *, seed=0, percent=100, break_model=None):
        made = small_release.model(seed=seed)
        golden = small_release.golden(made)
        content = (break_model or (lambda one: one.SerializeToString()))(made)
        folder = small_release.write_release(
            self.folder / name,
            dict.fromkeys((Variant.FP32, Variant.INT8_CPU), content),
            golden,
            counter=0,
            release_id=name,
        )
        source = proposal.read_source(folder)
        proposal.propose(self.stage.releases, source, NOW, self.stage.lifetimes)
        proposal.countersign(self.stage.releases, self.stage.offline.targets[:OFFLINE_THRESHOLD])
        new = proposal.publish(
            self.stage.releases, self.stage.online, NOW, self.stage.lifetimes
        ).new
        self.stage.point(new, percent=percent)
        return new

    def turn(self):
        return self.process.turn(datetime.now(UTC))


@pytest.fixture
def fleet(tmp_path):
    return Fleet(tmp_path)


def test_a_release_comes_as_far_as_the_shadow(fleet):
    published = fleet.publish("spring")
    record = fleet.turn()
    assert record.state is State.SHADOW
    assert (record.candidate.release, record.candidate.provider) == (published.release, "cpu")
    assert (release_folder(fleet.car, published.release) / "manifest.json").exists()


def test_nothing_new_is_back_at_rest(fleet):
    assert fleet.turn().state is State.IDLE


def test_a_model_that_the_preflight_refuses_is_quarantined_also_under_a_new_name(fleet):
    def nan(made):
        made.graph.initializer[1].raw_data = b"\xff" * len(made.graph.initializer[1].raw_data)
        return made.SerializeToString()

    fleet.publish("spring", break_model=nan)
    record = fleet.turn()
    assert record.state is State.QUARANTINED
    assert "weights" in record.reason
    fleet.publish("spring-again", break_model=nan)
    record = fleet.turn()
    assert record.candidate is None
    assert "under another name" in record.reason
    fleet.publish("summer", seed=1)
    assert fleet.turn().state is State.SHADOW


def test_a_process_killed_while_fetching_goes_on_where_it_was(fleet):
    published = fleet.publish("spring")
    with release_updater(fleet.car, fleet.stage.vehicle().source, fleet.stage.bootstrap_root):
        pass
    fleet.file.step(states.check_begins)
    slot = states.Slot(release=published.release, counter=published.counter, models=())
    fleet.file.step(lambda r: states.download_begins(r, slot))
    assert fleet.new_process().turn(datetime.now(UTC)).state is State.SHADOW


@pytest.mark.parametrize("kills", [1, 2, 3])
def test_a_preflight_that_kills_its_process_three_times_is_not_tried_again(fleet, kills):
    fleet.publish("spring")
    fleet.turn()
    fleet.file.step(lambda r: states.replace(r, state=State.PREFLIGHT))
    for _ in range(kills - 1):
        fleet.file.step(states.preparing_started)
        fleet.file.step(states.preflight_begins)
    record = fleet.new_process().turn(datetime.now(UTC))
    assert bool(record.quarantined) is (kills == 3)
    assert (record.state is State.SHADOW) is (kills < 3)


def test_a_release_withdrawn_in_trial_is_left(fleet):
    published = fleet.publish("spring")
    fleet.turn()
    fleet.file.step(lambda r: states.shadow_passed(r, published.release))
    fleet.file.step(lambda r: states.trial_begins(r, published.release))
    fleet.stage.point(published, withdrawn=(published.release,))
    record = fleet.turn()
    assert (record.state, record.candidate) == (State.ROLLED_BACK, None)


def test_a_percentage_that_goes_down_leaves_a_trial_alone(fleet):
    published = fleet.publish("spring")
    fleet.turn()
    fleet.stage.point(published, percent=0)
    assert fleet.turn().state is State.SHADOW


def test_a_depot_that_is_not_there_costs_nothing(fleet):
    fleet.publish("spring")
    shutil.move(fleet.stage.repository, fleet.folder / "unplugged")
    record = fleet.turn()
    assert record.state is State.IDLE
    assert record.reason
    shutil.move(fleet.folder / "unplugged", fleet.stage.repository)
    assert fleet.turn().state is State.SHADOW


def test_two_processes_on_one_folder_do_not_both_update(fleet):
    with (
        release_updater(fleet.car, fleet.stage.vehicle().source, b""),
        pytest.raises(ReleaseStoreError, match="another process"),
    ):
        fleet.turn()


def test_what_is_committed_and_gone_back_to_is_kept_and_the_rest_is_not(fleet):
    names = []
    for seed in range(3):
        name = fleet.publish(f"release-{seed}", seed=seed).release
        names.append(name)
        fleet.turn()
        for step in (states.shadow_passed, states.trial_begins, states.trial_passed):
            fleet.file.step(lambda r, step=step, name=name: step(r, name))
    fleet.turn()
    kept = {path.name for path in (fleet.car / "releases").iterdir()}
    assert kept == set(names[1:])


def test_the_record_is_readable_json(fleet):
    fleet.publish("spring")
    fleet.turn()
    table = json.loads((fleet.car / "update.json").read_text())
    assert (table["schema"], table["state"]) == ("convoy.update/1", "shadow")
